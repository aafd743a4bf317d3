"""The workers of one training: who am I, how many are we, sum a tensor over us.

Everything else that workers share is an index into the same bank, so it needs no communication.
Ray Train, `torch.multiprocessing` or nobody starts the process group; this module only uses it, and
is the only one that does, besides DistributedDataParallel.

nccl serves GPU tensors alone, and a group of GPUs hangs when two workers bring tensors of one GPU.
So a world knows the device of its training and refuses tensors of any other, in a world of one too:
a mistake shows on the first machine that it runs on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor, nn

from lvm.core.device import CPU


@dataclass(frozen=True)
class World:
    """Rank of this worker among `size` workers, and the device that it trains on."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @classmethod
    def current(cls, device: torch.device = CPU) -> World:
        """Return the world of the default process group, or a world of one."""
        if not torch.distributed.is_available() or not torch.distributed.is_initialized():
            return cls(device=device)
        rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        return cls(rank, size, device)

    def slice(self, global_size: int) -> slice:
        """Return this worker's rows of a global batch of `global_size` rows."""
        per_worker = global_size // self.size
        return slice(self.rank * per_worker, (self.rank + 1) * per_worker)

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of `tensor` over the workers; ValueError if it is on another device."""
        self._require_own(tensor)
        if self.size > 1:
            tensor = tensor.clone()
            torch.distributed.all_reduce(tensor)
        return tensor

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows of all workers in order; only this worker's own carry a gradient.

        Raises ValueError if they are on another device.
        """
        self._require_own(rows)
        parts = [torch.empty_like(rows) for _ in range(self.size)]
        torch.distributed.all_gather(parts, rows.detach().contiguous())
        parts[self.rank] = rows
        return torch.cat(parts)

    def over_global_batch(self, loss: Callable[..., Tensor], *rows: Tensor) -> Tensor:
        """Return `loss` of the rows of all workers, with the gradient of this worker's share of it.

        Each worker differentiates by its own rows alone, so nothing is communicated in the backward
        pass, besides DDP's own reductions. DDP averages over workers where this gradient must be
        summed: hence the factor on the gradient, and none on the value.
        """
        if self.size == 1:
            return loss(*rows)
        value = loss(*(self.gather(part) for part in rows))
        return value.detach() + self.size * (value - value.detach())

    def barrier(self) -> None:
        """Wait for all workers."""
        if self.size > 1:
            torch.distributed.barrier(device_ids=self._device_ids)

    def share(self, module: nn.Module) -> nn.Module:
        """Return a module whose gradients are the mean over the workers.

        Every parameter that requires a gradient has to get one in every backward pass. (Where DDP
        looks for those that do not, it copies what the module returns, and a loss of one copy has
        no gradient for another: a term balanced by gradients was 40 times too small.) Raises
        ValueError if a parameter is on another device.
        """
        for parameter in module.parameters():
            self._require_own(parameter)
        if self.size == 1:
            return module
        return nn.parallel.DistributedDataParallel(module, device_ids=self._device_ids)

    @property
    def _device_ids(self) -> list[int] | None:
        """Index of the GPU as torch.distributed wants it: None on a CPU."""
        return None if self.device.type == "cpu" else [self.device.index]

    def _require_own(self, tensor: Tensor) -> None:
        if tensor.device != self.device:
            raise ValueError(
                f"a collective got a tensor on {tensor.device}, but the training is on "
                f"{self.device}"
            )
