"""Mamba-2: selective state-space blocks over a context, read out at the last position.

A block holds exactly the state dict of mamba_ssm.Mamba2, so that one checkpoint serves the plain
torch forms and the CUDA kernels. Written from Dao and Gu 2024, "Transformers are SSMs", section 7.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lvm.compiled import is_allowed
from lvm.config import ModelConfig
from lvm.errors import ConfigError
from lvm.models import forms, mamba_ssm_backend, short, short_kernel
from lvm.models.base import MODELS, NORM_EPS, RMSNorm, no_weight_decay, width_adapters
from lvm.models.ssd import DUAL_LIMIT, ssd_chunked, ssd_dual, ssd_last

OUT_SCALE = 0.1  # of the usual initial weights of a block's output
DT_RANGE = (1e-3, 1e-1)  # step sizes at the start, drawn log-uniformly
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


class _CausalConv(torch.autograd.Function):
    """Shifted multiply-adds with a backward of the same kind.

    Left to autograd, every shifted slice costs a zero-filled tensor of full size in the backward
    pass, which took more time than all matrix products of the model together.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        output = torch.addcmul(bias, x, weight[-1])
        for shift in range(1, min(len(weight), x.shape[1])):
            output[:, shift:].addcmul_(x[:, :-shift], weight[-1 - shift])
        return output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad_x, grad_weight = grad * weight[-1], torch.zeros_like(weight)
        product = grad * x  # one buffer for all taps: a fresh one costs more than its multiply
        grad_weight[-1] = product.sum((0, 1))
        for shift in range(1, min(len(weight), x.shape[1])):
            later, earlier = grad[:, shift:], x[:, :-shift]
            grad_x[:, :-shift].addcmul_(later, weight[-1 - shift])
            torch.mul(later, earlier, out=product[:, shift:])
            grad_weight[-1 - shift] = product[:, shift:].sum((0, 1))
        return grad_x, grad_weight, grad.sum((0, 1))


def causal_conv(
    x: Float[Tensor, "B L E"], weight: Float[Tensor, "E 1 K"], bias: Float[Tensor, " E"]
) -> Float[Tensor, "B L E"]:
    """Return the causal depthwise convolution along L, as K shifted multiply-adds.

    Equals conv1d(groups=E) with K - 1 zeros on the left, which is slow on a CPU.
    """
    taps = weight[:, 0].t().contiguous()  # [K, E]
    apply = cast(Callable[..., Tensor], _CausalConv.apply)
    return apply(x, taps.to(x.dtype), bias.to(x.dtype))


class GatedRMSNorm(RMSNorm):
    """RMSNorm of y silu(z): the gate comes before the norm."""

    def forward(  # type: ignore[override]  # the gate is a second input
        self, y: Float[Tensor, "B L E"], z: Float[Tensor, "B L E"]
    ) -> Float[Tensor, "B L E"]:
        """Return the gated and normalised values."""
        return super().forward(y * F.silu(z))


