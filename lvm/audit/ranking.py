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
from lvm.evaluation.metrics import Ranks

EQUAL = 2e-6  # cosines of float32 vectors that differ by less are the same: sums vary in order
_QUERIES = 512  # with a block of the pool, scores that stay near the processor


@dataclass(frozen=True, eq=False)
class Placed:
    """Where the targets of M queries stand, and whether an own context stands first."""

    raw: Ranks
    masked: Ranks  # own contexts do not count
    context_first: Bool[np.ndarray, " M"]  # rank 1 is an own context, or an equal row where masked

    def part(self, queries: slice) -> Placed:
        """Return some of the queries."""
        return Placed(
            _part(self.raw, queries), _part(self.masked, queries), self.context_first[queries]
        )


@dataclass(frozen=True, eq=False)
class PoolRows:
    """The rows of a bank that may be retrieved, as unit vectors; a row that is no vector is 0."""

    bank: Bank
    group: Int[np.ndarray, " N"]  # for every row of the bank, the first one equal to it

    def __len__(self) -> int:
        return len(self.bank.pool_rows)

    @functools.cached_property
    def _copies(self) -> Int[np.ndarray, " N"]:
        """How many rows of the pool equal each row of the bank."""
        counts = np.bincount(self.group[: len(self)], minlength=len(self.bank))
        return np.asarray(counts[self.group])

    def place(self, queries: Float[np.ndarray, "M D"], windows: Windows, *, masked: bool) -> Placed:
        """Rank the targets of M windows; `masked` says what rank 1 is taken over.

        `windows` are row ids of the bank. A query that is not finite ranks its target last.
        """
        targets, contexts = windows.targets, windows.contexts
        to_target = _scores(queries, self._vectors(targets[:, None]))[:, 0]
        to_context = _scores(queries, self._vectors(contexts))
        own = self._own(windows)
        like_target = self.group[contexts] == self.group[targets][:, None]
        rivals = own & ~like_target
        if masked:
            rivals &= self._has_other_copy(contexts, own)
        to_rival = np.where(rivals, to_context, -np.inf).max(axis=1)
        aims = np.column_stack([to_target, to_rival]) + EQUAL
        above = self._count_above(queries, aims)
        own_above = own[:, :, None] & (to_context[:, :, None] > aims[:, None, :])
        above_masked = np.maximum(above - own_above.sum(axis=1), 0)
        equal = np.maximum(self._copies[targets] - 1, 0)
        everything = np.full(len(targets), len(self))
        return Placed(
            raw=Ranks(above[:, 0], equal, everything),
            masked=Ranks(
                above_masked[:, 0],
                np.maximum(equal - (own & like_target).sum(axis=1), 0),
                everything - own.sum(axis=1),
            ),
            context_first=rivals.any(axis=1) & ((above_masked if masked else above)[:, 1] == 0),
        )

    def _vectors(self, rows: Int[np.ndarray, "M T"]) -> Float[np.ndarray, "M T D"]:
        return unit_or_zero(take(self.bank.vectors, rows))

    def _own(self, windows: Windows) -> Bool[np.ndarray, "M T"]:
        """Which contexts are rows of the pool that a mask takes out, each row once."""
        contexts = windows.contexts
        earlier = np.tril(np.ones((contexts.shape[1],) * 2, dtype=bool), -1)
        repeated = ((contexts[:, :, None] == contexts[:, None, :]) & earlier).any(axis=2)
        other = contexts != windows.targets[:, None]
        return np.asarray((contexts < len(self)) & other & ~repeated)

    def _has_other_copy(
        self, contexts: Int[np.ndarray, "M T"], own: Bool[np.ndarray, "M T"]
    ) -> Bool[np.ndarray, "M T"]:
        """Which contexts equal a row of the pool that is not among the own contexts."""
        group = self.group[contexts]
        same = (group[:, :, None] == group[:, None, :]) & own[:, None, :]
        return np.asarray(self._copies[contexts] > same.sum(axis=2))

    def _count_above(
        self, queries: Float[np.ndarray, "M D"], aims: Float[np.ndarray, "M A"]
    ) -> Int[np.ndarray, "M A"]:
        """Count the rows of the pool that score above each aim; all where it is not finite."""
        asked, aim = torch.from_numpy(np.nan_to_num(queries)), torch.from_numpy(aims).float()
        counts = torch.zeros(aim.shape, dtype=torch.int64)
        for _, rows in blocks(self.bank.vectors[: len(self)]):
            table = torch.from_numpy(unit_or_zero(np.asarray(rows, dtype=np.float32))).T
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
