"""A block of Mamba-2, which holds exactly the state dict of mamba_ssm.Mamba2."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lvm.core.config.recipe import ModelConfig
from lvm.core.errors import ConfigError
from lvm.models import mamba_ssm_backend, short
from lvm.models.base import NORM_EPS, RMSNorm, no_weight_decay
from lvm.models.conv import causal_conv
from lvm.models.mamba_layers import dt_bias_at_start, start_near_identity
from lvm.models.ssd import DUAL_LIMIT, ssd_chunked, ssd_dual, ssd_last

FUSED = ("compiled", "kernel")  # backends that compute a whole layer
A_RANGE = (1.0, 16.0)  # decay rates at the start, drawn uniformly


def resolve_backend(requested: str, length: int, device: torch.device) -> str:
    """Return how Mamba-2 is computed: "dual", "chunked", "mamba_ssm", "compiled" or "kernel".

    "auto" is dual up to 128 positions. Beyond, it is mamba_ssm on CUDA where that is installed,
    else chunked: the package's kernels are made for long contexts. At 5 positions they take 20 ms
    an update more than the dual form, after more than a minute in which they tune themselves.

    Up to 16 positions, a training on CUDA with "auto" uses whichever of dual, compiled and kernel
    is the fastest (lvm/models/forms.py). The last two train and leave evaluation to dual.

    Raises ConfigError when mamba_ssm, compiled or kernel is requested away from CUDA or the latter
    two beyond 16 positions, MissingExtraError when mamba_ssm is requested and absent.
    """
    if requested == "mamba_ssm":
        mamba_ssm_backend.require(device)
    if requested in FUSED and (device.type != "cuda" or length > short.LIMIT):
        raise ConfigError(
            f"model.backend = {requested!r} needs CUDA and at most {short.LIMIT} positions (got "
            f"{device.type} and {length}); use 'auto'."
        )
    if requested != "auto":
        return requested
    if length <= DUAL_LIMIT:
        return "dual"
    return "mamba_ssm" if device.type == "cuda" and mamba_ssm_backend.is_installed() else "chunked"


class GatedRMSNorm(RMSNorm):
    """RMSNorm of y silu(z), or RMSNorm of y times silu(z) where the norm comes before the gate.

    With more than one group each group of channels is divided by its own root mean square.
    """

    def __init__(
        self, width: int, eps: float = NORM_EPS, *, groups: int = 1, before_gate: bool = False
    ) -> None:
        super().__init__(width, eps)
        self.groups, self.before_gate = groups, before_gate

    def forward(  # type: ignore[override]  # the gate is a second input
        self, y: Float[Tensor, "B L E"], z: Float[Tensor, "B L E"]
    ) -> Float[Tensor, "B L E"]:
        """Return the gated and normalised values."""
        if self.before_gate:
            return self._norm(y) * F.silu(z)
        return self._norm(y * F.silu(z))

    def _norm(self, y: Tensor) -> Tensor:
        if self.groups == 1:
            return super().forward(y)
        parts = y.to(self.weight.dtype).reshape(*y.shape[:-1], self.groups, -1)
        return F.rms_norm(parts, parts.shape[-1:], eps=self.eps).flatten(-2) * self.weight


class Gate(nn.Module):
    """y silu(z): a block without a norm of its own."""

    def forward(
        self, y: Float[Tensor, "B L E"], z: Float[Tensor, "B L E"]
    ) -> Float[Tensor, "B L E"]:
        """Return the gated values."""
        return y * F.silu(z)


def _gated_norm(config: ModelConfig, inner: int) -> nn.Module:
    form = config.form
    if form.gated_norm == "none":
        return Gate()
    groups = form.groups if form.norm_per_group else 1
    before_gate = form.gated_norm == "before_gate"
    return GatedRMSNorm(inner, form.norm_eps, groups=groups, before_gate=before_gate)


class Mamba2Block(nn.Module):
    """One selective state-space block, [B, L, hidden] -> [B, L, hidden], causal."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.backend, self.state, self.head_dim = config.backend, config.state, config.head_dim
        self.form = config.form
        self.inner = config.hidden * config.expand
        if self.inner % config.head_dim:
            raise ConfigError(
                f"model.head_dim must divide hidden * expand = {self.inner} (got "
                f"{config.head_dim})."
            )
        heads = self.inner // config.head_dim
        if heads % self.form.groups:
            raise ConfigError(
                f"model.form.groups must divide the {heads} heads (got {self.form.groups})."
            )
        mixed = self.inner + 2 * self.form.groups * config.state
        self.parts = [self.inner, mixed, heads]  # rows of in_proj: z; x, B and C; dt
        self.in_proj = nn.Linear(config.hidden, sum(self.parts), self.form.projection_bias)
        # Holds the weights under the name and with the initialisation of the package; never called.
        self.conv1d = nn.Conv1d(mixed, mixed, config.conv_kernel, groups=mixed)
        self.dt_bias = no_weight_decay(nn.Parameter(dt_bias_at_start(heads)))
        a_log = torch.empty(heads)
        if not a_log.is_meta:
            a_log = a_log.uniform_(*A_RANGE).log()
        self.A_log = no_weight_decay(nn.Parameter(a_log))
        self.D = no_weight_decay(nn.Parameter(torch.ones(heads)))
        self.norm = _gated_norm(config, self.inner)
        self.out_proj = nn.Linear(self.inner, config.hidden, self.form.projection_bias)
        start_near_identity(self.out_proj)

    def forward(
        self, u: Float[Tensor, "B L E"], *, last_only: bool = False
    ) -> Float[Tensor, "B rows E"]:
        """Return the outputs of all L positions, or only of the last when nothing reads the others.

        `last_only` is faster, with the same numbers: the gate, the state read-out, the norm and the
        output projection are then taken at one position.
        """
        # Three products, not one that is cut apart: the backward pass of a cut copies everything.
        z_weight, xbc_weight, dt_weight = torch.split(self.in_proj.weight, self.parts)
        bias = self.in_proj.bias
        z_bias, xbc_bias, dt_bias = (None,) * 3 if bias is None else torch.split(bias, self.parts)
        z = F.linear(u[:, -1:] if last_only else u, z_weight, z_bias)
        xbc, dt = F.linear(u, xbc_weight, xbc_bias), F.linear(u, dt_weight, dt_bias)
        xbc = F.silu(causal_conv(xbc, self.conv1d.weight, cast(Tensor, self.conv1d.bias)))
        both = self.form.groups * self.state
        x, B_, C = torch.split(xbc, [self.inner, both, both], dim=-1)
        # Step sizes are kept in float32: a small one that is rounded changes the decay of a head.
        dt = F.softplus(dt.to(self.dt_bias.dtype) + self.dt_bias)
        if self.form.dt_min > 0 or self.form.dt_max is not None:
            dt = dt.clamp(self.form.dt_min, self.form.dt_max)
        y = self._scan(x, dt, B_, C, last_only)
        return cast(Tensor, self.out_proj(self.norm(y.flatten(2), z)))

    def _scan(self, x: Tensor, dt: Tensor, B_: Tensor, C: Tensor, last_only: bool) -> Tensor:
        name = resolve_backend(self.backend, x.shape[1], x.device)
        scans = {"chunked": ssd_chunked, "mamba_ssm": mamba_ssm_backend.scan}
        # One row is one weighted sum: no form and no kernel does it in less.
        form = ssd_last if last_only else scans.get(name, ssd_dual)
        A = -torch.exp(self.A_log)
        heads = x.reshape(*x.shape[:2], -1, self.head_dim)
        B_, C = (t.reshape(*t.shape[:2], self.form.groups, self.state) for t in (B_, C))
        return form(heads, dt, A, B_, C, self.D)
