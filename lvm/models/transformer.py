"""A small causal transformer over the context: the attention network to beat."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lvm.core.config.recipe import ModelConfig
from lvm.core.errors import ConfigError
from lvm.models.base import MAX_CONTEXT, MODELS, no_weight_decay, width_adapters
from lvm.models.foreign_forms import Args, Shapes, first, num_parts

HEAD_COUNTS = ("num_heads", "n_heads", "nhead")  # spellings in training scripts


class RecencyEmbedding(nn.Module):
    """Adds a learned vector per position, counted back from the last one.

    Counted so, the newest vector has one position at every context length.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.weight = no_weight_decay(nn.Parameter(0.02 * torch.randn(MAX_CONTEXT, hidden)))

    def forward(self, u: Float[Tensor, "B T E"]) -> Float[Tensor, "B T E"]:
        """Return u with the positions added."""
        return u + self.weight[: u.shape[1]].flip(0)


def num_heads(config: ModelConfig) -> int:
    """Return hidden / head_dim; ConfigError when it is not a whole number."""
    if config.hidden % config.head_dim:
        raise ConfigError(
            f"model.head_dim must divide hidden = {config.hidden} (got {config.head_dim})."
        )
    return config.hidden // config.head_dim


class TransformerLayer(nn.Module):
    """Causal attention and a two-layer perceptron, each with its norm in front and a residual."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        inner = config.hidden * config.expand
        self.num_heads = num_heads(config)
        self.norm_attention = nn.LayerNorm(config.hidden)
        self.qkv = nn.Linear(config.hidden, 3 * config.hidden)
        self.attention_out = nn.Linear(config.hidden, config.hidden)
        self.norm_mlp = nn.LayerNorm(config.hidden)
        self.mlp = nn.Sequential(
            nn.Linear(config.hidden, inner), nn.GELU(), nn.Linear(inner, config.hidden)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, u: Float[Tensor, "B T E"]) -> Float[Tensor, "B T E"]:
        """Return u after attention to earlier positions and the perceptron."""
        parts = self.qkv(self.norm_attention(u)).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each [B, heads, T, head_dim]
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        u = u + self.dropout(self.attention_out(mixed.transpose(1, 2).flatten(2)))
        return cast(Tensor, u + self.dropout(self.mlp(self.norm_mlp(u))))


class TransformerEncoder(nn.Module):
    """num_layers of causal attention, read out at the last position."""

    def __init__(self, config: ModelConfig, width: int) -> None:
        super().__init__()
        self.project_in, self.project_out = width_adapters(config, width)
        self.positions = RecencyEmbedding(config.hidden)
        self.layers = nn.Sequential(*(TransformerLayer(config) for _ in range(config.num_layers)))
        self.norm_f = nn.LayerNorm(config.hidden)

    def forward(self, contexts: Float[Tensor, "B T D"]) -> Float[Tensor, "B D"]:
        """Return the projected output at the last position, [B, D]."""
        u = self.layers(self.positions(self.project_in(contexts)))
        return cast(Tensor, self.project_out(self.norm_f(u[:, -1])))

    @staticmethod
    def sizes_of(shapes: Shapes, args: Args) -> dict[str, object]:
        """Return the sizes that weights made elsewhere, and their args, show."""
        inner, hidden = shapes["encoder.layers.0.mlp.0.weight"]
        sizes: dict[str, object] = {
            "hidden": hidden,
            "expand": inner // hidden,
            "num_layers": num_parts(shapes, "encoder.layers."),
        }
        heads = first(args, HEAD_COUNTS)
        if isinstance(heads, int) and heads > 0:  # shapes do not tell how many heads cut a row
            sizes["head_dim"] = hidden // heads
        return sizes


MODELS.register("transformer")(TransformerEncoder)
