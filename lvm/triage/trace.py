"""The trace that reading the test articles leaves in a model: it does better there than on dev.

Test and dev articles are split from one collection, so a model that has read neither does as well
on the one as on the other, but for how hard each side is. One that has read the test articles and
not the dev articles does better on test. How hard a window is, is said by a reference that has read
neither: AR-only, trained in this run; the mean of the contexts; or none. The one against which the
model's cosine varies least over the dev articles is taken; the test side has no part in the choice.

A trace is found where the surplus on test is clear of zero, and text of the train split does not
explain it. A side that repeats train text is easy for whoever has read train, and so for a
memoriser of it, which answers with what followed the nearest train window: beside that one a tenth
of the surplus must be left.

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

from lvm.core.errors import DataError
from lvm.core.randomness import numpy_generator
from lvm.core.records import Estimate
from lvm.core.statistics import article_mean
from lvm.data.windows import Dataset, Windows
from lvm.evaluation.metrics import PerQuery
from lvm.triage.events.evidence import TraceTold

CONFIDENCE = 0.99  # a false trace accuses a person: five in a thousand, on one side
UNEXPLAINED = 0.1  # of the surplus, that is left against the nearest train window
MOST_REMEMBERED = 32_768  # train windows among which the nearest is looked for
BLOCK = 1024  # windows compared with them at once

Sides = tuple[Float[np.ndarray, " m"], Float[np.ndarray, " n"]]  # of each test and dev window


@dataclass(frozen=True, kw_only=True)
class Trace:
    """How much higher a model's cosine is on test than on dev, relative to two references."""

    reference: str  # against which the model varies least
    surplus: Estimate
    over_nearest_train: Estimate  # the same against the nearest train window

    @property
    def found(self) -> bool:
        """Whether the model clearly does better on test, and train text does not explain it."""
        left = self.over_nearest_train.value / max(self.surplus.value, 1e-12)
        return self.surplus.lower > 0 and left > UNEXPLAINED

    def in_journal(self) -> TraceTold:
        """Return the trace as a journal holds it."""
        return TraceTold(found=self.found, **vars(self))


def trace(
    test: PerQuery,
    dev: PerQuery,
    ar_test: PerQuery,
    ar_dev: PerQuery,
    dataset: Dataset,
    seed: int,
) -> Trace | None:
    """Return the trace in a model's results on all test and dev windows of `dataset`.

    None where a side has fewer than two articles or a cosine is not finite, or where results are of
    other windows than the dataset's.
    """
    lengths = [len(dataset.test), len(dataset.dev)]
    if [len(test), len(dev)] != lengths or [len(ar_test), len(ar_dev)] != lengths:
        return None
    references: dict[str, Sides] = {
        "AR-only": (ar_test.cosine, ar_dev.cosine),
        "the mean of the contexts": (
            mean_context_cosines(dataset, dataset.test),
            mean_context_cosines(dataset, dataset.dev),
        ),
        "nothing": (np.zeros(len(test)), np.zeros(len(dev))),
    }

    def beside(reference: Sides) -> tuple[Estimate, Estimate]:
        levels = [
            article_mean(np.asarray(model.cosine, np.float64) - cosines, model.articles).estimate(
                CONFIDENCE
            )
            for model, cosines in zip((test, dev), reference, strict=True)
        ]
        return levels[0], levels[1]

    try:
        found = {name: beside(reference) for name, reference in references.items()}
        over_nearest = difference(*beside(nearest_train_cosines(dataset, seed)))
    except DataError:
        return None
    name = min(found, key=lambda one: found[one][1].upper - found[one][1].lower)
    return Trace(reference=name, surplus=difference(*found[name]), over_nearest_train=over_nearest)


def difference(a: Estimate, b: Estimate) -> Estimate:
    """Return a - b of two independent means with its interval, by MOVER."""
    value = a.value - b.value
    below = math.hypot(a.value - a.lower, b.upper - b.value)
    above = math.hypot(a.upper - a.value, b.value - b.lower)
    return Estimate(
        value=value,
        lower=value - below,
        upper=value + above,
        confidence=a.confidence,
        num_windows=a.num_windows + b.num_windows,
        num_articles=a.num_articles + b.num_articles,
    )


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


def mean_context_cosines(dataset: Dataset, windows: Windows) -> Float[np.ndarray, " m"]:
    """Return the cosine of each target with the mean of its contexts."""
    means = dataset.bank.rows(windows.contexts.ravel())
    means = means.reshape(*windows.contexts.shape, -1).mean(axis=1)
    lengths = np.maximum(np.linalg.norm(means, axis=1), 1e-12)
    cosines = np.einsum("md,md->m", means, _unit(dataset, windows.targets)) / lengths
    return np.asarray(cosines, np.float64)


def _unit(dataset: Dataset, rows: np.ndarray) -> Float[np.ndarray, "n D"]:
    vectors = dataset.bank.rows(rows)
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))
