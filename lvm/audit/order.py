"""Are chunks in the order of their text, each window within one article?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lvm.audit.blame import wrong_bank
from lvm.audit.check import About, check
from lvm.audit.coherence import Coherence, Level, coherence, level
from lvm.audit.finding import NUM_NAMED, Finding, NotEvaluable, Severity, where_found
from lvm.audit.location import unit
from lvm.audit.material import Material
from lvm.audit.padding import padded_by_content
from lvm.audit.stored_order import stored_order
from lvm.audit.turns import (
    FLAT,
    fits_itself,
    is_flat,
    reads_backwards,
    takes_turns,
    train_takes_turns,
)
from lvm.data.rows import take
from lvm.randomness import numpy_generator

CLEAR = 5.0  # standard errors from which a difference is beyond doubt
ORDER_BLOCK, ORDER_WARN = 0.5, 0.65  # eval over train, of direction beside lift
ZIGZAG = 0.4  # of what lag 2 shares beyond chance: how far it may lie above lag 1
MERGED_ZIGZAG = 0.5  # of the lift, in one article: neighbours are then of two documents
MIN_MERGED, MERGED_BLOCK = 2, 0.1  # articles, and their share
MERGED = "Two documents were merged chunk by chunk, as ingestion in parallel does."
CROSSING_BLOCK = 0.01  # share of windows across articles
DISORDER_BLOCK = 0.1  # share of windows whose contexts are out of order
BANK_ROWS, FAR = 4096, 5  # rows of the bank that are followed by their keys, and how far


@check(
    "ORDER_BROKEN",
    "do chunks stand in the order of their text, within one article?",
    About(blocks=True, cause=100),
)
def order_broken(material: Material) -> Iterator[Finding]:
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
                NotEvaluable("windows of one context have no order", "use more contexts")
            )
            continue
        told |= found.lift.z >= CLEAR
        for finding in _side_order(material, side.name, found):
            blocked |= finding.severity is Severity.BLOCK
            yield finding
    if not blocked:
        yield from stored_order(material)
    if not told:
        raise (reasons or [_no_lift()])[0]


def _no_lift() -> NotEvaluable:
    return NotEvaluable(
        "contexts and targets have nothing in common that an order could show in",
        "mend EVAL_UNPAIRED first",
    )


def _side_order(material: Material, name: str, side: Coherence) -> Iterator[Finding]:
    wrong = wrong_bank(material) is not None  # then its keys tell nothing of an order
    disordered = [] if wrong else list(_out_of_order(material, name, side))
    yield from [] if wrong else _crossings(material, name, side)
    yield from disordered
    if disordered:
        return
    lift, direction = side.lift, side.direction
    if side.contexts.shape[1] >= 2:
        zigzag = side.of(side.lag(2) - side.lag(1))
        shared = side.of(side.lag(2) - side.random_pairs).value
        if zigzag.z >= CLEAR and zigzag.value > ZIGZAG * shared > 0:
            if takes_turns(side) or (name == "eval" and train_takes_turns(material)):
                return
            yield _broken(
                material,
                name,
                side,
                "interleaved",
                f"chunks two apart are more alike than neighbours: lag 1 "
                f"{side.lag(1).mean():.3f}, lag 2 {side.lag(2).mean():.3f}",
                MERGED,
                zigzag,
            )
            return
        yield from _some_interleaved(material, name, side)
    if lift.z < CLEAR:
        return
    if direction.z <= -CLEAR and reads_backwards(side):
        yield _broken(
            material,
            name,
            side,
            "reversed",
            _profile(side),
            "Contexts stand newest first, so the model reads the text backwards.",
            direction,
        )
        return
    flat = direction.z < 3 and direction.above() < FLAT * lift.value
    if flat and is_flat(side):
        yield _broken(
            material,
            name,
            side,
            "shuffled",
            _profile(side),
            "Every context is as near to the target as any other: chunks were shuffled within "
            "their article, and no next one can be predicted.",
            direction,
        )
        return
    if name == "eval" and material.train is not None:
        yield from _beside_train(material, side)


def _some_interleaved(material: Material, name: str, side: Coherence) -> Iterator[Finding]:
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
        material,
        name,
        side,
        "interleaved",
        f"in {int(merged.sum())} of {int(judged.sum())} articles chunks two apart are more alike "
        f"than neighbours, by {found.value:.3f}: articles "
        + ", ".join(str(i) for i in ids[merged][:NUM_NAMED]),
        MERGED,
        found,
        Severity.BLOCK if share >= MERGED_BLOCK else Severity.WARN,
    )


def _beside_train(material: Material, eval_: Coherence) -> Iterator[Finding]:
    """Hold the direction of the eval side, beside its lift, against that of the train side."""
    try:
        train = coherence(material, "train")
    except NotEvaluable:
        return
    if min(train.direction.z, train.lift.z) < CLEAR or not fits_itself(train):
        return
    ratio = eval_.direction.over(eval_.lift).over(train.direction.over(train.lift))
    if ratio.above() >= ORDER_WARN:
        return
    severity = Severity.BLOCK if ratio.above() < ORDER_BLOCK else Severity.WARN
    yield _broken(
        material,
        "eval",
        eval_,
        "weak",
        f"{_profile(eval_)}; direction beside lift is {ratio.value:.0%} of train's",
        "Part of the eval windows has its chunks in another order than the text.",
        ratio,
        severity,
    )


def _profile(side: Coherence) -> str:
    values = side.to_target.mean(axis=0)
    return "cosine with the target from the oldest context on: " + " ".join(
        f"{v:.3f}" for v in values
    )


def _broken(
    material: Material,
    name: str,
    side: Coherence,
    kind: str,
    seen: str,
    meaning: str,
    statistic: Level,
    severity: Severity = Severity.BLOCK,
) -> Finding:
    gap = side.to_target[:, -1] - side.to_target[:, 0]
    rows, articles = side.lowest(gap)
    where = where_found(
        name,
        material.side(name).source,
        count=(gap <= 0).sum(),
        of=len(side.rows),
        rows=rows,
        articles=articles,
    )
    source = material.side(name).source
    return Finding(
        code="ORDER_BROKEN",
        severity=severity,
        seen=f"{kind}: {seen}",
        allowed="a profile that rises towards the target, lags that fall",
        where=where,
        meaning=meaning,
        next=f"sort the chunks of every article of {source} by their place in the text, then cut "
        "the windows again (lvm embed keeps the order)",
        values={
            "statistic": statistic.value,
            "z": statistic.z,
            "direction": side.direction.value,
            "lift": side.lift.value,
        },
    )


def _crossings(material: Material, name: str, side: Coherence) -> Iterator[Finding]:
    """Count windows whose vectors lie in more than one article of the bank."""
    if side.located is None or material.side(name).file is None:
        return
    # A target from elsewhere is EVAL_UNPAIRED's to say: contexts alone decide here.
    keys, found = side.located.keys[:, :-1, 0], side.located.found[:, :-1]
    known = found.all(axis=1) & _once(material, side)
    if not known.any():
        return
    crossing = known & (keys != keys[:, :1]).any(axis=1)
    share = float(crossing.sum() / known.sum())
    if share == 0:
        return
    rows = side.rows[crossing]
    yield Finding(
        code="ORDER_BROKEN",
        severity=Severity.BLOCK if share > CROSSING_BLOCK else Severity.WARN,
        seen=f"{int(crossing.sum())} of {int(known.sum())} {name} windows reach across articles",
        allowed="0",
        where=where_found(
            name,
            material.side(name).source,
            count=len(rows),
            of=known.sum(),
            rows=rows,
            articles=np.unique(side.located.keys[crossing, 0, 0]),
        ),
        meaning="These windows ask for the beginning of one article after the end of another.",
        next="cut the windows article by article",
        values={"share": share},
    )


def _once(material: Material, side: Coherence) -> np.ndarray:
    """Which windows consist of vectors that the bank holds once, so that their place is certain."""
    places = side.located.places[:, :-1] if side.located is not None else np.empty((0, 1), int)
    return np.asarray((material.content.copies[np.maximum(places, 0)] == 1).all(axis=1))


def _out_of_order(material: Material, name: str, side: Coherence) -> Iterator[Finding]:
    """Count windows whose contexts, found in the bank, stand in another order than there.

    This needs no target and sees a few windows among many. It says nothing where the bank itself,
    in the order of its keys, does not read as text: then its keys may be what is wrong.
    """
    if side.located is None or material.side(name).file is None:
        return
    keys = side.located.keys[:, :-1].astype(np.int64)
    known = side.located.found[:, :-1].all(axis=1) & _once(material, side)
    known &= (keys[..., 0] == keys[:, :1, 0]).all(axis=1) & ~padded_by_content(material, side)
    if not known.any():
        return
    steps = np.diff(side.located.ranks[:, :-1], axis=1)
    wrong = known & (steps <= 0).any(axis=1)
    share = float(wrong.sum() / known.sum())
    if share == 0 or bank_direction(material).z < CLEAR:
        return
    backwards = float((steps[wrong] < 0).all(axis=1).mean())
    kind = "reversed" if backwards > 0.9 else "shuffled"
    rows = side.rows[wrong]
    yield Finding(
        code="ORDER_BROKEN",
        severity=Severity.BLOCK if share > DISORDER_BLOCK else Severity.WARN,
        seen=f"{kind}: in {len(rows)} of {int(known.sum())} {name} windows the contexts do not "
        f"stand in the order of the bank's chunks; {_profile(side)}",
        allowed="0, oldest first",
        where=where_found(
            name,
            material.side(name).source,
            count=len(rows),
            of=known.sum(),
            rows=rows,
            articles=np.unique(side.clusters[wrong]),
        ),
        meaning="Contexts stand newest first, so the model reads the text backwards."
        if kind == "reversed"
        else "Contexts are out of order, so the last one is not the one before the target.",
        next="lvm audit ... --repair OUT cuts these windows again from the bank, in its order",
        values={
            "share": share,
            "backwards": backwards,
            "direction": side.direction.value,
            "lift": side.lift.value,
        },
    )


def bank_direction(material: Material) -> Level:
    """Return how much nearer the next chunk is than the fifth one, in the order of bank keys."""
    bank = material.pool
    generator = numpy_generator(material.seed, "audit", "bank order")
    rows = np.sort(generator.choice(len(bank), min(len(bank), BANK_ROWS), replace=False))
    keys = bank.keys[rows].astype(np.int64)
    places = [material.by_key.step(keys, step) for step in (1, FAR)]
    there = (places[0] >= 0) & (places[1] >= 0)
    here, near, far = (unit(take(bank.vectors, r[there])) for r in (rows, *places))
    values = np.einsum("md,md->m", here, near - far)
    good = np.isfinite(values)
    if not good.any():
        return Level(value=0.0, error=1.0, clusters=0)
    return level(values[good], keys[there][good, 0])
