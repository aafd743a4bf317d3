"""The front of predictions without training, and how far above it a model lies.

The front is `mix + a * last`: the weighted mix of the context (least squares on train) pulled
towards the last vector. More of `a` costs cosine and brings R@5, so a model is compared with the
front where it has the same cosine, and where it has the same R@5. Both places are picked on the
judged windows themselves, which favours the front.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lvm.data.bank import Bank
from lvm.data.windows import Dataset, Windows
from lvm.evaluation.evaluate import evaluate
from lvm.records import Estimate
from lvm.statistics import mean_difference

PULLS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 3.0)  # values of a
CONFIDENCE = 0.95


@dataclass(frozen=True, eq=False)
class Scores:
    """What a predictor came to on each of M windows, and the article of each."""

    cosine: Float[np.ndarray, " M"]
    hit: Float[np.ndarray, " M"]  # whether the target is among the first 5
    reciprocal: Float[np.ndarray, " M"]  # 1 / rank
    articles: np.ndarray  # [M] int64

    @classmethod
    def of(cls, predictions: Float[Tensor, "M D"], windows: Windows, bank: Bank) -> Scores:
        """Judge predictions as the product does: exact ranks, own contexts masked."""
        _, measured = evaluate(predictions, windows, bank, space="raw", split="test")
        ranks = measured.masked
        return cls(measured.cosine, ranks.hit(5), ranks.reciprocal_rank, measured.articles)

    @classmethod
    def joined(cls, parts: Sequence[Scores]) -> Scores:
        """Return the scores of the windows of several folds together."""
        names = ("cosine", "hit", "reciprocal", "articles")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def mix_weights(bank: Bank, windows: Windows) -> Float[Tensor, " T"]:
    """Return the weight of each position that minimises |sum_t w_t c_t - y|^2 over the windows."""
    contexts, targets = (
        bank.tensor[torch.from_numpy(w)] for w in (windows.contexts, windows.targets)
    )
    normal = torch.einsum("mtd,msd->ts", contexts, contexts)
    return torch.linalg.solve(normal, torch.einsum("mtd,md->t", contexts, targets))


def front_members(dataset: Dataset) -> list[Scores]:
    """Return the scores of every member of the front, fitted on train, on the test windows."""
    contexts = dataset.bank.tensor[torch.from_numpy(dataset.test.contexts)]
    mix = torch.einsum("t,mtd->md", mix_weights(dataset.bank, dataset.train), contexts)
    last = contexts[:, -1]
    return [Scores.of(mix + pull * last, dataset.test, dataset.bank) for pull in PULLS]


@dataclass(frozen=True)
class Above:
    """How far a model lies above the front, with intervals over articles."""

    hit: Estimate  # R@5 minus that of the front at equal cosine
    cosine: Estimate  # cosine minus that of the front at equal R@5


@dataclass(frozen=True, eq=False)
class Front:
    """The corners of the front, by falling cosine and rising R@5.

    Between two corners lies what a coin reaches that picks one of the two for every window: no
    member lies above these lines.
    """

    corners: list[Scores]

    @classmethod
    def of(cls, members: Sequence[Scores]) -> Front:
        """Find the corners among any number of members."""
        corners: list[Scores] = []
        for member in sorted(members, key=lambda m: (-_mean(m, "cosine"), -_mean(m, "hit"))):
            if corners and _mean(member, "hit") <= _mean(corners[-1], "hit"):
                continue
            while len(corners) > 1 and _bends_in(corners[-2], corners[-1], member):
                corners.pop()
            corners.append(member)
        return cls(corners)

    def below(self, scores: Scores) -> Above:
        """Compare `scores` with the front at equal cosine and at equal R@5, window by window.

        Beyond an end of the front stands its last corner, which understates the distance; its
        interval is the wider of a level and a sloping front.
        Raises DataError with fewer than two articles.
        """
        return Above(
            hit=self._gain(scores, "hit", "cosine"),
            cosine=self._gain(scores, "cosine", "hit"),
        )

    def _gain(self, scores: Scores, metric: str, equal: str) -> Estimate:
        """Return the gain in `metric` over the front where it equals the scores in `equal`.

        Where the two are equal is itself uncertain. To first order a window that moves the mean of
        `equal` moves the place on the front by the slope there: hence the slope in what is paired.
        """
        corners = sorted(self.corners, key=lambda corner: _mean(corner, equal))
        places = [_mean(corner, equal) for corner in corners]
        place = float(np.interp(_mean(scores, equal), places, np.arange(len(corners))))
        low = min(int(place), max(0, len(corners) - 2))
        first, second = corners[low], corners[min(low + 1, len(corners) - 1)]
        run = _mean(second, equal) - _mean(first, equal)
        slope = (_mean(second, metric) - _mean(first, metric)) / run if run else 0.0
        inside = places[0] < _mean(scores, equal) < places[-1]

        def paired(slope: float) -> Estimate:
            ours, one, other = (
                getattr(of, metric) - slope * getattr(of, equal) for of in (scores, first, second)
            )
            front = (low + 1 - place) * one + (place - low) * other
            return mean_difference(ours, front, scores.articles).estimate(CONFIDENCE)

        if inside:
            return paired(slope)
        # Other articles might have put the scores inside, where the front slopes.
        level, sloping = paired(0.0), paired(slope)
        lower, upper = min(level.lower, sloping.lower), max(level.upper, sloping.upper)
        return dataclasses.replace(level, lower=lower, upper=upper)


def _mean(scores: Scores, metric: str) -> float:
    return float(getattr(scores, metric).mean(dtype=np.float64))


def _bends_in(first: Scores, middle: Scores, last: Scores) -> bool:
    """Tell whether the middle one lies on or below the line between its neighbours."""
    (x0, y0), (x1, y1), (x2, y2) = (
        (_mean(at, "cosine"), _mean(at, "hit")) for at in (first, middle, last)
    )
    return (y1 - y0) * (x0 - x2) <= (y2 - y0) * (x0 - x1)
