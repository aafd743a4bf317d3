"""What MLflow loads a logged model with: `mlflow.pyfunc.load_model(uri).predict(contexts)`.

The logged files are a checkpoint of this package, safetensors weights and a JSON manifest; nothing
is unpickled, and no code comes out of the store. This module must be importable where it is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float32

from lvm.core.errors import UsageError
from lvm.models.predictor import Predictor
from lvm.training.checkpoint import load_checkpoint

BLOCK = 2048  # rows per forward pass
LENGTH_TOLERANCE = 1e-2


class NextVectors:
    """Predicts unit next vectors in the space of the bank, whatever space the search is in."""

    def __init__(self, predictor: Predictor, context_length: int) -> None:
        self.predictor = predictor
        self.context_length, self.width = context_length, predictor.model.width

    @torch.no_grad()
    def predict(
        self, model_input: Float32[np.ndarray, "B T D"], params: Mapping[str, object] | None = None
    ) -> Float32[np.ndarray, "B D"]:
        """Return unit predictions [B, D] for unit contexts [B, T, D], oldest vector first.

        `params` is MLflow's; there are none. Raises UsageError on contexts of another shape or
        length than the model was trained on.
        """
        contexts = np.asarray(model_input, dtype=np.float32)
        self._check(contexts)
        parts = [
            self.predictor.model(torch.from_numpy(contexts[start : start + BLOCK])).numpy()
            for start in range(0, len(contexts), BLOCK)
        ]
        empty = np.empty((0, self.width), dtype=np.float32)
        return np.concatenate(parts) if parts else empty

    def _check(self, contexts: npt.NDArray[np.float32]) -> None:
        wanted = (self.context_length, self.width)
        if contexts.ndim != 3 or contexts.shape[1:] != wanted:
            raise UsageError(
                f"the contexts have shape {list(contexts.shape)}, but the model was trained on "
                f"[B, {wanted[0]}, {wanted[1]}]; give the last {wanted[0]} vectors of each "
                "text, oldest first."
            )
        lengths = np.linalg.norm(contexts, axis=-1)
        if not np.all(np.abs(lengths - 1.0) < LENGTH_TOLERANCE):  # also where one is NaN
            raise UsageError(
                f"the contexts have vectors of length {lengths.min():.3g} to "
                f"{lengths.max():.3g}, but the model was trained on unit vectors; divide each "
                "by its length."
            )


def _load_pyfunc(data_path: str) -> NextVectors:
    """Return the model in a checkpoint folder; MLflow calls this by name.

    Raises CheckpointError when the folder does not give back its own probe outputs.
    """
    predictor, recipe, _ = load_checkpoint(Path(data_path))
    return NextVectors(predictor, recipe.context_length)
