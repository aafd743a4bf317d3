"""A Mamba-2 layer over a short window as one function of tensors, made to be compiled for a GPU.

The dual form as it is starts about 100 kernels per layer and writes every value between them to
memory. This one has no custom gradient, no view that is written to and no small matrix product:
taps are shifted products, and sums over the L positions are written as sums, which the compiler
unrolls and fuses with what is around them. Run as it is, it is correct and slow.

Norms, scores, step sizes and decays are float32 or wider. Everything of the width of the layer has
the dtype of the matrix products, as in the dual form under autocast: a compiled kernel computes in
float32 all the same, and what it writes to memory, gradients too, is half the bytes in bfloat16.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from lvm.core.compiled import Compiled

LIMIT = 16  # positions: the sums over pairs of them grow with the square


class Weights(NamedTuple):
    """Parameters of one layer, as they are in its state dict."""

    norm: Float[Tensor, " E"]
    in_proj: Float[Tensor, "rows E"]  # z; x, B and C; dt
    taps: Float[Tensor, "mixed 1 K"]
    tap_bias: Float[Tensor, " mixed"]
    dt_bias: Float[Tensor, " H"]
    A_log: Float[Tensor, " H"]
    D: Float[Tensor, " H"]
    gated_norm: Float[Tensor, " inner"]
    out_proj: Float[Tensor, "E inner"]


def short_layer(
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

    `dtype` is that of the matrix products. Equal to the dual form within 1e-5 in float32 and 1e-2
    in bfloat16, with its gradients.
    """
    w = weights
    inner, heads = w.out_proj.shape[1], w.D.shape[0]
    wide = torch.promote_types(dtype, torch.float32)
    normed = _rms_norm(u, w.norm, eps).to(dtype)
    z_weight, mixed_weight, dt_weight = (
        part.to(dtype) for part in torch.split(w.in_proj, [inner, w.taps.shape[0], heads])
    )
    z = F.linear(normed[:, -1:] if last_only else normed, z_weight)
    mixed = _conv(F.linear(normed, mixed_weight), w.taps.to(dtype), w.tap_bias.to(dtype))
    dt = F.softplus(F.linear(normed, dt_weight).to(wide) + w.dt_bias)
    x, B_, C = torch.split(F.silu(mixed), [inner, state, state], dim=-1)
    y = _mix(x.reshape(*x.shape[:2], heads, -1), dt, -torch.exp(w.A_log), B_, C, w.D, last_only)
    gated = _rms_norm(y.flatten(2) * F.silu(z), w.gated_norm, eps).to(dtype)
    update = F.linear(gated, w.out_proj.to(dtype))
    if dropout > 0:
        update = F.dropout(update, dropout)
    return update + (u[:, -1:] if last_only else u)


compiled_layer = Compiled(short_layer)


def _rms_norm(
    values: Float[Tensor, "B rows E"], weight: Float[Tensor, " E"], eps: float
) -> Float[Tensor, "B rows E"]:
    # Two products with `values` as they are: one wide copy for both would be written to memory.
    square = (values * values).mean(-1, keepdim=True, dtype=weight.dtype)
    return values * torch.rsqrt(square + eps) * weight


def _conv(
    x: Float[Tensor, "B L E"], taps: Float[Tensor, "E 1 K"], bias: Float[Tensor, " E"]
) -> Float[Tensor, "B L E"]:
    """Return the causal depthwise convolution along L; the last tap is that of the position."""
    length, count = x.shape[1], taps.shape[2]
    padded = F.pad(x, (0, 0, count - 1, 0))
    output = bias
    for tap in range(count):
        output = output + padded[:, tap : tap + length] * taps[:, 0, tap]
    return output


def _mix(
    x: Float[Tensor, "B L H P"],
    dt: Float[Tensor, "B L H"],
    A: Float[Tensor, " H"],
    B_: Float[Tensor, "B L N"],
    C: Float[Tensor, "B L N"],
    D: Float[Tensor, " H"],
    last_only: bool,
) -> Float[Tensor, "B rows H P"]:
    """Return y_t = sum_(s <= t) (C_t . B_s) exp(a_(s+1) + ... + a_t) dt_s x_s + D x_t, a = dt A."""
    length = x.shape[1]
    first = length - 1 if last_only else 0
    between, earlier, same = _positions(first, length, x.device)
    # Sums of the exponents themselves, not differences of running sums: nothing cancels.
    exponent = ((dt * A)[:, None, None] * between[..., None]).sum(3)  # [B, rows, L, H]
    scores = (C[:, first:, None] * B_[:, None]).sum(-1, keepdim=True, dtype=dt.dtype)
    weights = torch.where(earlier[..., None], exponent.exp() * dt[:, None] * scores, 0.0)
    weights = (weights + same[..., None] * D).to(x.dtype)
    return (weights[..., None] * x[:, None]).sum(2)


def _positions(
    first: int, length: int, device: torch.device
) -> tuple[Bool[Tensor, "rows L L"], Bool[Tensor, "rows L"], Bool[Tensor, "rows L"]]:
    """Return whether s < r <= t by (t, s, r), s <= t and s = t, for t from `first` on."""
    place = torch.arange(length, device=device)
    t, s = place[first:, None], place
    between = (place > s[:, None]) & (place <= t[..., None])
    return between, s <= t, s == t
