"""Mamba-2: selective state-space blocks over a context, read out at the last position.

A block holds exactly the state dict of mamba_ssm.Mamba2, so that one checkpoint serves the plain
torch forms and the CUDA kernels. Written from Dao and Gu 2024, "Transformers are SSMs", section 7.
"""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from lvm.core.compiled import is_allowed
from lvm.core.config.recipe import ModelConfig
from lvm.core.errors import ConfigError
from lvm.models import forms, short, short_kernel
from lvm.models.base import MODELS, NORM_EPS
from lvm.models.foreign_forms import (
    FIRST_LAYER,
    Alternative,
    Args,
    Shapes,
    alternatives,
    form_of,
    groups_and_state,
    num_parts,
)
from lvm.models.mamba2_block import FUSED, Mamba2Block, resolve_backend
from lvm.models.mamba_layers import MambaEncoder, MambaLayer


class Mamba2Layer(MambaLayer):
    """A layer of Mamba-2; in the form of this program, training on a GPU may fuse it."""

    mixer: Mamba2Block

    def __init__(self, config: ModelConfig) -> None:
        why_not = config.form.why_not_plain
        if why_not is not None and config.backend in FUSED:
            raise ConfigError(
                f"model.backend = {config.backend!r} does not support {why_not}; use 'auto'."
            )
        super().__init__(config, Mamba2Block(config))

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
        """Return the requested form, or the fastest that works here."""
        block = self.mixer
        if block.form.why_not_plain is not None:  # the others would compute another model
            forms.note_dual_alone(block.form.why_not_plain)
            return "dual"
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
            return lambda u: self.plain(u, last_only)
        function = short_kernel.kernel_layer if form == "kernel" else short.compiled_layer

        def call(u: Tensor) -> Tensor:
            dtype = _dtype(u, self._weights)
            if not u.requires_grad:  # else the first layer would need a compilation of its own
                u = u.detach().requires_grad_()
            with torch.autocast(u.device.type, enabled=False):  # it says itself what is rounded
                return function(
                    u,
                    self._weights,
                    state=self.mixer.state,
                    dropout=self.dropout.p,
                    eps=NORM_EPS,
                    last_only=last_only,
                    dtype=dtype,
                )

        return call

    @property
    def _weights(self) -> short.Weights:
        block = self.mixer
        return short.Weights(
            cast(Tensor, self.norm.weight),
            block.in_proj.weight,
            block.conv1d.weight,
            cast(Tensor, block.conv1d.bias),
            block.dt_bias,
            block.A_log,
            block.D,
            cast(Tensor, block.norm.weight),
            block.out_proj.weight,
        )


def _dtype(u: Tensor, weights: short.Weights) -> torch.dtype:
    """Return the dtype of matrix products here."""
    device = u.device.type
    half = torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if half else weights.in_proj.dtype


class Mamba2Encoder(MambaEncoder):
    """Layers of Mamba-2 over the context."""

    def __init__(self, config: ModelConfig, width: int) -> None:
        super().__init__(config, width, Mamba2Layer)

    resolve_backend = staticmethod(resolve_backend)

    @staticmethod
    def sizes_of(shapes: Shapes, args: Args) -> dict[str, object]:
        """Return the sizes and the form that weights made elsewhere, and their args, show."""
        block = FIRST_LAYER + "mixer."
        hidden, inner = shapes[block + "out_proj.weight"]
        (heads,) = shapes[block + "dt_bias"]
        mixed, _, taps = shapes[block + "conv1d.weight"]  # the channels of x, B and C
        groups, state = groups_and_state((mixed - inner) // 2, heads, args)
        return {
            "hidden": hidden,
            "expand": inner // hidden,
            "head_dim": inner // heads,
            "state": state,
            "conv_kernel": taps,
            "num_layers": num_parts(shapes, "encoder.layers."),
            "form.groups": groups,
            **form_of(shapes, args, gated=True),
        }

    @staticmethod
    def ways_to_compute(config: ModelConfig, args: Args) -> list[Alternative]:
        """Return the ways to compute such weights that these do not tell apart."""
        return alternatives(config, args, gated=True)


MODELS.register("mamba2")(Mamba2Encoder)
