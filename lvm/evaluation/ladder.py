"""The ladder on a split: every untrained predictor under the same metrics as the models."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from lvm.data.windows import Dataset
from lvm.evaluation.evaluate import evaluate
from lvm.evaluation.metrics import PerQuery
from lvm.models.ladder import TrivialPredictor
from lvm.records import Evaluation


def judge_ladder(
    predictors: Mapping[str, TrivialPredictor],
    dataset: Dataset,
    split: str,
    device: torch.device,
    keep: Callable[[str, PerQuery], None] = lambda name, per_query: None,
) -> dict[str, Evaluation]:
    """Return the evaluation of each predictor, ranked on `device`, where the pool is put once.

    `keep` receives the results of each predictor on every window.
    """
    windows, found = dataset.split(split), {}
    for name, predict in predictors.items():
        predictions = torch.from_numpy(predict(windows)).to(device)
        found[name], per_query = evaluate(
            predictions, windows, dataset.bank, space="raw", split=split
        )
        keep(name, per_query)
    return found
