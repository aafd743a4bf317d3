"""Places of targets and contexts in a large pool, in one pass over its rows.

Says the same as `lvm.evaluation.metrics.target_ranks` (a test holds them together), but reads the
pool block by block, so that a bank of several GB that is mapped from disk never lies in memory.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from lvm.audit.location import unit_or_zero
from lvm.data.bank import Bank
from lvm.data.rows import blocks, take
from lvm.data.windows import Windows
from lvm.evaluation.metrics import Ranks, own_groups

EQUAL = 2e-6  # cosines of float32 vectors that differ by less are the same: sums vary in order
_QUERIES = 512  # with a block of the pool, scores that stay near the processor


@dataclass(frozen=True, eq=False)
class Placed:
    """Where the targets of M queries stand, and whether an own context comes first."""

    raw: Ranks
    masked: Ranks  # own contexts and their copies do not count
    context_first: Bool[np.ndarray, " M"]  # rank 1 of all rows is an own context, or its copy

    def part(self, queries: slice) -> Placed:
        """Return some of the queries."""
        return Placed(
            _part(self.raw, queries), _part(self.masked, queries), self.context_first[queries]
        )


@dataclass(frozen=True, eq=False)
class PoolRows:
    """The rows of a bank that may be retrieved, as unit vectors; a row that is no vector is 0.

    Copies have one score: that of the first of them.
    """

    bank: Bank
    group: Int[np.ndarray, " N"]  # for every row of the bank, its first copy

    def __len__(self) -> int:
        return len(self.bank.pool_rows)

    @functools.cached_property
    def _sizes(self) -> Int[np.ndarray, " N"]:
        """How many rows of the pool have each row of the bank as their first copy."""
        return np.bincount(self.group[: len(self)], minlength=len(self.bank))

    def place(self, queries: Float[np.ndarray, "M D"], windows: Windows) -> Placed:
        """Rank the targets of M windows, whose ids are rows of the bank.

        A query that is not finite ranks its target last.
        """
        target = self.group[windows.targets]
        own = own_groups(self.group, windows.contexts, len(self))
        like_target = own == target[:, None]
        to_target = _scores(queries, self._vectors(target[:, None]))[:, 0]
        to_own = _scores(queries, self._vectors(np.maximum(own, 0)))
        rivals = (own >= 0) & ~like_target
        to_rival = np.where(rivals, to_own, -np.inf).max(axis=1, initial=-np.inf)
        aims = np.column_stack([to_target, to_rival]) + EQUAL
        above = self._count_above(queries, aims)
        num_own = np.where(own < 0, 0, self._sizes[own] - like_target)
        own_above = (num_own * (to_own > aims[:, :1])).sum(axis=1)
        equal = self._sizes[target] - 1
        everything = np.full(len(target), len(self))
        return Placed(
            raw=Ranks(above[:, 0], equal, everything),
            masked=Ranks(
                np.maximum(above[:, 0] - own_above, 0),
                equal - (num_own * like_target).sum(axis=1),
                everything - num_own.sum(axis=1),
            ),
            context_first=rivals.any(axis=1) & (above[:, 1] == 0),
        )

    def _vectors(self, rows: Int[np.ndarray, "M T"]) -> Float[np.ndarray, "M T D"]:
        return unit_or_zero(take(self.bank.vectors, rows))

    def _table(self, start: int, rows: np.ndarray) -> Float[np.ndarray, "n D"]:
        """Return a block of the pool in which every copy is as the first one is."""
        table, first = np.array(rows, dtype=np.float32), self.group[start : start + len(rows)]
        copies = np.flatnonzero(first != np.arange(start, start + len(rows)))
        table[copies] = take(self.bank.vectors, first[copies])
        return unit_or_zero(table)

    def _count_above(
        self, queries: Float[np.ndarray, "M D"], aims: Float[np.ndarray, "M A"]
    ) -> Int[np.ndarray, "M A"]:
        """Count the rows of the pool that score above each aim; all where it is not finite."""
        asked, aim = torch.from_numpy(np.nan_to_num(queries)), torch.from_numpy(aims).float()
        counts = torch.zeros(aim.shape, dtype=torch.int64)
        for first, rows in blocks(self.bank.vectors[: len(self)]):
            table = torch.from_numpy(self._table(first, rows)).T
            for start in range(0, len(asked), _QUERIES):
                part = slice(start, start + _QUERIES)
                _add_above(counts[part], asked[part] @ table, aim[part])
        return np.where(np.isfinite(aims), counts.numpy(), len(self))


def _add_above(
    counts: Int[torch.Tensor, "B A"], scores: Float[torch.Tensor, "B n"], aim: torch.Tensor
) -> None:
    for column in range(aim.shape[1]):
        sought = aim[:, column].isfinite()  # often all of them, or few
        some = scores if sought.all() else scores[sought]
        over = some > aim[sought, column, None]
        # Bytes are summed several times faster than booleans.
        counts[sought, column] += over.view(torch.uint8).sum(dim=1, dtype=torch.int32)


def _scores(
    queries: Float[np.ndarray, "M D"], rows: Float[np.ndarray, "M T D"]
) -> Float[np.ndarray, "M T"]:
    scores: np.ndarray = np.einsum("md,mtd->mt", queries, rows)
    return np.where(np.isfinite(scores), scores, -np.inf)


def _part(ranks: Ranks, queries: slice) -> Ranks:
    return Ranks(ranks.greater[queries], ranks.equal[queries], ranks.candidates[queries])
