"""Windows and candidates as tensors on the device of the training: an update asks the host nothing.

The same candidates as `NegativeSampler.candidates` lists, in shapes that do not depend on the
batch: which candidates a row must leave out is said by group (a batch of candidates) or as a fixed
number of columns per row (the whole bank).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lvm.core.device import ids_on
from lvm.data.windows import Windows
from lvm.losses.infonce import PerRow, SameGroup
from lvm.training.negatives import NegativeSampler

MAX_COLUMNS_PER_ROW = 1024  # listed; a bank with more copies of one vector is compared by group


@dataclass(frozen=True, eq=False)
class Batch:
    """What the network and the objective are given for the B local rows of one update."""

    contexts: Float[Tensor, "B T D"]
    targets: Float[Tensor, "B D"]
    raw_candidates: Float[Tensor, "C D"]
    positive: Int[Tensor, " B"]
    excluded: SameGroup | PerRow


class DeviceCandidates:
    """The windows and candidates of a train split on the device of `vectors`.

    `rows` are this worker's rows of a global batch. `half` is the dtype in which the rows of the
    whole bank are kept for the products, or None to keep them as they are.
    """

    def __init__(
        self,
        sampler: NegativeSampler,
        windows: Windows,
        vectors: Float[Tensor, "N D"],
        rows: slice,
        *,
        whole_bank: bool,
        half: torch.dtype | None,
    ) -> None:
        device = vectors.device
        self._sampler, self._vectors, self._rows = sampler, vectors, rows
        groups, forbidden = sampler.same_groups
        self._contexts, self._targets = (
            ids_on(ids, device) for ids in (windows.contexts, windows.targets)
        )
        self._groups, self._forbidden = ids_on(groups, device), ids_on(forbidden, device)
        self._own_columns = torch.arange(rows.start, rows.stop, device=device)
        self._table: Tensor | None = None
        self._bank = _WholeBank(sampler, vectors, half) if whole_bank else None

    def refresh(self) -> None:
        """Take over the negatives that the sampler has drawn for an epoch."""
        if self._bank is not None:
            return
        drawn = ids_on(self._sampler.sampled, self._targets.device)
        if self._table is None:
            self._table = drawn
        else:
            self._table.copy_(drawn)  # a captured update reads this memory

    def of(self, batch: Int[Tensor, " G"]) -> Batch:
        """Return the rows and candidates of a global batch of train windows."""
        local = batch[self._rows]
        targets, forbidden = self._targets[local], self._forbidden[local]
        if self._bank is not None:
            raw = self._bank.rows
            positive = self._bank.column_of[targets]
            excluded = self._bank.excluded(forbidden, positive)
        else:
            if self._table is None:
                raise ValueError("call refresh() before the first epoch")
            ids = torch.cat([self._targets[batch], self._table[batch].flatten()])
            raw, positive = self._vectors[ids], self._own_columns
            excluded = SameGroup(forbidden, self._groups[ids])
        contexts = self._vectors[self._contexts[local]]
        return Batch(contexts, self._vectors[targets], raw, positive, excluded)


class _WholeBank:
    """Every row of the train split's articles as candidates, gathered once."""

    def __init__(
        self, sampler: NegativeSampler, vectors: Float[Tensor, "N D"], half: torch.dtype | None
    ) -> None:
        ids, column_of = sampler.whole_bank
        group = sampler.same_groups[0][ids]
        order = np.argsort(group, kind="stable")
        device = vectors.device
        self.rows = vectors[ids_on(ids, device)]
        if half is not None:
            self.rows = self.rows.to(half)
        self.column_of = ids_on(column_of, device)
        self._groups, self._order = ids_on(group, device), ids_on(order, device)
        self._sorted = ids_on(group[order], device)
        copies = int(np.unique(group, return_counts=True)[1].max())
        self._within = torch.arange(copies, device=device)

    def excluded(
        self, forbidden: Int[Tensor, "B F"], positive: Int[Tensor, " B"]
    ) -> SameGroup | PerRow:
        """Return the columns of the forbidden groups; a place without one holds the positive."""
        copies = len(self._within)
        if copies * forbidden.shape[1] > MAX_COLUMNS_PER_ROW:
            return SameGroup(forbidden, self._groups)
        low = torch.searchsorted(self._sorted, forbidden)
        size = torch.searchsorted(self._sorted, forbidden, right=True) - low
        place = (low[..., None] + self._within).clamp(max=len(self._order) - 1)
        there = self._within < size[..., None]
        columns = torch.where(there, self._order[place], positive[:, None, None])
        return PerRow(columns.flatten(1))
