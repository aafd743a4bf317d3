"""Are the ids of an index those of the bank, and does it find what an exact search would find?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from lvm.audit.check import About, check
from lvm.audit.finding import NotEvaluable, Seen
from lvm.audit.keys import ALLOWED_SHARE
from lvm.audit.location import unit
from lvm.audit.material import Ids, Material, where_found
from lvm.audit.queries import Queries, queries
from lvm.audit.retrieval import QUERIES, search
from lvm.core.errors import DataError, MissingExtraError
from lvm.data.bank import Bank
from lvm.data.rows import blocks, take
from lvm.data.windows import Windows
from lvm.evaluation.evaluate import ann_loss
from lvm.evaluation.index import Index, build_index

INDEX_QUERIES = 256
BUILT = 50_000  # rows up to which an approximate index is built here: k-means takes seconds
LOST, LOST_QUERIES = 0.02, 5  # share of answers, and their number


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
    seen = f"{share:.1%} of bank rows retrieve themselves; the index holds {index.size} rows, "
    seen += f"the bank {pool}" + (f"; ids are off by {often:+d}" if rolled else "")
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


class BlockIndex(Index):
    """Exact search that reads a mapped bank block by block, in the space of the search."""

    def __init__(self, bank: Bank, given: Queries) -> None:
        super().__init__(len(bank.pool_rows), bank.width)
        self._vectors, self._given = bank.vectors[: self.size], given

    def _nearest(self, queries: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores = torch.full((len(queries), k), -torch.inf)
        ids = torch.full((len(queries), k), -1)
        for start, rows in blocks(self._vectors):
            vectors = np.nan_to_num(unit(np.asarray(rows, dtype=np.float32)))
            vectors = np.nan_to_num(self._given.documents(vectors, self._given.space))
            both = torch.cat([scores, queries @ torch.from_numpy(vectors).T], dim=1)
            places = torch.arange(start, start + len(rows)).expand(len(queries), -1)
            scores, best = both.topk(k, dim=1)
            ids = torch.cat([ids, places], dim=1).gather(1, best)
        return ids.numpy(), scores.numpy()


@check(
    "ANN_LOSS",
    "does the approximate index miss targets?",
    About(
        of_model=True,
        thorough=True,
        for_arms="the index misses targets, so every arm is judged by exact search",
    ),
)
def index_loss(material: Material) -> Iterator[Seen]:
    """Compare exact and approximate Contain@50 on the model's own queries.

    The index is the person's own, over the rows of the bank in the space of the search, or the one
    that a search of this bank would build.
    """
    given, bank = queries(material), material.pool
    approximate, name = _approximate(material, given)
    found = search(material, QUERIES, pool=0)  # only for its queries
    windows = Windows(
        np.where(found.windows.contexts >= 0, found.rows[found.windows.contexts], -1),
        found.rows[found.windows.targets],
        found.windows.articles,
    )
    exact = BlockIndex(bank, given)
    try:
        lost = ann_loss(found.asked(given.space), exact, approximate, windows)
    except DataError as error:  # an index whose process ended over a search
        raise NotEvaluable(str(error), "fix what INDEX_MISMATCH names") from None
    difference = lost["difference"]
    if difference <= LOST or difference * len(windows) < LOST_QUERIES:
        return
    yield Seen(
        seen=f"Contain@50 {lost['contain_at_50_exact']:.3f} by exact search and "
        f"{lost['contain_at_50_approximate']:.3f} by {name}, on the model's own queries",
        allowed=f"a loss of at most {LOST}",
        where=where_found(given.source, count=round(difference * len(windows)), of=len(windows)),
        meaning="The index, not the model, misses the target. Queries taken from the bank find "
        "themselves and hide this.",
        next="raise nprobe or use the exact index, then evaluate again; no training is needed",
        values=dict(lost),
    )


def _approximate(material: Material, given: Queries) -> tuple[Index, str]:
    bank, index = material.pool, material.index
    size = len(bank.pool_rows)
    if index is not None:
        if not index.is_trained or (index.size, index.width) != (size, bank.width):
            raise NotEvaluable(
                f"the index has {index.size} rows of width {index.width}, but the pool has "
                f"{size} of width {bank.width}",
                "fix what INDEX_MISMATCH names",
            )
        return index, "the given index"
    if size > BUILT:
        raise NotEvaluable(
            f"no index was given, and {size} rows are too many to build one here (limit {BUILT})",
            "give the index that you use (--index)",
        )
    vectors = given.documents(np.nan_to_num(unit(take(bank.vectors, bank.pool_rows))), given.space)
    try:
        return build_index(torch.from_numpy(np.nan_to_num(vectors)), "ivf"), "IVF with nprobe 64"
    except MissingExtraError as missing:
        raise NotEvaluable(str(missing), "pip install faiss-cpu, or give --index") from None
