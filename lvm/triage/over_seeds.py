"""Gains and levels over models of several seeds, with an interval over seeds and articles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from lvm.core.config.run import GateConfig
from lvm.core.errors import DataError
from lvm.core.records import SeededEstimate
from lvm.core.statistics import mean_over_seeds
from lvm.evaluation.measured import Measured, improvement, pair_problem, values_of


def gain_over_seeds(
    arms: Sequence[Measured], controls: Sequence[Measured], metric: str, config: GateConfig
) -> SeededEstimate:
    """Return the gain of an arm over its control, both trained with the same several seeds.

    The interval holds what a seed changes as well as what the articles do. Raises DataError when
    the evaluations cannot be paired, or are of fewer than two seeds.
    """
    if len(arms) != len(controls):
        raise DataError(
            f"there are {len(arms)} evaluations and {len(controls)} of the control, expected one "
            "of each per seed; evaluate what is missing."
        )
    articles = _articles_of_all([*arms, *controls])
    pairs = [improvement(a, c, metric) for a, c in zip(arms, controls, strict=True)]
    values = np.array([better - worse for better, worse in pairs])
    return mean_over_seeds(values, articles, confidence=config.confidence)


def level_over_seeds(
    evaluations: Sequence[Measured], metric: str, config: GateConfig
) -> SeededEstimate:
    """Return the mean of a metric over models of several seeds, with an interval as above.

    Raises DataError when the evaluations are not of the same windows, or of fewer than two seeds.
    """
    articles = _articles_of_all(evaluations)
    values = np.array([values_of(each, metric) for each in evaluations])
    return mean_over_seeds(values, articles, confidence=config.confidence)


def _articles_of_all(evaluations: Sequence[Measured]) -> Int[np.ndarray, " M"]:
    for each in evaluations:
        if problem := pair_problem(each, evaluations[0]):
            raise DataError(f"{problem}; evaluate every seed on the same windows.")
    return evaluations[0].articles if evaluations else np.empty(0, dtype=np.int64)
