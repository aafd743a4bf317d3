"""What a Mamba network computes, apart from its sizes: weight shapes reveal little of it.

The defaults are the form of this program. The others are those of the two packages that people
train Mamba with (mamba_ssm, Hugging Face transformers), and of the code that people write around
their blocks, so that their checkpoints are computed as they were trained.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lvm.core.setting import require, require_one_of

CHOICES = {
    "gated_norm": ("after_gate", "before_gate", "none"),
    "block_norm": ("before", "after", "none"),
    "norm_kind": ("rms", "layer"),
    "adapters": ("auto", "in", "out", "both", "none"),
    "input_scale": ("sqrt_width", "one"),
    "readout": ("last", "mean"),
}


@dataclass(frozen=True, kw_only=True)
class MambaForm:
    """The forward pass of a Mamba-1 or Mamba-2 network; ConfigError on a value out of range."""

    groups: int = 1  # Mamba-2: heads of one group share B and C
    dt_min: float = 0.0  # limits of a step size, Mamba-2
    dt_max: float | None = None
    dt_rank: int = 0  # Mamba-1: rank of the map to step sizes; 0 is hidden / 16, rounded up
    gated_norm: str = "after_gate"  # Mamba-2: where a block's output is normalised
    norm_per_group: bool = True  # that norm is per group, not over all channels
    block_norm: str = "before"  # the norm before a block, or after its sum with the residual
    block_residual: bool = True  # add a block's input to its output
    norm_kind: str = "rms"  # of block_norm and final_norm; "layer" also centres and shifts
    norm_eps: float = 1e-5
    final_norm: bool = True
    projection_bias: bool = False  # of in_proj and out_proj of a block
    adapters: str = "auto"  # linear layers D -> hidden, hidden -> D; "auto" where the two differ
    input_scale: str = "sqrt_width"  # what a unit vector is multiplied by before it enters
    readout: str = "last"  # the output at the last position, or the mean over positions

    def __post_init__(self) -> None:
        for key, allowed in CHOICES.items():
            require_one_of(f"model.form.{key}", getattr(self, key), allowed)
        require(self.groups >= 1, "model.form.groups", self.groups, "at least 1")
        require(self.dt_rank >= 0, "model.form.dt_rank", self.dt_rank, "at least 0")
        require(
            0 <= self.dt_min < math.inf, "model.form.dt_min", self.dt_min, "finite and at least 0"
        )
        top = self.dt_max
        ok = top is None or self.dt_min < top < math.inf
        require(ok, "model.form.dt_max", top, "finite and above dt_min, or left out")
        require(
            0 <= self.norm_eps < 1, "model.form.norm_eps", self.norm_eps, "at least 0 and below 1"
        )

    @property
    def why_not_plain(self) -> str | None:
        """Which setting keeps a layer from the compiled and the Triton form, or None."""
        plain = MambaForm()
        for key in LAYER_KEYS:
            if getattr(self, key) != getattr(plain, key):
                return f"model.form.{key} = {getattr(self, key)!r}"
        return None


# What a layer of Mamba-2 computes; the rest is of the network around the layers.
LAYER_KEYS = (
    "groups",
    "dt_min",
    "dt_max",
    "gated_norm",
    "block_norm",
    "block_residual",
    "norm_kind",
    "norm_eps",
    "projection_bias",
)
