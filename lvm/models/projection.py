"""The projection head that the contrastive loss may look through."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lvm.core.config.recipe import HeadConfig
from lvm.core.randomness import derive_seed
from lvm.models.base import seeded


class ProjectionHead(nn.Module):
    """Linear D -> hidden, GELU, LayerNorm, Linear hidden -> width; the output has unit length.

    The state dict has the names net.0, net.2 and net.3 (weight and bias each).
    """

    def __init__(self, width_in: int, config: HeadConfig) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(width_in, config.hidden),
            nn.GELU(),
            nn.LayerNorm(config.hidden),
            nn.Linear(config.hidden, config.width),
        )

    def forward(self, vectors: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows W"]:
        """Return unit vectors [..., width] for vectors [..., D]; no caller normalises again."""
        return F.normalize(cast(Tensor, self.net(vectors)).float(), dim=-1)


def build_head(config: HeadConfig, width: int, seed: int) -> ProjectionHead:
    """Return the head for vectors of the given width D; its weights depend on the seed alone."""
    return seeded(lambda: ProjectionHead(width, config), derive_seed(seed, "head"))
