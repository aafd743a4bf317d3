"""A Mamba-2 layer over a short window with Triton kernels between its matrix products.

    norm -> in_proj -> [convolution, SiLU, softplus, decays, L x L mix, D x, gate, norm] -> out_proj

The bracket is one function of tensors with a gradient of its own. It reads what in_proj gives and
writes what out_proj takes, in their dtype; everything between stays in registers as float32, and
the backward pass computes it again. So do the norm in front and the residual stream around it.
"""

from __future__ import annotations

import functools
import importlib.util
import os

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lvm.models.short import Weights
from lvm.models.short_gradients import mix, norm
from lvm.models.short_sizes import Sizes, power_of_two

LIMIT = 8  # positions: unrolled, twice as many keep Triton's compiler busy for minutes
WINDOW_LIMIT = 8192  # inner channels, padded: one program of the forward pass holds a window


@functools.cache
def is_installed() -> bool:
    """Return whether Triton, which comes with a CUDA build of torch, can be found."""
    return importlib.util.find_spec("triton") is not None


def refusal(u: Tensor, weights: Weights, state: int, dtype: torch.dtype) -> str | None:
    """Return why the kernels cannot serve these arguments, or None if they can."""
    heads, inner = weights.D.shape[0], weights.out_proj.shape[1]
    width = inner // heads
    on_cpu = u.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    if not is_installed():
        return "triton is not installed"
    if u.device.type != "cuda" and not on_cpu:
        return f"they do not support the device {u.device.type}"
    if u.shape[1] > LIMIT:
        return f"{u.shape[1]} positions are more than {LIMIT}"
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"{dtype} is not a supported dtype"
    if any(weight.dtype != torch.float32 for weight in weights):
        return "the weights are not float32"
    if width & (width - 1) or state & (state - 1):
        return f"head_dim {width} and state {state} must be powers of two"
    if power_of_two(heads) * width > WINDOW_LIMIT:
        return f"{heads} heads of {width} channels do not fit in one program"
    return None


def kernel_layer(
    u: Float[Tensor, "B L E"],
    weights: Weights,
    *,
    state: int,
    dropout: float,
    eps: float,
    last_only: bool,
    dtype: torch.dtype,
) -> Float[Tensor, "B rows E"]:
    """Return u + block(norm(u)) of all positions, or of the last alone.

    `dtype` is that of the matrix products. Takes what `refusal` finds nothing against, and equals
    `short.short_layer` within 1e-5 in float32 and 1e-2 in bfloat16, with its gradients.
    """
    w, heads = weights, weights.D.shape[0]
    inner, length = w.out_proj.shape[1], u.shape[1]
    first = length - 1 if last_only else 0
    sizes = Sizes(heads, inner // heads, state, length, w.taps.shape[2], first)
    normed, u = norm(u.contiguous(), w.norm, eps, dtype)
    z, in_proj = None, w.in_proj.to(dtype)
    if last_only:  # else one product, whose columns nobody cuts apart
        z_weight, in_proj = torch.split(in_proj, [inner, sizes.mixed + heads])
        z = F.linear(normed[:, -1:], z_weight)
    mixed = mix(
        F.linear(normed, in_proj),
        z,
        w.taps,
        w.tap_bias,
        w.dt_bias,
        w.A_log,
        w.D,
        w.gated_norm,
        sizes,
        eps,
    )
    update = F.linear(mixed, w.out_proj.to(dtype))
    if dropout > 0:
        update = F.dropout(update, dropout)
    return update + (u[:, -1:] if last_only else u)
