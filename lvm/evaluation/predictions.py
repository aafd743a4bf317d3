"""Predictions of a model that need not be loaded: a plain array, one row per window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lvm.data.npz import map_npy
from lvm.errors import DataError


def read_predictions(path: Path, rows: int, width: int) -> Float[Tensor, "M D"]:
    """Return unit predictions from a .npy file [rows, width]; DataError on anything else."""
    try:
        array = map_npy(path)
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
            "floats, one row per evaluation window in order; predict for exactly these windows."
        )
    tensor = torch.from_numpy(np.array(array, dtype=np.float32))
    norms = tensor.norm(dim=1)
    bad = int((~torch.isfinite(norms) | (norms < 1e-6)).sum())
    if bad:
        raise DataError(
            f"{name} hold {bad} rows that are zero or not finite, expected none; "
            "predict them again."
        )
    return torch.nn.functional.normalize(tensor, dim=1)
