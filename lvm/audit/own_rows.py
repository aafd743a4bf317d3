"""Are contexts the vectors that the bank holds for their chunks?

Targets that lie in the bank say which chunks come before them. A context that is in the bank
nowhere, and yet stands where one of its rows should, is either other text or the same text in
another form: another encoder, a prefix such as "query: ", an added or removed mean. The cosines of
contexts among themselves tell which: they agree with those of the rows only for the same text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lvm.audit.coherence import coherence
from lvm.audit.finding import REPAIR, Seen, Severity
from lvm.audit.location import same_from, unit
from lvm.audit.material import Material, or_none
from lvm.data.rows import take

MIN_CONTEXTS = 50
WARN, BLOCK = 0.02, 0.2  # share of contexts that are not the rows of their chunks
SAME_TEXT = 0.5  # correlation of cosines, of contexts with those of rows


@dataclass(frozen=True, kw_only=True)
class OwnRows:
    """How the contexts of a side lie to the bank rows of their chunks."""

    share: float  # contexts that are another vector than their row, and in the bank nowhere
    cosine: float  # of these with their rows, the median
    same_text: float  # correlation of cosines among these with cosines among their rows
    windows: list[int]  # with such a context
    looked_at: int


def contexts_elsewhere(material: Material) -> Iterator[Seen]:
    """Report sides whose contexts are another form of the bank's vectors than their targets."""
    found = {
        side.name: own
        for side in material.sides
        if side.file is not None and (own := own_rows(material, side.name)) is not None
    }
    other = {n: o for n, o in found.items() if o.share >= WARN and o.same_text >= SAME_TEXT}
    for name, own in other.items():
        both = " of train and eval alike" if len(other) == len(found) > 1 else ""
        yield Seen(
            severity=Severity.BLOCK if own.share >= BLOCK else Severity.WARN,
            seen=f"{own.share:.1%} of the contexts of {name} differ from the bank's vectors for "
            f"their chunks (median cosine {own.cosine:.3f}), while the targets match",
            allowed=f"at most {WARN:.0%} ({BLOCK:.0%} blocks) below a cosine of "
            f"{same_from(material):.4g}",
            where=material.side(name).where(
                count=len(own.windows), of=own.looked_at, rows=own.windows
            )
            | {"part": "contexts"},
            meaning=f"The contexts{both} have the right text, but are in a different space from "
            "targets and bank: another encoder, a prefix, or a mean that was added or "
            "subtracted. The keys are right.",
            next=f"embed contexts and targets with the same settings, or let {REPAIR} cut the "
            "contexts from the bank",
            values={"share": own.share, "cosine": own.cosine, "same_text": own.same_text},
        )


def own_rows(material: Material, name: str) -> OwnRows | None:
    """Compare the contexts of a side with the bank rows before their target; None without any."""
    side = or_none(coherence, material, name)
    if side is None or side.located is None:
        return None
    bank, located, length = material.pool, side.located, side.contexts.shape[1]
    keys = located.keys[:, -1:].astype(np.int64) - np.stack(
        [np.zeros(length, dtype=np.int64), np.arange(length, 0, -1)], axis=1
    )
    rows = material.by_key.find(keys.reshape(-1, 2)).reshape(-1, length)
    judged = (rows >= 0) & located.found[:, -1:]
    if int(judged.sum()) < MIN_CONTEXTS:
        return None
    odd = judged & ~located.found[:, :-1]
    if not odd.any():
        return OwnRows(share=0.0, cosine=1.0, same_text=1.0, windows=[], looked_at=len(rows))
    mine, theirs = side.contexts[odd], unit(take(bank.vectors, rows[odd]))
    cosine = np.einsum("md,md->m", mine, theirs)
    other = cosine < same_from(material)
    return OwnRows(
        share=float(other.sum() / judged.sum()),
        cosine=float(np.median(cosine[other])) if other.any() else 1.0,
        same_text=_agreement(mine, theirs),
        windows=side.rows[odd.any(axis=1)].tolist(),
        looked_at=int(judged.any(axis=1).sum()),
    )


def _agreement(mine: Float[np.ndarray, "m D"], theirs: Float[np.ndarray, "m D"]) -> float:
    """Return the correlation of cosines of neighbours in the list, in both forms of the text."""
    if len(mine) < MIN_CONTEXTS:
        return 1.0
    # Neighbours and far ones: within an article and beyond it, cosines differ most.
    pairs = [(mine[:-k], mine[k:], theirs[:-k], theirs[k:]) for k in (1, len(mine) // 2)]
    cosines = [(np.einsum("md,md->m", a, b), np.einsum("md,md->m", c, d)) for a, b, c, d in pairs]
    x, y = (np.concatenate(values) for values in zip(*cosines, strict=True))
    if min(x.std(), y.std()) < 1e-6:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])
