"""What Mamba-1 and Mamba-2 share: the layer around a block, the network around the layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lvm.core.config.recipe import ModelConfig
from lvm.core.errors import ConfigError
from lvm.models.base import RMSNorm, width_adapters

OUT_SCALE = 0.1  # of the usual initial weights of a block's output
DT_RANGE = (1e-3, 1e-1)  # step sizes at the start, drawn log-uniformly


class MambaLayer(nn.Module):
    """u + block(norm(u)), or another placement of the norm and the residual (`MambaForm`)."""

    def __init__(self, config: ModelConfig, mixer: nn.Module) -> None:
        super().__init__()
        self.placement = config.form.block_norm
        self.residual = config.form.block_residual
        none = self.placement == "none"
        self.norm = nn.Identity() if none else norm(config, config.hidden)
        self.mixer = mixer
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, u: Float[Tensor, "B L E"], *, last_only: bool = False
    ) -> Float[Tensor, "B rows E"]:
        """Return all positions, or the last alone."""
        return self.plain(u, last_only)

    def plain(self, u: Tensor, last_only: bool) -> Tensor:
        """Return what `forward` does, operation by operation."""
        read = self.norm(u) if self.placement == "before" else u
        mixed = self.dropout(self.mixer(read, last_only=last_only))
        if self.residual:
            mixed = mixed + (u[:, -1:] if last_only else u)
        return cast(Tensor, self.norm(mixed) if self.placement == "after" else mixed)


class MambaEncoder(nn.Module):
    """Layers of Mamba over the context, read out at the last position or averaged."""

    def __init__(
        self, config: ModelConfig, width: int, layer: Callable[[ModelConfig], MambaLayer]
    ) -> None:
        super().__init__()
        self.project_in, self.project_out = adapters(config, width)
        self.layers = nn.ModuleList(layer(config) for _ in range(config.num_layers))
        self.norm_f = norm(config, config.hidden) if config.form.final_norm else nn.Identity()
        self.last_alone = config.form.readout == "last"

    def forward(self, contexts: Float[Tensor, "B T D"]) -> Float[Tensor, "B D"]:
        """Return one output per context, [B, D]."""
        u = self.project_in(contexts)
        for layer in self.layers[:-1]:
            u = layer(u)
        u = self.layers[-1](u, last_only=self.last_alone)
        if self.last_alone:
            return cast(Tensor, self.project_out(self.norm_f(u[:, -1])))
        return cast(Tensor, self.project_out(self.norm_f(u)).mean(dim=1))


def norm(config: ModelConfig, width: int) -> nn.Module:
    """Return the norm of blocks and of the network's end."""
    eps = config.form.norm_eps
    return nn.LayerNorm(width, eps) if config.form.norm_kind == "layer" else RMSNorm(width, eps)


def adapters(config: ModelConfig, width: int) -> tuple[nn.Module, nn.Module]:
    """Return the layers D -> hidden and hidden -> D, or identities.

    ConfigError where the form leaves out a layer that D and hidden need.
    """
    kind, hidden = config.form.adapters, config.hidden
    if kind == "auto":
        return width_adapters(config, width)
    if kind != "both" and hidden != width:
        raise ConfigError(
            f"model.form.adapters must be auto or both for hidden {hidden} and vectors of width "
            f"{width} (got {kind!r})."
        )
    into = nn.Linear(width, hidden) if kind in ("in", "both") else nn.Identity()
    out = nn.Linear(hidden, width) if kind in ("out", "both") else nn.Identity()
    return into, out


def dt_bias_at_start(count: int) -> Tensor:
    """Return `count` biases whose softplus is a step size drawn log-uniformly from DT_RANGE.

    As the packages do (Gu and Dao 2023, "Mamba", section 3.6).
    """
    bias = torch.empty(count)
    if bias.is_meta:  # for shapes alone torch would import its compiler to take exp
        return bias
    low, high = (math.log(bound) for bound in DT_RANGE)
    dt = bias.uniform_(low, high).exp()
    return dt + torch.log(-torch.expm1(-dt))


@torch.no_grad()
def start_near_identity(out_proj: nn.Linear) -> None:
    """Make the output of a fresh block small (Zhang et al. 2019, Fixup).

    Blocks over a few tokens otherwise hide the last vector, the best single predictor, under noise
    to be unlearnt.
    """
    out_proj.weight.mul_(OUT_SCALE)
