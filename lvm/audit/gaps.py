"""Windows that are no run of chunks for an honest reason: gaps in the numbers, padding in front."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int

from lvm.audit.coherence import coherence
from lvm.audit.finding import Seen, Severity
from lvm.audit.material import Material, Side, or_none
from lvm.audit.where import most_frequent

PADDED_SHARE = 0.9  # of windows with zero contexts, that have them in front, at an article's start
LOOKED_AT = 2048
ZERO_LENGTH = 1e-6


def windows_across_gaps(material: Material) -> Iterator[Seen]:
    """Count windows whose chunks follow each other in the bank, with numbers missing between them.

    Chunks that were filtered out before the windows were cut leave such gaps, and no error: the
    windows are runs of what there is. They are a little harder than others, so it is worth knowing.
    """
    for side in material.sides:
        found = or_none(coherence, material, side.name)
        if side.file is None or found is None or found.located is None:
            continue
        located, length = found.located, side.context_length
        one = (located.keys[..., 0] == located.keys[:, :1, 0]).all(axis=1)
        run = located.found.all(axis=1) & one & (np.diff(located.ranks, axis=1) == 1).all(axis=1)
        steps = np.diff(located.keys[..., 1].astype(np.int64), axis=1)
        across = run & (steps != located.unit).any(axis=1)
        if not across.any():
            continue
        rows, of = found.rows[across], int(run.sum())
        articles = most_frequent(located.keys[across, 0, 0])
        yield Seen(
            severity=Severity.INFO,
            seen=f"{len(rows)} of {of} {side.name} windows span a gap in the chunk numbers "
            f"({len(rows) / of:.1%}, {len(articles)} articles)",
            allowed="any number, since every key leads to its vector",
            where=side.where(count=len(rows), of=of, rows=rows, articles=articles),
            meaning=f"Chunks were left out before the windows were cut, so these {length} "
            "contexts and their target are not adjacent in the text.",
            next="restore the missing chunks if these windows should be like the others",
            values={"share": len(rows) / of, "windows": float(len(rows))},
        )


def is_padding(material: Material, side: Side, rows: Int[np.ndarray, " n"]) -> bool:
    """Say whether the windows with zero contexts are the first ones of articles, padded in front.

    An encoder that failed leaves zeros anywhere, and the same chunk is zero in every window that
    holds it.
    """
    if len(rows) == 0:
        return False
    rows = rows[np.linspace(0, len(rows) - 1, min(LOOKED_AT, len(rows))).astype(int)]
    zero = np.linalg.norm(side.contexts(rows), axis=2) <= ZERO_LENGTH
    count = zero.sum(axis=1)
    front = (zero == (np.arange(side.context_length) < count[:, None])).all(axis=1)
    if side.keys is not None and material.bank is not None:
        before = side.context_length - count  # chunks of the article before the target
        for left in np.unique(before):
            mine = np.flatnonzero(before == left)
            keys = side.keys[rows[mine]].astype(np.int64)
            front[mine] &= material.by_key.step(keys, -int(left) - 1) < 0
    return float(front.mean()) >= PADDED_SHARE
