"""Sizes of a Mamba-2 layer over a short window, and of the grids of its kernels."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch


class Sizes(NamedTuple):
    """The letters of lvm/models/ssd.py; `first` is the first position that is read."""

    H: int
    P: int
    N: int
    L: int
    K: int
    first: int

    @property
    def inner(self) -> int:
        """Channels of x."""
        return self.H * self.P

    @property
    def mixed(self) -> int:
        """Channels of x, B and C."""
        return self.inner + 2 * self.N

    @property
    def pairs(self) -> int:
        """Pairs of positions s <= t."""
        return self.L * (self.L + 1) // 2


def power_of_two(count: int) -> int:
    """Return the least power of two that is not below `count`."""
    return 1 << (count - 1).bit_length()


def cuts_of(count: int, size: int) -> int:
    """Return how many pieces of `size` hold `count`."""
    return -(-count // size)


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 2
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def num_programs(device: torch.device, each: int, most: int, cuts: int = 1) -> int:
    """Return how many programs share the work of a kernel that keeps sums.

    As many as fill the device with `each` per multiprocessor, `cuts` of them side by side.
    """
    return max(1, min(most, each * _multiprocessors(device) // cuts))
