"""From a predictor and windows to rows that can be searched, on the predictor's device.

Predictions and pool never leave that device: moving 584,604 rows of width 768 to the host and
ranking them there takes minutes, ranking them where they were made takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lvm.core.device import ids_on
from lvm.data.bank import Bank
from lvm.data.windows import Dataset, Windows
from lvm.models.predictor import Predictor

BLOCK = 2048  # rows per forward pass


@torch.no_grad()
def predict(
    predictor: Predictor, dataset: Dataset, windows: Windows, space: str
) -> Float[Tensor, "M W"]:
    """Return the predictions for `windows` in the space of the search, unit rows.

    They are on the predictor's device.
    """
    device = device_of(predictor)
    predictor.eval()
    starts = range(0, len(windows), BLOCK)
    contexts = (_rows(dataset.bank, windows.contexts[i : i + BLOCK], device) for i in starts)
    return torch.cat([predictor.queries(block, space).float() for block in contexts])


@torch.no_grad()
def search_pool(predictor: Predictor, dataset: Dataset, space: str) -> Float[Tensor, "N W"]:
    """Return every bank row in the space of the search, on the predictor's device.

    Where the model leaves the rows as they are, this is the bank itself, put on the device once per
    process.
    """
    vectors = dataset.bank.on(device_of(predictor))
    if space == "raw" and not predictor.model.has_document_tower:
        return vectors
    predictor.eval()
    return by_block(lambda rows: predictor.documents(rows, space), vectors)


@torch.no_grad()
def by_block(
    apply: Callable[[Float[Tensor, "b D"]], Float[Tensor, "b W"]], rows: Float[Tensor, "N D"]
) -> Float[Tensor, "N W"]:
    """Return what a module makes of rows, as float32, 2,048 of them at a time."""
    return torch.cat([apply(part).float() for part in torch.split(rows, BLOCK)])


def device_of(predictor: Predictor) -> torch.device:
    """Return where a predictor computes."""
    return next(predictor.parameters()).device


def _rows(bank: Bank, ids: Int[np.ndarray, "b T"], device: torch.device) -> Float[Tensor, "b T D"]:
    if device.type == "cpu":  # a mapped bank is not loaded whole for a few windows
        return torch.from_numpy(bank.rows(ids))
    return bank.on(device)[ids_on(ids, device)]
