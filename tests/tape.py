"""A CUDA graph for machines without a GPU: operations are recorded once and run again as they were.

Like a graph, a replay repeats every operation on the memory that the recording used, whatever
Python would do by now. Recording refuses what a capture refuses: numbers that the host reads, and
results whose size depends on numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

REFUSED = (
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::equal",
    "aten::is_nonzero",
    "aten::repeat_interleave.Tensor",
)


class Tape(TorchDispatchMode):
    """Records what is run in its context."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        names = (func._schema.name, f"{func._schema.name}.{func._schema.overload_name}")
        if any(name in REFUSED for name in names):
            raise RuntimeError(f"{func} cannot be captured")
        out = func(*args, **(kwargs or {}))
        self.entries.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        """Run it all again, each result into the memory of the first one."""
        for func, args, kwargs, out in self.entries:
            pairs = zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True)
            for first, again in pairs:
                if isinstance(first, torch.Tensor) and first.data_ptr() != again.data_ptr():
                    first.detach().copy_(again)


def capture(step: Callable[[], None], stream: object) -> Callable[[], None]:
    """What lvm.training.updates.capture does on a GPU; the recording is the first replay."""
    tape = Tape()
    with tape:
        step()
    ran = [True]

    def replay() -> None:
        if ran:
            ran.clear()
        else:
            tape.replay()

    return replay