class Mamba2Block(nn.Module):
    """One selective state-space block, [B, L, hidden] -> [B, L, hidden], causal."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.backend, self.state, self.head_dim = config.backend, config.state, config.head_dim
        self.inner = config.hidden * config.expand
        if self.inner % config.head_dim:
            raise ConfigError(
                f"model.head_dim is {config.head_dim}, allowed is a divisor of hidden * expand = "
                f"{self.inner}; change one of the three in the recipe."
            )
        heads = self.inner // config.head_dim
        mixed = self.inner + 2 * config.state
        self.parts = [self.inner, mixed, heads]  # rows of in_proj: z; x, B and C; dt
        self.in_proj = nn.Linear(config.hidden, sum(self.parts), bias=False)
        # Holds the weights under the name and with the initialisation of the package; never called.
        self.conv1d = nn.Conv1d(mixed, mixed, config.conv_kernel, groups=mixed)
        low, high = (math.log(bound) for bound in DT_RANGE)
        dt_bias, a_log = torch.empty(heads), torch.empty(heads)
        if not dt_bias.is_meta:  # for shapes alone torch would import its compiler to take exp
            dt = dt_bias.uniform_(low, high).exp()
            dt_bias, a_log = dt + torch.log(-torch.expm1(-dt)), a_log.uniform_(*A_RANGE).log()
        self.dt_bias = no_weight_decay(nn.Parameter(dt_bias))
        self.A_log = no_weight_decay(nn.Parameter(a_log))
        self.D = no_weight_decay(nn.Parameter(torch.ones(heads)))
        self.norm = GatedRMSNorm(self.inner)
        self.out_proj = nn.Linear(self.inner, config.hidden, bias=False)
        # Blocks start close to the identity (Zhang et al. 2019, Fixup): blocks over a few tokens
        # otherwise hide the last vector, the best single predictor, under noise to be unlearnt.
        with torch.no_grad():
            self.out_proj.weight.mul_(OUT_SCALE)

    def forward(
        self, u: Float[Tensor, "B L E"], *, last_only: bool = False
    ) -> Float[Tensor, "B rows E"]:
        """Return the outputs of all L positions, or only of the last when nothing reads the others.

        `last_only` is faster, with the same numbers: the gate, the state read-out, the norm and the
        output projection are then taken at one position.
        """
        # Three products, not one that is cut apart: the backward pass of a cut copies everything.
        z_weight, xbc_weight, dt_weight = torch.split(self.in_proj.weight, self.parts)
        z = F.linear(u[:, -1:] if last_only else u, z_weight)
        xbc, dt = F.linear(u, xbc_weight), F.linear(u, dt_weight)
        xbc = F.silu(causal_conv(xbc, self.conv1d.weight, cast(Tensor, self.conv1d.bias)))
        x, B_, C = torch.split(xbc, [self.inner, self.state, self.state], dim=-1)
        # Step sizes are kept in float32: a small one that is rounded changes the decay of a head.
        dt = F.softplus(dt.to(self.dt_bias.dtype) + self.dt_bias)
        y = self._scan(x, dt, B_, C, last_only)
        return cast(Tensor, self.out_proj(self.norm(y.flatten(2), z)))

    def _scan(self, x: Tensor, dt: Tensor, B_: Tensor, C: Tensor, last_only: bool) -> Tensor:
        name = resolve_backend(self.backend, x.shape[1], x.device)
        scans = {"chunked": ssd_chunked, "mamba_ssm": mamba_ssm_backend.scan}
        # One row is one weighted sum: no form and no kernel does it in less.
        form = ssd_last if last_only else scans.get(name, ssd_dual)
        A = -torch.exp(self.A_log)
        heads = x.reshape(*x.shape[:2], -1, self.head_dim)
        return form(heads, dt, A, B_.unsqueeze(2), C.unsqueeze(2), self.D)


class Mamba2Layer(nn.Module):
    """u + block(norm(u)): the residual form with the norm in front."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.hidden)
        self.mixer = Mamba2Block(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, u: Float[Tensor, "B L E"], *, last_only: bool = False
    ) -> Float[Tensor, "B rows E"]:
        """Return all positions, or the last alone."""
        form = self._form(u, last_only) if self._is_fused(u) else "dual"
        return self._call(form, last_only)(u)

    def _is_fused(self, u: Tensor) -> bool:
        """Whether this call trains on a GPU, over a short window and with a backend that may fuse.

        Evaluation stays with the dual form: it is seldom, and meets batches of every size.
        """
        trains = self.training and torch.is_grad_enabled()
        fits = self.mixer.backend in ("auto", *FUSED) and u.shape[1] <= short.LIMIT
        return trains and fits and u.device.type == "cuda" and is_allowed()

    def _form(self, u: Tensor, last_only: bool) -> str:
        """Return the form that was asked for, or the fastest."""
        block = self.mixer
        why_not = short_kernel.refusal(u, self._weights, block.state, _dtype(u, self._weights))
        if block.backend in FUSED:
            if block.backend == "kernel" and why_not is not None:
                raise ConfigError(
                    f"model.backend = 'kernel' cannot be used: {why_not}; use 'auto'."
                )
            return block.backend
        names = ("kernel" if why_not is None else "compiled", "dual")
        about = (
            f"{'x'.join(str(size) for size in u.shape)}, {block.inner} channels, {block.parts[2]} "
            f"heads, state {block.state}, {len(block.conv1d.weight[0, 0])} taps, "
            f"{_dtype(u, self._weights)}, dropout {self.dropout.p:g}"
            f"{', last position' if last_only else ''}{f' ({why_not})' if why_not else ''}"
        )
        ways = {name: self._call(name, last_only) for name in names}
        return forms.choose(about, ways, u, list(self._weights))

    def _call(self, form: str, last_only: bool) -> forms.Form:
        """Return a form of this layer as a function of u."""
        if form == "dual":
            return lambda u: self._dual(u, last_only)
        function = short_kernel.kernel_layer if form == "kernel" else short.compiled_layer

        def call(u: Tensor) -> Tensor:
            dtype = _dtype(u, self._weights)
            if not u.requires_grad:  # else the first layer would need a compilation of its own
                u = u.detach().requires_grad_()
            with torch.autocast(u.device.type, enabled=False):  # it says itself what is rounded
                return function(
                    u, self._weights, state=self.mixer.state, dropout=self.dropout.p,
                    eps=NORM_EPS, last_only=last_only, dtype=dtype,
                )  # fmt: skip

        return call

    def _dual(self, u: Tensor, last_only: bool) -> Tensor:
        mixed = self.dropout(self.mixer(self.norm(u), last_only=last_only))
        return cast(Tensor, mixed + (u[:, -1:] if last_only else u))

    @property
    def _weights(self) -> short.Weights:
        block = self.mixer
        return short.Weights(
            self.norm.weight, block.in_proj.weight, block.conv1d.weight,
            cast(Tensor, block.conv1d.bias), block.dt_bias, block.A_log, block.D,
            block.norm.weight, block.out_proj.weight,
        )  # fmt: skip


def _dtype(u: Tensor, weights: short.Weights) -> torch.dtype:
    """Return the dtype of matrix products here."""
    device = u.device.type
    half = torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if half else weights.in_proj.dtype


class Mamba2Encoder(nn.Module):
    """Layers of Mamba-2 over the context, read out at the last position."""

    def __init__(self, config: ModelConfig, width: int) -> None:
        super().__init__()
        self.project_in, self.project_out = width_adapters(config, width)
        self.layers = nn.ModuleList(Mamba2Layer(config) for _ in range(config.num_layers))
        self.norm_f = RMSNorm(config.hidden)

    def forward(self, contexts: Float[Tensor, "B T D"]) -> Float[Tensor, "B D"]:
        """Return the output at the last position, [B, D]."""
        u = self.project_in(contexts)
        for layer in self.layers[:-1]:
            u = layer(u)
        u = self.layers[-1](u, last_only=True)
        return cast(Tensor, self.project_out(self.norm_f(u[:, -1])))


@MODELS.register("mamba2")
def build_mamba2(config: ModelConfig, width: int) -> nn.Module:
    """Return the Mamba-2 encoder; ConfigError when head_dim does not divide hidden * expand."""
    return Mamba2Encoder(config, width)
