"""Starting the Triton kernels of a short window: their forward passes and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from lvm.core.autograd import Context
from lvm.models.short_sizes import Sizes, cuts_of, num_programs, power_of_two


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

NormCtx = Context[tuple[Tensor, Tensor, Tensor], None]
_Nine = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
MixCtx = Context[tuple[Tensor, Tensor | None, *_Nine], Sizes]  # proj, z and the rest


class _Norm(torch.autograd.Function):
    """RMSNorm in the dtype of the products, and the residual stream as it was.

    Both gradients meet here, in one kernel, instead of being written and added afterwards.
    """

    @staticmethod
    def forward(
        ctx: NormCtx, u: Tensor, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        normed = torch.empty_like(u, dtype=dtype)
        scale = u.new_empty(u.shape[:2], dtype=torch.float32)
        count, width, rows = scale.numel(), u.shape[2], launch.norm_rows
        _small().norm_forward[(cuts_of(count, rows),)](
            u,
            weight,
            normed,
            scale,
            count,
            eps,
            WIDTH=width,
            PAD=power_of_two(width),
            ROWS=rows,
            num_warps=launch.norm_warps,
        )
        ctx.save_for_backward(u, weight, scale)
        ctx.set_materialize_grads(False)
        return normed, u.view_as(u)

    @staticmethod
    def backward(
        ctx: NormCtx,
        grad: Tensor | None,
        passed: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        u, weight, scale = ctx.saved_tensors
        if grad is None:
            return passed, None, None, None
        count, width, rows = scale.numel(), u.shape[2], launch.norm_rows
        programs = num_programs(u.device, launch.norm_programs, cuts_of(count, rows))
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
            PAD=power_of_two(width),
            ROWS=rows,
            HAS_PASSED=passed is not None,
            ROUNDS=cuts_of(cuts_of(count, rows), programs),
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
        ctx: MixCtx,
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
        _small().score_forward[(cuts_of(batch, launch.score_windows),)](
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
            HEADS=power_of_two(sizes.H),
            **_of_mix(proj, z, sizes),
            num_warps=launch.forward_warps,
        )
        ctx.save_for_backward(
            proj, z, filters, tap_bias, dt_bias, A_log, D, norm, scores, scale, mix
        )
        ctx.kept = sizes
        return mix

    @staticmethod
    def backward(ctx: MixCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        proj, z, filters, tap_bias, dt_bias, A_log, D, norm, scores, scale, mix = ctx.saved_tensors
        sizes = ctx.kept
        K, grad, batch = sizes.K, grad.contiguous(), proj.shape[0]
        along = _along(mix, grad, torch.empty_like(scale), sizes.inner)
        d_proj, d_z = torch.empty_like(proj), None if z is None else torch.empty_like(z)
        heads = min(launch.backward_heads, power_of_two(sizes.H))
        cuts = cuts_of(sizes.H, heads)
        programs = num_programs(proj.device, launch.backward_programs, batch, cuts)
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
            ROUNDS=cuts_of(batch, programs),
            **_of_mix(proj, z, sizes),
            num_warps=launch.backward_warps,
            maxnreg=launch.backward_registers,
        )
        d_filters = _score_gradients(proj, z, filters, tap_bias, d_scores, d_proj, sizes)
        channels, of_heads = d_channels.sum(0), d_heads.sum(0)  # dt_bias, A_log, D
        mixed = torch.cat([channels[: K + 1], d_filters], dim=1)
        d_taps = mixed[:K].t().unsqueeze(1).contiguous()
        return d_proj, d_z, d_taps, mixed[K], *of_heads, channels[K + 1], None, None


def _along(mix: Tensor, grad: Tensor, along: Tensor, inner: int) -> Tensor:
    """Fill `along` [B, rows] with the sums of the output times its gradient."""
    count, rows = along.numel(), launch.norm_rows
    _small().along[(cuts_of(count, rows),)](
        mix,
        grad,
        along,
        count,
        WIDTH=inner,
        PAD=power_of_two(inner),
        ROWS=rows,
        num_warps=launch.norm_warps,
    )
    return along


def _score_gradients(
    proj: Tensor,
    z: Tensor | None,
    filters: Tensor,
    tap_bias: Tensor,
    d_scores: Tensor,
    d_proj: Tensor,
    sizes: Sizes,
) -> Tensor:
    """Write the gradients of B and C into `d_proj`; return those of their taps and biases."""
    batch, windows, cuts = proj.shape[0], launch.score_windows, d_scores.shape[2]
    programs = num_programs(proj.device, launch.score_programs, cuts_of(batch, windows))
    d_filters = tap_bias.new_empty(programs, sizes.K + 1, 2 * sizes.N)
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
        PAD=power_of_two(cuts),
        ROUNDS=cuts_of(cuts_of(batch, windows), programs),
        **_common(proj, z, sizes),
        num_warps=launch.score_warps,
    )
    return d_filters.sum(0)


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


def _large() -> ModuleType:
    from lvm.models.kernels import mix

    return mix


def _small() -> ModuleType:
    from lvm.models.kernels import small

    return small


# What torch leaves untyped.
norm: Callable[[Tensor, Tensor, float, torch.dtype], tuple[Tensor, Tensor]] = _Norm.apply
mix: Callable[..., Tensor] = _Mix.apply
