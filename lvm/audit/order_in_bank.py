"""Which windows the bank contradicts: across articles, or with contexts in another order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool

from lvm.audit.coherence import Coherence, Level, level
from lvm.audit.finding import Seen, Severity
from lvm.audit.location import Located, unit
from lvm.audit.material import Material
from lvm.audit.padding import padded_by_content
from lvm.data.rows import take

CLEAR = 5.0  # standard errors from which a difference is beyond doubt
BACKWARDS = "Contexts are newest first, so the model reads the text backwards."
CROSSING_BLOCK = 0.01  # share of windows across articles
DISORDER_BLOCK = 0.1  # share of windows whose contexts are out of order
BANK_ROWS, FAR = 4096, 5  # rows of the bank that are followed by their keys, and how far


def profile(side: Coherence) -> str:
    """Say how near each context is to the target."""
    values = side.to_target.mean(axis=0)
    return "cosine with the target from the oldest context on: " + " ".join(
        f"{v:.3f}" for v in values
    )


def crossings(material: Material, side: Coherence) -> Iterator[Seen]:
    """Count windows whose vectors lie in more than one article of the bank."""
    if side.located is None or side.whole.file is None:
        return
    # A target from elsewhere is EVAL_UNPAIRED's to say: contexts alone decide here.
    keys, found = side.located.keys[:, :-1, 0], side.located.found[:, :-1]
    known = found.all(axis=1) & _certain(material, side.located)
    if not known.any():
        return
    crossing = known & (keys != keys[:, :1]).any(axis=1)
    share = float(crossing.sum() / known.sum())
    if share == 0:
        return
    rows = side.rows[crossing]
    yield Seen(
        severity=Severity.BLOCK if share > CROSSING_BLOCK else Severity.WARN,
        seen=f"{int(crossing.sum())} of {int(known.sum())} {side.whole.name} windows span two "
        "articles",
        allowed="0",
        where=side.whole.where(
            count=len(rows),
            of=known.sum(),
            rows=rows,
            articles=np.unique(side.located.keys[crossing, 0, 0]),
        ),
        meaning="These windows ask for the start of one article after the end of another.",
        next="cut the windows article by article",
        values={"share": share},
    )


def _certain(material: Material, located: Located) -> Bool[np.ndarray, " m"]:
    """Which windows have contexts whose places in the bank are certain."""
    return np.asarray(material.held_once(located.places[:, :-1]).all(axis=1))


def out_of_order(material: Material, side: Coherence) -> Iterator[Seen]:
    """Count windows whose contexts, found in the bank, stand in another order than there.

    This needs no target and sees a few windows among many. It says nothing where the bank itself,
    in the order of its keys, does not read as text: then its keys may be what is wrong.
    """
    if side.located is None or side.whole.file is None:
        return
    keys = side.located.keys[:, :-1].astype(np.int64)
    known = side.located.found[:, :-1].all(axis=1) & _certain(material, side.located)
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
    yield Seen(
        severity=Severity.BLOCK if share > DISORDER_BLOCK else Severity.WARN,
        seen=f"{kind}: in {len(rows)} of {int(known.sum())} {side.whole.name} windows the "
        f"contexts are not in the bank's chunk order; {profile(side)}",
        allowed="0, oldest first",
        where=side.whole.where(
            count=len(rows), of=known.sum(), rows=rows, articles=np.unique(side.clusters[wrong])
        ),
        meaning=BACKWARDS
        if kind == "reversed"
        else "Contexts are out of order, so the last one is not the one before the target.",
        next="lvm audit ... --repair OUT cuts these windows again from the bank, in order",
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
    rows = material.sample(len(bank), BANK_ROWS, "audit", "bank order")
    keys = bank.keys[rows].astype(np.int64)
    places = [material.by_key.step(keys, step) for step in (1, FAR)]
    there = (places[0] >= 0) & (places[1] >= 0)
    here, near, far = (unit(take(bank.vectors, r[there])) for r in (rows, *places))
    values = np.einsum("md,md->m", here, near - far)
    good = np.isfinite(values)
    if not good.any():
        return Level(value=0.0, error=1.0, clusters=0)
    return level(values[good], keys[there][good, 0])
