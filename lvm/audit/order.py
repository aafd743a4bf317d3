"""Are chunks in the order of their text, each window within one article, or do they take turns?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from lvm.audit.blame import wrong_bank
from lvm.audit.check import About, check
from lvm.audit.coherence import Coherence, Level, coherence, level
from lvm.audit.finding import NotEvaluable, Seen, Severity
from lvm.audit.material import NUM_NAMED, Material, or_none
from lvm.audit.order_in_bank import BACKWARDS, CLEAR, crossings, out_of_order, profile
from lvm.audit.stored_order import stored_order

ORDER_BLOCK, ORDER_WARN = 0.5, 0.65  # eval over train, of direction relative to lift
ZIGZAG = 0.4  # of what lag 2 shares beyond chance: how far it may lie above lag 1
MERGED_ZIGZAG = 0.5  # of the lift, in one article: neighbours are then of two documents
MIN_MERGED, MERGED_BLOCK = 2, 0.1  # articles, and their share
MERGED = "Two articles were interleaved chunk by chunk, as parallel ingestion can do."
SHUFFLED = (
    "All contexts are equally close to the target: chunks were shuffled within their article, "
    "so the next one cannot be predicted."
)
FLAT = 0.1  # of the lift: text with less direction than this has no order
TURNS = 3.0  # standard errors from which neighbours are of one text after all
SHARED, CHANGES = 0.05, 0.2  # of what lag 2 shares beyond chance; of its distance to lag 1
OWN_LAG = 0.5  # of the lift: how far the target's lag 1 may lie from that of contexts


@check(
    "ORDER_BROKEN",
    "are chunks in text order within each article?",
    About(blocks=True, cause=100),
)
def order_broken(material: Material) -> Iterator[Seen]:
    """Report text without direction, newest first, interleaved, or windows across articles."""
    if not material.sides:
        material.side("eval")
    told, blocked, reasons = False, False, []
    for side in material.sides:
        try:
            found = coherence(material, side.name)
        except NotEvaluable as reason:
            reasons.append(reason)
            continue
        if side.context_length < 2:
            reasons.append(
                NotEvaluable("windows with a single context have no order", "use more contexts")
            )
            continue
        told |= found.lift.z >= CLEAR
        for finding in _side_order(material, found):
            blocked |= finding.severity is Severity.BLOCK
            yield finding
    if not blocked:
        yield from stored_order(material)
    if not told:
        little = "contexts and targets share too little to reveal an order"
        raise (reasons or [NotEvaluable(little, "fix EVAL_UNPAIRED first")])[0]


def _side_order(material: Material, side: Coherence) -> Iterator[Seen]:
    wrong = wrong_bank(material) is not None  # then its keys tell nothing of an order
    disordered = [] if wrong else list(out_of_order(material, side))
    yield from [] if wrong else crossings(material, side)
    yield from disordered
    if disordered:
        return
    is_eval = side.whole.name == "eval"
    zigzag = side.of(side.lag(2) - side.lag(1))
    shared = side.of(side.lag(2) - side.random_pairs).value
    if zigzag.z >= CLEAR and zigzag.value > ZIGZAG * shared > 0:
        if not takes_turns(side) and not (is_eval and train_takes_turns(material)):
            seen = "chunks two apart are more alike than neighbours: lag 1 "
            seen += f"{side.lag(1).mean():.3f}, lag 2 {side.lag(2).mean():.3f}"
            yield _broken(side, "interleaved", seen, MERGED, zigzag)
        return
    yield from _some_interleaved(side)
    if side.lift.z < CLEAR:
        return
    if undirected := _without_direction(side):
        yield undirected
    elif is_eval and material.train is not None:
        yield from _beside_train(material, side)


def _without_direction(side: Coherence) -> Seen | None:
    """Say whether the profile of a side falls towards the target, or does not rise."""
    direction = side.direction
    if direction.z <= -CLEAR and reads_backwards(side):
        return _broken(side, "reversed", profile(side), BACKWARDS, direction)
    if direction.z < 3 and direction.above() < FLAT * side.lift.value and is_flat(side):
        return _broken(side, "shuffled", profile(side), SHUFFLED, direction)
    return None


def _some_interleaved(side: Coherence) -> Iterator[Seen]:
    """Find single articles whose chunks two apart are far more alike than their neighbours."""
    if not side.by_article or side.lift.z < CLEAR:
        return
    values, per_window = side.lag(2) - side.lag(1), side.contexts.shape[1] + 1
    ids, place, sizes = np.unique(side.clusters, return_inverse=True, return_counts=True)
    means = np.bincount(place, weights=values) / sizes
    spread = np.sqrt(np.bincount(place, weights=(values - means[place]) ** 2) / sizes)
    # Windows overlap: T + 1 of them say what one does.
    errors = spread / np.sqrt(np.maximum(1.0, sizes / per_window))
    judged = (sizes >= 2 * per_window) & (ids >= 0)
    merged = judged & (means > MERGED_ZIGZAG * side.lift.value) & (means > CLEAR * errors)
    if int(merged.sum()) < MIN_MERGED or takes_turns(side, merged[place]):
        return
    share = float(merged.sum() / judged.sum())
    found = level(values[merged[place]], side.clusters[merged[place]])
    yield _broken(
        side,
        "interleaved",
        f"in {int(merged.sum())} of {int(judged.sum())} articles chunks two apart are more alike "
        f"than neighbours, by {found.value:.3f}: articles "
        + ", ".join(str(i) for i in ids[merged][:NUM_NAMED]),
        MERGED,
        found,
        Severity.BLOCK if share >= MERGED_BLOCK else Severity.WARN,
    )


def _beside_train(material: Material, eval_: Coherence) -> Iterator[Seen]:
    """Compare the direction of the eval side, relative to its lift, with that of the train side."""
    train = or_none(coherence, material, "train")
    if train is None or min(train.direction.z, train.lift.z) < CLEAR or not fits_itself(train):
        return
    ratio = eval_.direction.over(eval_.lift).over(train.direction.over(train.lift))
    if ratio.above() >= ORDER_WARN:
        return
    severity = Severity.BLOCK if ratio.above() < ORDER_BLOCK else Severity.WARN
    yield _broken(
        eval_,
        "weak",
        f"{profile(eval_)}; direction beside lift is {ratio.value:.0%} of train's",
        "Some eval windows have their chunks out of text order.",
        ratio,
        severity,
    )


def _broken(
    side: Coherence,
    kind: str,
    seen: str,
    meaning: str,
    statistic: Level,
    severity: Severity = Severity.BLOCK,
) -> Seen:
    gap = side.to_target[:, -1] - side.to_target[:, 0]
    rows, articles = side.lowest(gap)
    count = (gap <= 0).sum()
    return Seen(
        severity=severity,
        seen=f"{kind}: {seen}",
        allowed="a profile that rises towards the target, and lags that fall",
        where=side.whole.where(count=count, of=len(side.rows), rows=rows, articles=articles),
        meaning=meaning,
        next=f"sort the chunks of every article of {side.whole.source} by position in the text, "
        "then cut the windows again (lvm embed keeps the order)",
        values={
            "statistic": statistic.value,
            "z": statistic.z,
            "direction": side.direction.value,
            "lift": side.lift.value,
        },
    )


# --- text that takes turns ------------------------------------------------------------------------
#
# A profile need not rise towards the target for its chunks to be in order: speakers alternate, and
# the first field of a record is like the first field of the next. Each file is held to itself here.


def takes_turns(side: Coherence, which: np.ndarray | None = None) -> bool:
    """Say whether chunks two apart are more alike than neighbours because the text takes turns.

    Neighbours of two documents merged chunk by chunk are as unlike as any two chunks, and so are
    those three apart. Where two speakers alternate, neighbours are still of one text; in records
    of five fields chunks three apart are as alike as those two apart. What is left of the longer
    document is plain text: windows that do not zigzag, by other lags, are left out.
    """
    length = side.contexts.shape[1]
    if length < 3:
        return False
    chosen = np.ones(len(side.rows), dtype=bool) if which is None else which
    if length >= 5:
        zigzag = side.lag(2) + side.lag(4) - 2 * side.lag(5)
        usual = float(np.quantile(zigzag[chosen], 0.9))
        if usual <= 0:
            return True
        chosen = chosen & (zigzag > usual / 2)
    chance, clusters = _opposite_phase(side), side.clusters[chosen]
    one, two, three = (side.lag(k)[chosen] for k in (1, 2, 3))
    shared, changes = level(one - chance[chosen], clusters), level(one - three, clusters)
    if shared.z >= TURNS and shared.value > SHARED * float((two - chance[chosen]).mean()):
        return True
    return abs(changes.z) >= TURNS and abs(changes.value) > CHANGES * float((two - one).mean())


def train_takes_turns(material: Material) -> bool:
    """Say so of the train side: the eval side may have too few articles to tell."""
    train = or_none(coherence, material, "train")
    return train is not None and train.contexts.shape[1] >= 3 and takes_turns(train)


def _opposite_phase(side: Coherence) -> Float[np.ndarray, " m"]:
    """Return the cosine of each target with a chunk of another article, an odd number of chunks on.

    Where the same speakers take turns in every article, any two chunks are alike in half the cases.
    """
    other = side.targets[side.partner]
    if side.located is not None:
        ranks = side.located.keys[:, -1, 1] // side.located.unit
        even = (ranks - ranks[side.partner]) % 2 == 0
        other = np.where(even[:, None], side.contexts[side.partner, -1], other)
    return np.asarray(np.einsum("md,md->m", side.targets, other))


def reads_backwards(side: Coherence) -> bool:
    """Say whether the profile of the target fits the lags of contexts better from the other end.

    Contexts alone have the same lags in either direction. In records of five fields the first of
    five contexts is nearest to the target, and still is where it should.
    """
    length = side.contexts.shape[1]
    lags = [
        np.einsum("msd,msd->ms", side.contexts[:, k:], side.contexts[:, :-k]).mean()
        for k in range(1, length)
    ]
    profile = side.to_target.mean(axis=0)
    forward = np.abs(profile[:0:-1] - lags).sum()
    return bool(np.abs(profile[:-1] - lags).sum() < forward)


def is_flat(side: Coherence) -> bool:
    """Say whether no context is clearly nearer to the target than all of them are."""
    beside = side.to_target - side.to_target.mean(axis=1, keepdims=True)
    levels = [side.of(column) for column in beside.T]
    return all(abs(one.value) - 3 * one.error < FLAT * side.lift.value for one in levels)


def fits_itself(side: Coherence) -> bool:
    """Say whether the target is as near to the last context as contexts are to each other."""
    return abs(side.copy_last.value - _neighbours(side)) <= OWN_LAG * side.lift.value


def _neighbours(side: Coherence) -> float:
    first, second = side.contexts[:, :-1], side.contexts[:, 1:]
    return float(np.einsum("msd,msd->ms", first, second).mean())
