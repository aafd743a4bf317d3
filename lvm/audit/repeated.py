"""Windows that a file repeats."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int

from lvm.audit.finding import REPAIR, Seen, Severity
from lvm.audit.material import Material, Side
from lvm.data.rows import digests, key_codes, take

REPEATED_WARN = 0.01  # share of windows that repeat another one
BLOCK_ROWS = 4096
SAMPLED = 4096  # windows of the train side that a quick audit compares


def repeated(side: Side, rows: Int[np.ndarray, " m"]) -> Bool[np.ndarray, " m"]:
    """Say which of the given windows repeat an earlier one: the same contexts and target."""
    codes = np.empty(len(rows), dtype=np.uint64)
    assert side.file is not None
    for start in range(0, len(rows), BLOCK_ROWS):
        part = rows[start : start + BLOCK_ROWS]
        contexts, targets = take(side.file.contexts, part), take(side.file.targets, part)
        whole = np.concatenate([contexts.reshape(len(part), -1), targets], axis=1)
        codes[start : start + len(part)] = digests(whole, np.dtype(np.float32))
    _, first = np.unique(codes, return_index=True)
    again = np.ones(len(rows), dtype=bool)
    again[first] = False
    return again


def suspects(side: Side) -> Int[np.ndarray, " m"]:
    """Return the windows whose key another one has too, without keys all of them."""
    if side.keys is None:
        return np.arange(len(side))
    _, place, counts = np.unique(key_codes(side.keys), return_inverse=True, return_counts=True)
    return np.flatnonzero(counts[place.ravel()] > 1)


def repeated_windows(material: Material) -> Iterator[Seen]:
    """Report files that repeat windows."""
    for side in material.sides:
        if side.file is None:
            continue
        rows = suspects(side)
        share = len(rows) / len(side)
        if share <= REPEATED_WARN or (side.keys is None and material.quick):
            continue
        if material.quick and side.name == "train" and side.keys is not None:
            rows = whole_keys(side, rows)
        again = repeated(side, rows)
        share *= float(again.mean())
        if share <= REPEATED_WARN:
            continue
        times = 1 / (1 - share)
        yield Seen(
            severity=Severity.WARN,
            seen=f"{share:.1%} of {len(side)} {side.name} windows repeat another one: each "
            f"occurs {times:.1f} times on average",
            allowed=f"at most {REPEATED_WARN:.0%}",
            where=side.where(count=round(share * len(side)), of=len(side), rows=rows[again]),
            meaning="Repeated windows count several times in every mean and epoch, but add no "
            "text.",
            next=REPAIR,
            values={"repeated": share, "times": times},
        )


def whole_keys(side: Side, rows: Int[np.ndarray, " m"]) -> Int[np.ndarray, " n"]:
    """Return about SAMPLED of the rows, all of a key or none."""
    assert side.keys is not None
    codes = key_codes(side.keys[rows])
    some = np.unique(codes)
    some = some[:: max(1, len(rows) // SAMPLED)]
    return rows[np.isin(codes, some)]
