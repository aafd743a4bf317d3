"""Predictions of a model that need not be loaded: a plain array, one row per window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lvm.core.errors import DataError
from lvm.data.npz import map_npy
from lvm.data.window_files import load_predictions, window_ids
from lvm.data.windows import Dataset


def predictions_of(path: Path, dataset: Dataset, context_length: int) -> Float[Tensor, "M D"]:
    """Return the unit predictions of a file for the test windows; DataError on anything else."""
    ids = window_ids(dataset.narrowed(context_length), "test")
    return read_predictions(path, len(dataset.test), dataset.bank.width, ids)


def read_predictions(
    path: Path, rows: int, width: int, ids: Int[np.ndarray, " M"] | None = None
) -> Float[Tensor, "M D"]:
    """Return unit predictions [rows, width] from a .npy file, or a .npz with the windows' ids.

    `ids` are those of the windows, where they are known. DataError on anything else.
    """
    try:
        array = map_npy(path) if path.suffix != ".npz" else load_predictions(path, ids)
    except DataError as error:
        raise DataError(
            f"the predictions cannot be read: {error} Save them with numpy.save."
        ) from None
    return unit_predictions(array, rows, width, f"the predictions {path}")


def unit_predictions(array: np.ndarray, rows: int, width: int, name: str) -> Float[Tensor, "M D"]:
    """Return predictions scaled to length 1; DataError, which names them, where they do not fit."""
    if array.shape != (rows, width) or array.dtype.kind != "f":
        raise DataError(
            f"{name} have shape {array.shape}, expected ({rows}, {width}) "
            "floats, one row per evaluation window in order; predict exactly these windows."
        )
    tensor = torch.from_numpy(np.array(array, dtype=np.float32))
    norms = tensor.norm(dim=1)
    bad = int((~torch.isfinite(norms) | (norms < 1e-6)).sum())
    if bad:
        raise DataError(f"{bad} rows of {name} are zero or non-finite; predict them again.")
    return torch.nn.functional.normalize(tensor, dim=1)
