"""Mamba-1: a selective scan with a state per channel, read out at the last position.

A block holds exactly the state dict of mamba_ssm.Mamba and of Hugging Face's MambaMixer, so that
their checkpoints are computed here. Written from Gu and Dao 2023, "Mamba", section 3, algorithm 2.
For short windows in plain torch: no kernel does a few positions in less than their start takes.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lvm.core.config.recipe import ModelConfig
from lvm.models.base import MODELS, no_weight_decay
from lvm.models.conv import causal_conv
from lvm.models.foreign_forms import (
    FIRST_LAYER,
    Alternative,
    Args,
    Shapes,
    alternatives,
    form_of,
    num_parts,
)
from lvm.models.mamba_layers import MambaEncoder, MambaLayer, dt_bias_at_start, start_near_identity

HIDDEN_PER_RANK = 16  # of dt_proj, where no rank is given


def selective_scan(
    x: Float[Tensor, "B L E"],
    dt: Float[Tensor, "B L E"],
    A: Float[Tensor, "E N"],
    B_: Float[Tensor, "B L N"],
    C: Float[Tensor, "B L N"],
    D: Float[Tensor, " E"],
) -> Float[Tensor, "B L E"]:
    """Return y [B, L, E] by the recurrence, position by position.

    For channel e with state S of N values: S_t = exp(dt_t A) S_(t-1) + dt_t x_t B_t, and
    y_t = S_t C_t + D x_t. `dt` comes after softplus and A is negative. States are float32 or wider.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    dt, B_, C, fed = dt.to(wide), B_.to(wide), C.to(wide), dt.to(wide) * x.to(wide)
    state = fed.new_zeros(*fed[:, 0].shape, A.shape[1])
    outputs = []
    for t in range(x.shape[1]):
        state = torch.exp(dt[:, t, :, None] * A) * state + fed[:, t, :, None] * B_[:, t, None]
        outputs.append((state @ C[:, t, :, None]).squeeze(-1))
    return (torch.stack(outputs, dim=1) + D * x).to(x.dtype)


def selective_scan_last(
    x: Float[Tensor, "B L E"],
    dt: Float[Tensor, "B L E"],
    A: Float[Tensor, "E N"],
    B_: Float[Tensor, "B L N"],
    C: Float[Tensor, "B L N"],
    D: Float[Tensor, " E"],
) -> Float[Tensor, "B 1 E"]:
    """Return y of the last position, [B, 1, E]: the sum of what each position left in the state.

    Every exponent is at most 0: it sums dt A over the positions after one. The sums are taken from
    the end, since a difference of running sums would lose the digits that matter, the last ones.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    dt, scores = dt.to(wide), B_.to(wide) * C[:, -1:].to(wide)
    after = dt[:, 1:].flip(1).cumsum(dim=1).flip(1)
    since = torch.cat([after, torch.zeros_like(dt[:, :1])], dim=1)
    left = torch.exp(since[..., None] * A)
    weights = (left @ scores[..., None]).squeeze(-1) * dt
    last = (weights * x.to(wide)).sum(dim=1, keepdim=True)
    return (last + D * x[:, -1:]).to(x.dtype)


class Mamba1Block(nn.Module):
    """One selective state-space block, [B, L, hidden] -> [B, L, hidden], causal."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        inner, state = config.hidden * config.expand, config.state
        rank = config.form.dt_rank or math.ceil(config.hidden / HIDDEN_PER_RANK)
        self.parts = [rank, state, state]  # rows of x_proj: dt, B, C
        self.in_proj = nn.Linear(config.hidden, 2 * inner, config.form.projection_bias)
        # Holds the weights under the name and with the initialisation of the package; never called.
        self.conv1d = nn.Conv1d(inner, inner, config.conv_kernel, groups=inner)
        self.x_proj = nn.Linear(inner, sum(self.parts), bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        with torch.no_grad():
            self.dt_proj.bias.copy_(dt_bias_at_start(inner))
        no_weight_decay(self.dt_proj.bias)
        rates = torch.arange(1, state + 1, dtype=torch.float32)
        rates = rates if rates.is_meta else rates.log()
        self.A_log = no_weight_decay(nn.Parameter(rates.repeat(inner, 1)))
        self.D = no_weight_decay(nn.Parameter(torch.ones(inner)))
        self.out_proj = nn.Linear(inner, config.hidden, config.form.projection_bias)
        start_near_identity(self.out_proj)

    def forward(
        self, u: Float[Tensor, "B L E"], *, last_only: bool = False
    ) -> Float[Tensor, "B rows E"]:
        """Return the outputs of all L positions, or only of the last when nothing reads the others.

        `last_only` is faster, with the same numbers.
        """
        x_weight, z_weight = self.in_proj.weight.chunk(2)
        bias = self.in_proj.bias
        x_bias, z_bias = (None, None) if bias is None else bias.chunk(2)
        z = F.linear(u[:, -1:] if last_only else u, z_weight, z_bias)
        x = F.linear(u, x_weight, x_bias)
        x = F.silu(causal_conv(x, self.conv1d.weight, cast(Tensor, self.conv1d.bias)))
        dt, B_, C = torch.split(self.x_proj(x), self.parts, dim=-1)
        # Step sizes are kept in float32: rounding a small one changes the decay of its channel.
        steps = F.linear(dt, self.dt_proj.weight).to(self.dt_proj.bias.dtype)
        scan = selective_scan_last if last_only else selective_scan
        A = -torch.exp(self.A_log)
        y = scan(x, F.softplus(steps + self.dt_proj.bias), A, B_, C, self.D)
        return cast(Tensor, self.out_proj(y * F.silu(z)))


class Mamba1Layer(MambaLayer):
    """A layer of Mamba-1."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, Mamba1Block(config))


class Mamba1Encoder(MambaEncoder):
    """Layers of Mamba-1 over the context: `head_dim` and `backend` mean nothing to it."""

    def __init__(self, config: ModelConfig, width: int) -> None:
        super().__init__(config, width, Mamba1Layer)

    @staticmethod
    def sizes_of(shapes: Shapes, args: Args) -> dict[str, object]:
        """Return the sizes and the form that weights made elsewhere, and their args, show."""
        block = FIRST_LAYER + "mixer."
        hidden, inner = shapes[block + "out_proj.weight"]
        _, rank = shapes[block + "dt_proj.weight"]
        return {
            "hidden": hidden,
            "expand": inner // hidden,
            "state": shapes[block + "A_log"][1],
            "conv_kernel": shapes[block + "conv1d.weight"][2],
            "num_layers": num_parts(shapes, "encoder.layers."),
            "form.dt_rank": rank,
            **form_of(shapes, args, gated=False),
        }

    @staticmethod
    def ways_to_compute(config: ModelConfig, args: Args) -> list[Alternative]:
        """Return the ways to compute such weights that these do not tell apart."""
        return alternatives(config, args, gated=False)


MODELS.register("mamba1")(Mamba1Encoder)
