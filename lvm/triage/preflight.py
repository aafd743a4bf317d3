"""What is known to fail before anything is written or started."""

from __future__ import annotations

from pathlib import Path

from lvm.config import RunConfig
from lvm.data.windows import Dataset
from lvm.errors import CheckpointError, ConfigError, DataError
from lvm.evaluation.predictions import read_predictions
from lvm.models.predictor import Predictor
from lvm.training.checkpoint import read_manifest


def check_request(
    config: RunConfig, dataset: Dataset, *, checkpoint: Path | None, predictions: Path | None
) -> None:
    """Refuse a recipe, checkpoint or predictions that do not fit each other or the data.

    Raises ConfigError (unknown model, sizes that do not fit together, workers that do not share a
    batch evenly), DataError (fewer train windows than a batch, unfit predictions), CheckpointError
    (a model of another width).
    """
    width = dataset.bank.width
    if checkpoint is not None:
        seen = (read_manifest(checkpoint) or {}).get("width")
        if seen != width:
            raise CheckpointError(
                f"the model in {checkpoint} has width {seen}, the vectors have {width}, allowed is "
                "the same; give the bank it was trained on."
            )
    if predictions is not None:
        read_predictions(predictions, len(dataset.test), width)
    Predictor(config.recipe, width)  # finds an unknown name and sizes that do not fit together
    _check_batch(config, dataset)


def _check_batch(config: RunConfig, dataset: Dataset) -> None:
    batch = config.recipe.training.batch_size
    if len(dataset.train) < batch:
        raise DataError(
            f"{dataset.bank.source}: the train split has {len(dataset.train)} windows, allowed are "
            f"{batch} or more (training.batch_size); lower the batch size or embed more text."
        )
    for key in ("workers_per_arm", "confirm_workers"):
        workers = getattr(config.schedule, key)
        if batch % workers:
            raise ConfigError(
                f"training.batch_size is {batch}, allowed is a multiple of the {workers} workers "
                f"of schedule.{key}; change one of the two."
            )
