"""A gated recurrent unit over the context: the recurrent network to beat."""

from __future__ import annotations

from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from lvm.core.config.recipe import ModelConfig
from lvm.models.base import MODELS, RMSNorm, width_adapters
from lvm.models.foreign_forms import Args, Shapes


class GRUEncoder(nn.Module):
    """num_layers of GRU, read out at the last position (Cho et al. 2014, section 2.3)."""

    def __init__(self, config: ModelConfig, width: int) -> None:
        super().__init__()
        self.project_in, self.project_out = width_adapters(config, width)
        # Gates move over a range of about 1, whatever the scale that project_in learns.
        self.norm_in = RMSNorm(config.hidden)
        self.gru = nn.GRU(
            config.hidden,
            config.hidden,
            config.num_layers,
            batch_first=True,
            # torch drops between layers only, and warns when there is no between.
            dropout=config.dropout if config.num_layers > 1 else 0.0,
        )

    def forward(self, contexts: Float[Tensor, "B T D"]) -> Float[Tensor, "B D"]:
        """Return the projected state after the last vector, [B, D]."""
        states, _ = self.gru(self.norm_in(self.project_in(contexts)))
        return cast(Tensor, self.project_out(states[:, -1]))

    @staticmethod
    def sizes_of(shapes: Shapes, args: Args) -> dict[str, object]:
        """Return the sizes that weights made elsewhere show."""
        layers = sum(name.startswith("encoder.gru.weight_ih_l") for name in shapes)
        return {"hidden": shapes["encoder.gru.weight_hh_l0"][1], "num_layers": layers}


MODELS.register("gru")(GRUEncoder)
