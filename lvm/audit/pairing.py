"""Do contexts and their target come from one text, and is the target what follows them?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from lvm.audit.blame import wrong_bank
from lvm.audit.check import About, check
from lvm.audit.coherence import (
    MIN_CLUSTERS,
    Coherence,
    Level,
    coherence,
    level,
)
from lvm.audit.finding import REPAIR, NotEvaluable, Seen, Severity
from lvm.audit.material import Material, most_frequent

PAIRED_BLOCK, PAIRED_WARN = 0.5, 0.75  # eval over train, of what neighbours share beyond chance
CLEAR = 5.0  # standard errors from which a relation is beyond doubt
ELSEWHERE_WARN, ELSEWHERE_BLOCK = 0.02, 0.2  # of windows whose target is of another article
SHIFTED_WARN, SHIFTED_BLOCK = 0.02, 0.2  # of windows whose target is one and the same step away
LAST_IS_TARGET = 0.99  # of the way from any two chunks to one: cosine of last context and target


@check(
    "EVAL_UNPAIRED", "do contexts and target come from the same text?", About(blocks=True, cause=80)
)
def eval_unpaired(material: Material) -> Iterator[Seen]:
    """Hold the coherence of each side against train's, or against what a linear map finds."""
    train = coherence(material, "train") if material.train is not None else None
    eval_ = coherence(material, "eval") if material.eval is not None else None
    if train is None and eval_ is None:
        material.side("eval")
    if train is not None and train.lift.z >= CLEAR:
        # Means of a file whose own targets are in part of other text are no measure for the other.
        lifts = [side.lift for side in (train, eval_) if side is not None]
        # The greater one: overwritten targets lower that of one of them.
        best = max(lifts, key=lambda lift: lift.value)
        yield from list(_from_elsewhere(material, train, best))
        if eval_ is not None:
            yield from _against_train(material, eval_, train)
        return
    yield from _by_linear_map(eval_, train)


def _against_train(material: Material, eval_: Coherence, train: Coherence) -> Iterator[Seen]:
    worst = lift = eval_.lift.over(train.lift)
    if train.near.z >= CLEAR and (eval_.lift.z < CLEAR or lift.above() < PAIRED_BLOCK):
        # While the mean of the contexts fits, a poor last one means order, not pairing.
        worst = min(eval_.near.over(train.near), lift, key=lambda ratio: ratio.value)
    if worst.above() < PAIRED_BLOCK:
        yield _unpaired(eval_, worst, Severity.BLOCK, train)
        return
    counted = list(_from_elsewhere(material, eval_, train.lift))
    yield from counted
    if counted:
        return
    if worst.above() < PAIRED_WARN:
        yield _unpaired(eval_, worst, Severity.WARN, train)
    elif worst.below() < PAIRED_BLOCK and eval_.lift.z < CLEAR:
        raise NotEvaluable(
            f"{eval_.lift.clusters} eval articles are too few to tell: the similarity of "
            f"neighbours is {worst.value:.2f} of train's, give or take {3 * worst.error:.2f}",
            "give eval windows from more articles",
        )


def _from_elsewhere(material: Material, side: Coherence, usual: Level) -> Iterator[Seen]:
    """Count windows whose target lies in another article of the bank than their contexts.

    Means see unrelated targets when they are the half of all; counting sees one in fifty. The text
    must agree: where such targets fit their contexts, it is the bank's keys that are wrong. A
    target in the row after the last context reaches across articles: ORDER_BROKEN says that.
    """
    if side.located is None or wrong_bank(material) is not None:
        return
    keys, places = side.located.keys[..., 0], side.located.places
    known = (side.located.found & material.held_once(places)).all(axis=1)
    known &= (keys[:, :-1] == keys[:, :1]).all(axis=1)
    odd = known & (keys[:, -1] != keys[:, 0]) & (places[:, -1] != places[:, -2] + 1)
    share = float(odd.sum() / max(1, known.sum()))
    if share < ELSEWHERE_WARN or int(odd.sum()) < MIN_CLUSTERS:
        return
    lift = level((side.paired - side.shuffled)[odd], keys[odd, 0])
    if lift.above() >= PAIRED_WARN * usual.value:
        return
    rows = side.rows[odd]
    yield Seen(
        severity=Severity.BLOCK if share >= ELSEWHERE_BLOCK else Severity.WARN,
        seen=f"{int(odd.sum())} of {int(known.sum())} targets come from a different article "
        f"than their contexts ({share:.1%}); these have a similarity of {lift.value:.3f} "
        f"beyond chance, a sound file has {usual.value:.3f}",
        allowed=f"at most {ELSEWHERE_WARN:.0%} ({ELSEWHERE_BLOCK:.0%} blocks)",
        where=side.whole.where(
            count=len(rows), of=known.sum(), rows=rows, articles=most_frequent(keys[odd, 0])
        ),
        meaning="These windows ask for unrelated text, so part of every score is a guess."
        if side.whole.name == "eval"
        else "The model learns to answer these contexts with unrelated text.",
        next=REPAIR,
        values={"share": share, "lift": lift.value},
    )


