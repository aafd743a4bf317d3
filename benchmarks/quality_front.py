"""The front of predictions without training, and how far above it a model lies.

The front is `mix + a * last`: the weighted mix of the context (least squares on train) pulled
towards the last vector. More of `a` costs cosine and brings R@5, so a model is compared with the
front where it has the same cosine, and where it has the same R@5. Both places are picked on the
judged windows themselves, which favours the front.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import ndtri, stdtrit
from torch import Tensor

from lvm.core.randomness import numpy_generator
from lvm.core.records import Estimate
from lvm.data.bank import Bank
from lvm.data.windows import Dataset, Windows
from lvm.evaluation.evaluate import evaluate

PULLS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 3.0)  # values of a
CONFIDENCE = 0.95
RESAMPLES = 2000


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
    """The members of the front, as PULLS has them, on the judged windows."""

    members: Sequence[Scores]

    def below(self, scores: Scores, *, purpose: str) -> Above:
        """Compare `scores` with the front at equal cosine and at equal R@5.

        Articles are resampled, and with each draw the place on the front is found anew: it is as
        uncertain as the rest, and near the greatest cosine a little less of it is much more R@5.
        The draws are stretched about the estimate: by Student's t of
        G - 1 degrees over the normal, and by sqrt(G / (G - 1)). `purpose` names the draws. Raises
        ValueError with fewer than two articles.
        """
        _, place = np.unique(scores.articles, return_inverse=True)
        sizes = np.bincount(place).astype(np.float64)
        num_articles = len(sizes)
        if num_articles < 2:
            raise ValueError(f"need at least 2 articles for an interval (got {num_articles})")
        sums = np.array(
            [
                [np.bincount(place, weights=getattr(of, name)) for name in ("cosine", "hit")]
                for of in (scores, *self.members)
            ]
        )  # [1 + A, 2, G]
        generator = numpy_generator(0, "bootstrap", purpose)
        picks = generator.integers(num_articles, size=(RESAMPLES, num_articles))
        drawn = sums[:, :, picks].sum(-1) / sizes[picks].sum(-1)  # [1 + A, 2, RESAMPLES]
        draws = np.array([_distances(means) for means in np.moveaxis(drawn, -1, 0)])
        value = np.array(_distances(sums.sum(-1) / sizes.sum()))
        tail = (1 + CONFIDENCE) / 2
        stretch = float(stdtrit(num_articles - 1, tail) / ndtri(tail))
        stretch *= (num_articles / (num_articles - 1)) ** 0.5
        limits = value + stretch * (np.quantile(draws, [1 - tail, tail], axis=0) - value)
        hit, cosine = (
            Estimate(
                value=float(value[at]),
                lower=float(limits[0, at]),
                upper=float(limits[1, at]),
                confidence=CONFIDENCE,
                num_windows=len(scores.hit),
                num_articles=num_articles,
            )
            for at in range(2)
        )
        return Above(hit, cosine)


def _distances(means: Float[np.ndarray, "members 2"]) -> tuple[float, float]:
    """Return how far the first pair (cosine, R@5) lies above the front of the others, both ways.

    The front runs from the member of greatest cosine to that of greatest R@5, each with the best
    R@5 so far. Beyond an end stands its last member, which understates the distance.
    """
    (cosine, hit), cosines, hits = means[0], means[1:, 0], means[1:, 1]
    first = int(cosines.argmax())
    last = max(first, int(hits.argmax()))
    falling = np.minimum.accumulate(cosines[first : last + 1])
    rising = np.maximum.accumulate(hits[first : last + 1])
    at_equal_cosine = np.interp(-cosine, -falling, rising)
    # Of members with one R@5 the first, whose cosine is the greatest.
    kept = np.concatenate([[True], rising[1:] > rising[:-1]])
    at_equal_hit = np.interp(hit, rising[kept], falling[kept])
    return float(hit - at_equal_cosine), float(cosine - at_equal_hit)
