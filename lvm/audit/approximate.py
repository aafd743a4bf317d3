"""Does an approximate index lose answers that an exact search would find?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from lvm.audit.check import About, check
from lvm.audit.finding import NotEvaluable, Seen
from lvm.audit.location import unit
from lvm.audit.material import Material
from lvm.audit.queries import Queries, queries
from lvm.audit.retrieval import QUERIES, search
from lvm.audit.where import where_found
from lvm.core.errors import DataError, MissingExtraError
from lvm.data.bank import Bank
from lvm.data.rows import blocks, take
from lvm.data.windows import Windows
from lvm.evaluation.evaluate import ann_loss
from lvm.evaluation.index import Index, build_index

BUILT = 50_000  # rows up to which an approximate index is built here: k-means takes seconds
LOST, LOST_QUERIES = 0.02, 5  # share of answers, and their number


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
