"""The door to mamba_ssm: its fused state-space kernel, on CUDA only.

The package's own __init__ loads a compiled extension that Mamba-2 does not need and that fails to
load on many machines. Only the module with the Mamba-2 kernel is imported, with its parent package
represented by its folder while that import runs.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lvm.core.errors import ConfigError, MissingExtraError

CHUNK = 64  # positions that the kernel handles as one tile
NEEDED = ("mamba_ssm", "triton", "einops", "packaging")


def is_installed() -> bool:
    """Return whether mamba_ssm and what its kernel imports can be found; imports nothing."""
    return all(importlib.util.find_spec(name) is not None for name in NEEDED)


def require(device: torch.device) -> None:
    """Raise ConfigError off CUDA, MissingExtraError without mamba_ssm or what it imports."""
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(name, "gpu", "model.backend = mamba_ssm")
    if device.type != "cuda":
        raise ConfigError(f"model.backend = 'mamba_ssm' needs CUDA (got {device}); use 'auto'.")


def scan(
    x: Float[Tensor, "B L H P"],
    dt: Float[Tensor, "B L H"],
    A: Float[Tensor, " H"],
    B_: Float[Tensor, "B L G N"],
    C: Float[Tensor, "B L G N"],
    D: Float[Tensor, " H"],
) -> Float[Tensor, "B L H P"]:
    """Return the same y as ssd.ssd_dual, computed by the package's kernel.

    Short windows are laid end to end in rows of up to 64 positions, 12 windows of 5 for instance:
    the kernel works on tiles of 64 and would leave most of a tile empty. `seq_idx` tells it where
    one window ends.
    """
    length = x.shape[1]
    per_row = max(1, CHUNK // length)
    rows = [pack(t, per_row) for t in (x, dt, B_, C)]
    sequence = window_of_position(len(rows[0]), per_row, length, x.device)
    y = kernel()(rows[0], rows[1], A, rows[2], rows[3], chunk_size=CHUNK, D=D, seq_idx=sequence)
    return cast(Tensor, y).reshape(-1, *x.shape[1:])[: len(x)]


def pack(values: Float[Tensor, "B L *rest"], per_row: int) -> Float[Tensor, "R W *rest"]:
    """Lay windows [B, L, ...] end to end, `per_row` to a row; the last row is filled with zeros."""
    padding = -len(values) % per_row
    filled = F.pad(values, [0, 0] * (values.ndim - 1) + [0, padding])
    return filled.reshape(-1, per_row * values.shape[1], *values.shape[2:])


def window_of_position(
    num_rows: int, per_row: int, length: int, device: torch.device
) -> Int[Tensor, "R W"]:
    """Return, for each position of the packed rows, the number of its window within the row."""
    numbers = torch.arange(per_row, dtype=torch.int32, device=device).repeat_interleave(length)
    return numbers.expand(num_rows, -1).contiguous()


@functools.cache
def kernel() -> Callable[..., object]:
    """Return mamba_chunk_scan_combined; MissingExtraError when the package is absent."""
    spec = importlib.util.find_spec("mamba_ssm")
    if spec is None or spec.submodule_search_locations is None:
        raise MissingExtraError("mamba_ssm", "gpu", "model.backend = mamba_ssm")
    # Triton multiplies float32 as TF32 unless told otherwise, three digits short of our tolerance.
    os.environ.setdefault("TRITON_F32_DEFAULT", "ieee")
    stand_in = "mamba_ssm" not in sys.modules
    if stand_in:
        package = types.ModuleType("mamba_ssm")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["mamba_ssm"] = package
    try:
        module = importlib.import_module("mamba_ssm.ops.triton.ssd_combined")
    finally:
        if stand_in:  # a later `import mamba_ssm` by anybody must get the real package
            del sys.modules["mamba_ssm"]
    return cast(Callable[..., object], module.mamba_chunk_scan_combined)
