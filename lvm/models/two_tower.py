"""Two towers: one network reads the context, another moves the vectors that are searched.

The other models must hit the vectors where they lie. Here the space of the search is learned too
(Karpukhin et al. 2020, "Dense Passage Retrieval", section 3, on frozen embeddings).
"""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lvm.core.config.recipe import ModelConfig
from lvm.models.base import MODELS, width_adapters
from lvm.models.foreign_forms import Args, Shapes, num_parts
from lvm.models.transformer import RecencyEmbedding, num_heads


class ResidualMLP(nn.Module):
    """v + W2 gelu(W1 norm(v)), with a correction of length about `start` at the beginning."""

    def __init__(self, width: int, inner: int, dropout: float, start: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)
        # gelu of a unit normal has a root mean square of about .65.
        nn.init.normal_(self.down.weight, std=start / (0.65 * (inner * width) ** 0.5))
        nn.init.zeros_(self.down.bias)

    def forward(self, values: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows D"]:
        """Return the corrected values."""
        hidden = nn.functional.gelu(self.up(self.norm(values)))
        return cast(Tensor, values + self.dropout(self.down(hidden)))


class TwoTowerEncoder(nn.Module):
    """Attention-pooled perceptron over the context, and a residual perceptron over documents."""

    def __init__(self, config: ModelConfig, width: int) -> None:
        super().__init__()
        self.num_heads, inner = num_heads(config), config.hidden * config.expand
        self.project_in, self.project_out = width_adapters(config, width)
        self.positions = RecencyEmbedding(config.hidden)
        self.norm_in = nn.LayerNorm(config.hidden)
        self.scores = nn.Linear(config.hidden, self.num_heads, bias=False)
        self.values = nn.Linear(config.hidden, config.hidden)
        self.mlp = nn.Sequential(
            *(
                ResidualMLP(config.hidden, inner, config.dropout, 1.0)
                for _ in range(config.num_layers)
            )
        )
        # Near the identity at first: the pool starts as the bank itself.
        self.document_tower = ResidualMLP(width, inner, config.dropout, 0.1)

    def forward(self, contexts: Float[Tensor, "B T D"]) -> Float[Tensor, "B D"]:
        """Return the query vector [B, D] of each context."""
        u = self.norm_in(self.positions(self.project_in(contexts)))
        attention = self.scores(u).softmax(dim=1)  # [B, T, heads]: one weighting of T per head
        values = self.values(u).unflatten(-1, (self.num_heads, -1))
        pooled = torch.einsum("bth,bthp->bhp", attention, values).flatten(1)
        return cast(Tensor, self.project_out(self.mlp(pooled)))

    def encode_documents(self, vectors: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows D"]:
        """Return the vectors to search among, of any length, [..., D]."""
        return cast(Tensor, self.document_tower(vectors))

    @staticmethod
    def sizes_of(shapes: Shapes, args: Args) -> dict[str, object]:
        """Return the sizes that weights made elsewhere show."""
        heads, hidden = shapes["encoder.scores.weight"]
        return {
            "hidden": hidden,
            "head_dim": hidden // heads,
            "expand": shapes["encoder.mlp.0.up.weight"][0] // hidden,
            "num_layers": num_parts(shapes, "encoder.mlp."),
        }


MODELS.register("two_tower")(TwoTowerEncoder)
