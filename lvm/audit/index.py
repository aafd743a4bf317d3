"""Are the ids of a given index those of the bank?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from lvm.audit.check import About, check
from lvm.audit.finding import NotEvaluable, Seen
from lvm.audit.keys import ALLOWED_SHARE
from lvm.audit.location import unit
from lvm.audit.material import Material
from lvm.audit.where import Ids, where_found
from lvm.core.errors import DataError
from lvm.data.bank import Bank
from lvm.evaluation.index import Index

INDEX_QUERIES = 256


@check("INDEX_MISMATCH", "do the index ids match the bank rows?", About(blocks=True, cause=70))
def index_mismatch(material: Material) -> Iterator[Seen]:
    """Query the index with bank rows: each must find itself."""
    bank, index = material.pool, material.index
    if index is None:
        raise NotEvaluable(
            "no index was given; lvm builds its own from the bank, row by row",
            "give --index I.faiss or --index I.npy to have yours checked",
        )
    pool = len(bank.pool_rows)
    if unusable := _unusable(index, bank.width):
        seen = f"the index {unusable}; the bank holds {pool} rows of width {bank.width}"
        values = {"rows": float(index.size), "width": float(index.width)}
        yield _mismatch(bank, seen, values, count=pool, of=pool)
    else:
        yield from _by_search(bank, index)


def _by_search(bank: Bank, index: Index) -> Iterator[Seen]:
    """Look for rows of the bank, each of which is its own nearest one."""
    import torch

    pool = len(bank.pool_rows)
    ids = np.unique(np.linspace(0, min(pool, index.size) - 1, INDEX_QUERIES).astype(int))
    queries = unit(bank.rows(ids))
    good = np.isfinite(queries).all(axis=1)
    ids, queries = ids[good], queries[good]
    try:
        found, _ = index.search(torch.from_numpy(queries), 1)
    except DataError as error:  # its process ended over it
        yield _mismatch(bank, f"a search fails: {error}", {}, count=len(ids), of=len(ids))
        return
    group = bank.duplicate_group  # a row may find its copy
    inside = (found[:, 0] >= 0) & (found[:, 0] < len(bank))
    hit = inside & (group[np.where(inside, found[:, 0], 0)] == group[ids])
    share = float(hit.mean())
    misses = ids[~hit]
    if share >= ALLOWED_SHARE and index.size == pool:
        return
    steps, counts = np.unique(found[inside & ~hit, 0] - ids[inside & ~hit], return_counts=True)
    often = int(steps[counts.argmax()]) if len(steps) else 0
    rolled = len(steps) > 0 and counts.max() > 0.9 * max(1, len(misses))
    seen = (
        f"{share:.1%} of bank rows retrieve themselves; the index holds {index.size} rows, "
        "the bank "
    )
    seen += f"{pool}" + (f"; ids are off by {often:+d}" if rolled else "")
    values = {"share": share, "shift": float(often)}
    yield _mismatch(bank, seen, values, count=len(misses), of=len(ids), rows=misses)


def _unusable(index: Index, width: int) -> str:
    """Return why an index cannot be searched for rows of a width at all."""
    if not index.is_trained:
        return "is not trained"
    if index.size == 0:
        return "is empty"
    return f"has width {index.width}" if index.width != width else ""


def _mismatch(
    bank: Bank, seen: str, values: Mapping[str, float], count: int, of: int, rows: Ids | None = None
) -> Seen:
    return Seen(
        seen=seen,
        allowed=f"{ALLOWED_SHARE:.0%} of bank rows retrieve themselves, and the index has as "
        "many rows as the bank",
        where=where_found("index", count=count, of=of, rows=rows),
        meaning="The search returns ids of other rows, so hits count as misses and misses as hits.",
        next=f"rebuild the index from {bank.source}, in row order",
        values=values,
    )