def _unpaired(
    side: Coherence, ratio: Level, severity: Severity, train: Coherence | None = None
) -> Seen:
    paired, shuffled = side.of(side.paired), side.of(side.shuffled)
    beside = ""
    if train is not None:
        beside = f"; copy-last {side.copy_last.value:.3f} (train {train.copy_last.value:.3f}); "
        beside += f"beyond chance {ratio.value:.0%} of train's"
    gap = side.paired - side.shuffled
    rows, articles = side.lowest(gap)
    low = gap < (gap.mean() + 2 * gap.std() if ratio.value < 0.2 else 0)
    return Seen(
        severity=severity,
        seen=f"cosine of the mean context with its own target {paired.value:.3f}, with another "
        f"article's {shuffled.value:.3f}{beside}",
        allowed=f"at least {PAIRED_BLOCK:.0%} of train's ({PAIRED_WARN:.0%} without a warning)",
        where=side.whole.where(count=low.sum(), of=len(side.rows), rows=rows, articles=articles),
        meaning="Contexts and targets are unrelated text, so any model scores like a guess here."
        if severity is Severity.BLOCK
        else "Contexts and targets are less related than in training: some rows are mixed up, "
        "or this text is less coherent.",
        next=REPAIR,
        values={
            "ratio": ratio.value,
            "paired": paired.value,
            "shuffled": shuffled.value,
            "copy_last": side.copy_last.value,
            "lift_z": side.lift.z,
        },
    )


# --- where neighbours are not alike: a linear map -------------------------------------------------


def _by_linear_map(eval_: Coherence | None, train: Coherence | None) -> Iterator[Seen]:
    """Judge sides whose neighbours are no more alike than any two chunks.

    Text coheres; a sequence of other things (or a text behind a rotation per step) need not, and
    may still be predictable: a linear map from the last context is fitted to half the train
    articles and must find the targets of the other half, and those of the eval side.
    """
    if train is None:
        raise NotEvaluable(
            "the eval text is not coherent, and there is no train side to compare with",
            "give --train",
        )
    weights, held = _fit_map(train)
    own = _map_lift(weights, train, held)
    nothing = Level(value=0.0, error=0.0, clusters=1)
    if own.z < CLEAR:
        yield _unpaired(train, nothing, Severity.BLOCK)
    if eval_ is None:
        return
    found = _map_lift(weights, eval_, np.ones(len(eval_.rows), dtype=bool))
    if own.z < CLEAR:
        if max(eval_.lift.z, found.z) < CLEAR:
            yield _unpaired(eval_, nothing, Severity.BLOCK)
    elif (ratio := found.over(own)).above() < PAIRED_BLOCK:
        yield _unpaired(eval_, ratio, Severity.BLOCK, train)


def _fit_map(train: Coherence) -> tuple[Float[np.ndarray, "D D"], np.ndarray]:
    """Return a ridge map from the last context to the target, and which windows it has not seen."""
    articles = np.unique(train.clusters)
    held = np.isin(train.clusters, articles[::2])
    x, y = (part[~held].astype(np.float64) for part in (train.contexts[:, -1], train.targets))
    normal = x.T @ x
    normal[np.diag_indices_from(normal)] += 0.1 * np.trace(normal) / len(normal)
    return np.linalg.solve(normal, x.T @ y).astype(np.float32), held


