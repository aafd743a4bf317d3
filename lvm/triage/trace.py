"""The trace that reading the test articles leaves in a model: it does better there than on dev.

Test and dev articles are split from one collection, so a model that has read neither gains as much
on the one as on the other, over any predictor that has read neither. One that has read the test
articles and not the dev articles gains more on test. Two such predictors say how hard each side is:

    AR-only               trained in this run
    nearest train window  a memoriser of the train split: it answers with what followed the train
                          window nearest to the last context, and finds a side easy that repeats
                          train text

A trace is found where the surplus over AR-only is clear of zero, and the second does not explain
it: over the nearest train window there is a surplus too.

What leaves no trace: a model that has read the dev articles too, and one that read a few of the
test articles, or read them and kept little. No trace is no proof.

The interval of the difference of two independent means is joined from theirs as MOVER does (Zou and
Donner 2008): each limit takes the nearer half-widths of the two sides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lvm.config import GateConfig
from lvm.data.windows import Dataset, Windows
from lvm.errors import DataError
from lvm.evaluation.metrics import PerQuery
from lvm.randomness import numpy_generator
from lvm.records import Estimate
from lvm.statistics import bootstrap_mean

CONFIDENCE = 0.99  # a false trace accuses a person: five in a thousand, on one side
MOST_REMEMBERED = 32_768  # train windows among which the nearest is looked for
BLOCK = 1024  # windows compared with them at once

Sides = tuple[Float[np.ndarray, " m"], Float[np.ndarray, " n"]]  # of each test and dev window


@dataclass(frozen=True, kw_only=True)
class Trace:
    """How much more a model gains on test than on dev, in cosine, over two predictors."""

    over_ar_only: Estimate
    over_nearest_train: Estimate

    @property
    def found(self) -> bool:
        """Whether the model clearly gains more on test, and train text does not explain it."""
        return self.over_ar_only.lower > 0 and self.over_nearest_train.value > 0

    def to_plain(self) -> dict[str, object]:
        """Return JSON values."""
        estimates = (self.over_ar_only, self.over_nearest_train)
        names = ("over_ar_only", "over_nearest_train")
        return {"found": self.found, **dict(zip(names, map(vars, estimates), strict=True))}


def trace(
    test: PerQuery, dev: PerQuery, ar_test: PerQuery, ar_dev: PerQuery, dataset: Dataset,
    gates: GateConfig, seed: int,
) -> Trace | None:  # fmt: skip
    """Return the trace in a model's results on all test and dev windows of `dataset`.

    None where a side has fewer than two articles or a cosine is not finite, or where results are of
    other windows than the dataset's.
    """
    if (len(test), len(dev)) != (len(dataset.test), len(dataset.dev)):
        return None
    if (len(ar_test), len(ar_dev)) != (len(test), len(dev)):
        return None
    nearest = nearest_train_cosines(dataset, seed)

    def over(reference: Sides) -> Estimate:
        means = [
            bootstrap_mean(
                np.asarray(model.cosine, np.float64) - cosines, model.articles,
                confidence=CONFIDENCE, resamples=gates.resamples, seed=seed,
                purpose=f"trace {side}",
            )
            for side, model, cosines in zip(("test", "dev"), (test, dev), reference, strict=True)
        ]  # fmt: skip
        return difference(*means)

    try:
        return Trace(
            over_ar_only=over((ar_test.cosine, ar_dev.cosine)), over_nearest_train=over(nearest)
        )
    except DataError:
        return None


def difference(a: Estimate, b: Estimate) -> Estimate:
    """Return a - b of two independent means with its interval, by MOVER."""
    value = a.value - b.value
    below = math.hypot(a.value - a.lower, b.upper - b.value)
    above = math.hypot(a.upper - a.value, b.value - b.lower)
    return Estimate(
        value=value, lower=value - below, upper=value + above, confidence=a.confidence,
        num_windows=a.num_windows + b.num_windows, num_articles=a.num_articles + b.num_articles,
    )  # fmt: skip


def nearest_train_cosines(dataset: Dataset, seed: int) -> Sides:
    """Return the cosine of each test and dev target with what followed the nearest train window.

    Windows are near by their last contexts. Of many train windows a sample is remembered.
    """
    train = dataset.train
    if len(train) > MOST_REMEMBERED:
        generator = numpy_generator(seed, "nearest train window")
        chosen = np.sort(generator.choice(len(train), MOST_REMEMBERED, replace=False))
        train = train.select(chosen)
    last, followed = _unit(dataset, train.contexts[:, -1]), _unit(dataset, train.targets)

    def cosines(windows: Windows) -> Float[np.ndarray, " m"]:
        found = [
            np.einsum(
                "md,md->m",
                followed[(_unit(dataset, block.contexts[:, -1]) @ last.T).argmax(axis=1)],
                _unit(dataset, block.targets),
            )
            for start in range(0, len(windows), BLOCK)
            for block in [windows.select(np.arange(start, min(start + BLOCK, len(windows))))]
        ]
        return np.concatenate(found).astype(np.float64)

    return cosines(dataset.test), cosines(dataset.dev)


def _unit(dataset: Dataset, rows: np.ndarray) -> Float[np.ndarray, "n D"]:
    vectors = dataset.bank.rows(rows)
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))
