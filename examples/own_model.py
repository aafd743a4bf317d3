"""Train a network of your own inside lvm: register it, name it in a recipe, read its epochs.

python examples/own_model.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from lvm.core.config.recipe import ModelConfig, Recipe
from lvm.data.sample import load_sample
from lvm.data.windows import dataset_from_bank
from lvm.evaluation.evaluate import evaluate
from lvm.evaluation.inference import predict
from lvm.models.base import MODELS
from lvm.models.predictor import Predictor
from lvm.training.loop import train


class Weighted(nn.Module):
    """One weight per position of the context, and a linear map of their sum."""

    def __init__(self, width: int, length: int = 5) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(length))
        self.map = nn.Linear(width, width)

    def forward(self, contexts: Tensor) -> Tensor:
        """Return the next vectors [B, D] of contexts [B, T, D]."""
        mixed = torch.einsum("t,btd->bd", self.weights.softmax(0), contexts)
        mapped: Tensor = self.map(mixed)
        return mixed + mapped


@MODELS.register("weighted")
def build_weighted(config: ModelConfig, width: int) -> nn.Module:
    """Return the network for vectors of this width."""
    return Weighted(width)


def main() -> None:
    """Train it for two epochs on the bundled sample and print what it reaches on dev."""
    dataset = dataset_from_bank(load_sample(), context_length=5)
    recipe = Recipe().with_changes({"model.name": "weighted", "training.epochs": 2})

    def on_dev(predictor: Predictor, epoch: int) -> dict[str, float]:
        queries = predict(predictor, dataset, dataset.dev, "raw")
        found, _ = evaluate(queries, dataset.dev, dataset.bank, space="raw", split="dev")
        return {"eval_cosine": float(found.masked["eval_cosine"] or 0.0)}

    with tempfile.TemporaryDirectory() as folder:
        for record in train(recipe, dataset, Path(folder) / "arm", validate=on_dev):
            loss, cosine = record.train["loss"], record.dev["eval_cosine"]
            print(f"epoch {record.epoch}: loss {loss:.3f}, dev cosine {cosine:.3f}")


if __name__ == "__main__":
    main()