def _map_lift(weights: np.ndarray, side: Coherence, which: np.ndarray) -> Level:
    """Return how much better mapped contexts fit their own target than that of another article."""
    mapped = side.contexts[:, -1] @ weights
    mapped /= np.maximum(np.linalg.norm(mapped, axis=1, keepdims=True), 1e-12)
    own = np.einsum("md,md->m", mapped, side.targets)
    other = np.einsum("md,md->m", mapped, side.targets[side.partner])
    return level((own - other)[which], side.clusters[which])


@check(
    "TARGET_SHIFTED",
    "is the target the chunk that follows the contexts?",
    About(blocks=True, cause=110),
)
def target_shifted(material: Material) -> Iterator[Seen]:
    """Find where the last context and the target lie in the bank, and how far apart."""
    if not material.sides:
        material.side("eval")
    told, reasons = False, []
    for side in material.sides:
        try:
            yield from _side_shifted(material, coherence(material, side.name))
            told = True
        except NotEvaluable as reason:
            reasons.append(reason)
    if not told:
        raise reasons[0]


def _side_shifted(material: Material, side: Coherence) -> Iterator[Seen]:
    # Where all vectors are alike, any two have a cosine of .99.
    random = max(0.0, side.of(side.random_pairs).value)
    limit = random + LAST_IS_TARGET * (1 - random)
    if side.copy_last.value > limit:
        share = float((side.to_target[:, -1] > limit).mean())
        yield _shifted(side, 0, share)
        return
    if wrong_bank(material) is not None:
        raise NotEvaluable("the keys of the bank are wrong", "fix KEYS_WRONG first")
    steps, share = place_of_target(side)
    if share >= SHIFTED_WARN:
        yield _shifted(side, steps, share)


def place_of_target(side: Coherence) -> tuple[int, float]:
    """Return how many chunks after the newest context most misplaced targets lie, and their share.

    Only windows count whose contexts and target lie in one article of the bank. Contexts may stand
    in any order: that is ORDER_BROKEN's to say, and must not hide where the target is. Raises
    NotEvaluable when next to no vector is found there.
    """
    located = side.located
    if located is None:
        raise NotEvaluable("there is no bank to find the windows in", "give --payload")
    articles, contexts = located.keys[..., 0], np.sort(located.ranks[:, :-1], axis=1)
    one = (articles[:, :-1] == articles[:, :1]).all(axis=1)
    both = located.found.all(axis=1) & one & (np.diff(contexts, axis=1) == 1).all(axis=1)
    if float(both.mean()) < 0.05:
        raise NotEvaluable(
            "almost no window is a run of consecutive bank chunks",
            "fix what the other findings name first",
        )
    same = both & (articles[:, -1] == articles[:, 0])
    ahead: Int[np.ndarray, " m"] = (located.ranks[:, -1] - contexts[:, -1])[same]
    values, counts = np.unique(ahead[ahead != 1], return_counts=True)
    if len(values) == 0:
        return 1, 0.0
    return int(values[counts.argmax()]), float(counts.max() / both.sum())


def _shifted(side: Coherence, steps: int, share: float) -> Seen:
    what = {0: "the last context itself", 2: "the chunk after the next one"}.get(
        steps, f"{abs(steps)} chunks {'after' if steps > 0 else 'before'} the last context"
    )
    return Seen(
        severity=Severity.BLOCK if share >= SHIFTED_BLOCK else Severity.WARN,
        seen=f"in {share:.0%} of {side.whole.name} windows the target is {what}; "
        f"cosine of the last context with the target {side.copy_last.value:.3f}",
        allowed="the chunk after the last context",
        where=side.whole.where(count=round(share * len(side.rows)), of=len(side.rows)),
        meaning="The model is asked for a chunk other than the next one.",
        next=REPAIR,
        values={"steps": float(steps), "share": share, "copy_last": side.copy_last.value},
    )
