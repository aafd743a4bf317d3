"""From a predictor and windows to rows that can be searched."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lvm.data.windows import Dataset, Windows
from lvm.models.predictor import Predictor

BLOCK = 2048  # rows per forward pass


@torch.no_grad()
def predict(
    predictor: Predictor, dataset: Dataset, windows: Windows, space: str
) -> Float[Tensor, "M W"]:
    """Return the predictions for `windows` in the space of the search, unit rows on the CPU."""
    device = next(predictor.parameters()).device
    predictor.eval()
    parts = []
    for start in range(0, len(windows), BLOCK):
        ids = windows.contexts[start : start + BLOCK]
        contexts = torch.from_numpy(dataset.bank.rows(ids)).to(device)
        parts.append(predictor.queries(contexts, space).float().cpu())
    return torch.cat(parts)


@torch.no_grad()
def search_pool(predictor: Predictor, dataset: Dataset, space: str) -> Float[Tensor, "N W"]:
    """Return every bank row in the space of the search, which may be the bank itself."""
    vectors = dataset.bank.tensor
    if space == "raw" and not predictor.model.has_document_tower:
        return vectors
    device = next(predictor.parameters()).device
    predictor.eval()
    parts = [
        predictor.documents(vectors[start : start + BLOCK].to(device), space).float().cpu()
        for start in range(0, len(vectors), BLOCK)
    ]
    return torch.cat(parts)
