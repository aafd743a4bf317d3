"""The workers of one training: who am I, how many are we, sum a tensor over us.

Everything else that workers share is an index into the same bank, so it needs no communication.
Ray Train, `torch.multiprocessing` or nobody starts the process group; this module only uses it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor


@dataclass(frozen=True)
class World:
    """Rank of this worker among `size` workers."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> World:
        """Return the world of the default process group, or a world of one."""
        if not torch.distributed.is_available() or not torch.distributed.is_initialized():
            return cls()
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())

    def slice(self, global_size: int) -> slice:
        """Return this worker's rows of a global batch of `global_size` rows."""
        per_worker = global_size // self.size
        return slice(self.rank * per_worker, (self.rank + 1) * per_worker)

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of `tensor` over the workers."""
        if self.size > 1:
            tensor = tensor.clone()
            torch.distributed.all_reduce(tensor)
        return tensor

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows of all workers in order; only this worker's own carry a gradient."""
        parts = [torch.empty_like(rows) for _ in range(self.size)]
        torch.distributed.all_gather(parts, rows.detach().contiguous())
        parts[self.rank] = rows
        return torch.cat(parts)

    def barrier(self) -> None:
        """Wait for all workers."""
        if self.size > 1:
            torch.distributed.barrier()
