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
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lvm.models.short import Weights

LIMIT = 8  # positions: unrolled, twice as many keep Triton's compiler busy for minutes
WINDOW_LIMIT = 8192  # inner channels, padded: one program of the forward pass holds a window


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How kernels are started: warps per program, and what a program takes at a time."""

    forward_warps: int = 8
    backward_warps: int = 1
    backward_heads: int = 2  # per program
    backward_registers: int | None = 168  # per thread: 12 programs of a warp share a processor
    backward_programs: int = 12  # per multiprocessor
    score_warps: int = 1
    score_windows: int = 1
    score_programs: int = 8
    norm_warps: int = 4
    norm_rows: int = 4
    norm_programs: int = 3


launch = Launch()


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
        return f"there are none for the device {u.device.type}"
    if u.shape[1] > LIMIT:
        return f"{u.shape[1]} positions are more than {LIMIT}"
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"{dtype} is not one of their dtypes"
    if any(weight.dtype != torch.float32 for weight in weights):
        return "the weights are not float32"
    if width & (width - 1) or state & (state - 1):
        return f"head_dim {width} and state {state} have to be powers of two"
    if _power(heads) * width > WINDOW_LIMIT:
        return f"{heads} heads of {width} channels are more than one program can hold"
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
    normed, u = cast(Any, _Norm.apply)(u.contiguous(), w.norm, eps, dtype)
    z, in_proj = None, w.in_proj.to(dtype)
    if last_only:  # else one product, whose columns nobody cuts apart
        z_weight, in_proj = torch.split(in_proj, [inner, sizes.mixed + heads])
        z = F.linear(normed[:, -1:], z_weight)
    mix = cast(Any, _Mix.apply)(
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
    update = F.linear(mix, w.out_proj.to(dtype))
    if dropout > 0:
        update = F.dropout(update, dropout)
    return update + (u[:, -1:] if last_only else u)


class _Norm(torch.autograd.Function):
    """RMSNorm in the dtype of the products, and the residual stream as it was.

    Both gradients meet here, in one kernel, instead of being written and added afterwards.
    """

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        normed = torch.empty_like(u, dtype=dtype)
        scale = u.new_empty(u.shape[:2], dtype=torch.float32)
        count, width, rows = scale.numel(), u.shape[2], launch.norm_rows
        _small().norm_forward[(_cuts(count, rows),)](
            u,
            weight,
            normed,
            scale,
            count,
            eps,
            WIDTH=width,
            PAD=_power(width),
            ROWS=rows,
            num_warps=launch.norm_warps,
        )
        ctx.save_for_backward(u, weight, scale)
        ctx.set_materialize_grads(False)
        return normed, u.view_as(u)

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, passed: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        u, weight, scale = ctx.saved_tensors
        if grad is None:
            return passed, None, None, None
        count, width, rows = scale.numel(), u.shape[2], launch.norm_rows
        programs = _programs(u.device, launch.norm_programs, _cuts(count, rows))
        d_u, d_weight = torch.empty_like(u), weight.new_empty(programs, width)
        _small().norm_backward[(programs,)](
            u,
            weight,
            scale,
            grad.contiguous(),
            u if passed is None else passed.contiguous(),
            d_u,
            d_weight,
            count,
            WIDTH=width,
            PAD=_power(width),
            ROWS=rows,
            HAS_PASSED=passed is not None,
            ROUNDS=_cuts(_cuts(count, rows), programs),
            num_warps=launch.norm_warps,
        )
        return d_u, d_weight.sum(0), None, None


class _Mix(torch.autograd.Function):
    """All that lies between in_proj and out_proj.

    `proj` [B, L, ...] has the columns z, x, B, C, dt; where z [B, rows, inner] is given, for the
    last position alone, the first of them are missing.
    """

    @staticmethod
    def forward(
        ctx: Any,
        proj: Tensor,
        z: Tensor | None,
        taps: Tensor,
        tap_bias: Tensor,
        dt_bias: Tensor,
        A_log: Tensor,
        D: Tensor,
        norm: Tensor,
        sizes: Sizes,
        eps: float,
    ) -> Tensor:
        batch, rows = proj.shape[0], sizes.L - sizes.first
        filters = taps[:, 0].t().contiguous()  # [K, mixed]
        scores = proj.new_empty(batch, sizes.pairs, dtype=torch.float32)
        scale = proj.new_empty(batch, rows, dtype=torch.float32)
        mix = proj.new_empty(batch, rows, sizes.inner)
        _small().score_forward[(_cuts(batch, launch.score_windows),)](
            proj,
            scores,
            filters,
            tap_bias,
            batch,
            INNER=sizes.inner,
            N=sizes.N,
            WINDOWS=launch.score_windows,
            **_common(proj, z, sizes),
            num_warps=launch.score_warps,
        )
        _large().mix_forward[(batch,)](
            proj,
            proj if z is None else z,
            scores,
            mix,
            scale,
            filters,
            tap_bias,
            dt_bias,
            A_log,
            D,
            norm,
            eps,
            HEADS=_power(sizes.H),
            **_of_mix(proj, z, sizes),
            num_warps=launch.forward_warps,
        )
        ctx.save_for_backward(
            proj, z, filters, tap_bias, dt_bias, A_log, D, norm, scores, scale, mix
        )
        ctx.sizes = sizes
        return mix

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        proj, z, filters, tap_bias, dt_bias, A_log, D, norm, scores, scale, mix = ctx.saved_tensors
        sizes: Sizes = ctx.sizes
        K, grad, batch = sizes.K, grad.contiguous(), proj.shape[0]
        along = torch.empty_like(scale)
        _small().along[(_cuts(scale.numel(), launch.norm_rows),)](
            mix,
            grad,
            along,
            scale.numel(),
            WIDTH=sizes.inner,
            PAD=_power(sizes.inner),
            ROWS=launch.norm_rows,
            num_warps=launch.norm_warps,
        )
        d_proj, d_z = torch.empty_like(proj), None if z is None else torch.empty_like(z)
        heads = min(launch.backward_heads, _power(sizes.H))
        cuts = _cuts(sizes.H, heads)
        programs = _programs(proj.device, launch.backward_programs, batch, cuts)
        d_scores = scores.new_empty(batch, sizes.pairs, cuts)
        d_channels = norm.new_empty(programs, K + 2, sizes.inner)
        d_heads = norm.new_empty(programs, 3, sizes.H)
        _large().mix_backward[(cuts, programs)](
            proj,
            proj if z is None else z,
            scores,
            grad,
            scale,
            along,
            filters,
            tap_bias,
            dt_bias,
            A_log,
            D,
            norm,
            d_proj,
            d_proj if d_z is None else d_z,
            d_scores,
            d_channels,
            d_heads,
            batch,
            HEADS=heads,
            ROUNDS=_cuts(batch, programs),
            **_of_mix(proj, z, sizes),
            num_warps=launch.backward_warps,
            maxnreg=launch.backward_registers,
        )
        windows = launch.score_windows
        programs = _programs(proj.device, launch.score_programs, _cuts(batch, windows))
        d_filters = norm.new_empty(programs, K + 1, 2 * sizes.N)
        _small().score_backward[(programs,)](
            proj,
            d_scores,
            d_proj,
            d_filters,
            filters,
            tap_bias,
            batch,
            INNER=sizes.inner,
            N=sizes.N,
            WINDOWS=windows,
            CUTS=cuts,
            PAD=_power(cuts),
            ROUNDS=_cuts(_cuts(batch, windows), programs),
            **_common(proj, z, sizes),
            num_warps=launch.score_warps,
        )
        channels, (d_dt_bias, d_A_log, d_D) = d_channels.sum(0), d_heads.sum(0)
        mixed = torch.cat([channels[: K + 1], d_filters.sum(0)], dim=1)
        d_taps = mixed[:K].t().unsqueeze(1).contiguous()
        return (
            d_proj,
            d_z,
            d_taps,
            mixed[K],
            d_dt_bias,
            d_A_log,
            d_D,
            channels[K + 1],
            None,
            None,
        )


def _common(proj: Tensor, z: Tensor | None, sizes: Sizes) -> dict[str, int]:
    return {
        "ROW": proj.shape[2],
        "X": sizes.inner if z is None else 0,
        "L": sizes.L,
        "K": sizes.K,
        "FIRST": sizes.first,
    }


def _of_mix(proj: Tensor, z: Tensor | None, sizes: Sizes) -> dict[str, int]:
    z_row = proj.shape[2] if z is None else z.shape[2]
    own = {"Z_ROW": z_row, "MIXED": sizes.mixed, "H": sizes.H, "P": sizes.P}
    return {**_common(proj, z, sizes), **own}


def _large() -> Any:
    from lvm.models.kernels import mix

    return mix


def _small() -> Any:
    from lvm.models.kernels import small

    return small


def _power(count: int) -> int:
    """Return the power of two from `count` on."""
    return 1 << (count - 1).bit_length()


def _cuts(count: int, size: int) -> int:
    return -(-count // size)


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 2
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _programs(device: torch.device, each: int, most: int, cuts: int = 1) -> int:
    """Return how many programs share the work of a kernel that keeps sums.

    As many as fill the device with `each` per multiprocessor, `cuts` of them side by side.
    """
    return max(1, min(most, each * _multiprocessors(device) // cuts))
