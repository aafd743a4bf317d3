"""The front of predictions without training, and how far above it a model lies.

The front is `mix + a * last`: the weighted mix of the context (least squares on train) pulled
towards the last vector. More of `a` costs cosine and brings R@5, so a model is compared with the
member of the front that has the same cosine, and with the member that has the same R@5. Both are
picked on the judged windows themselves, which favours the front.
"""

from __future__ import annotations

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
from lvm.statistics import bootstrap_difference

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

    hit: Estimate  # R@5 minus that of the member of equal cosine
    cosine: Estimate  # cosine minus that of the member of equal R@5


@dataclass(frozen=True, eq=False)
class Front:
    """The members that no other member beats in both metrics, by falling cosine."""

    members: list[Scores]

    @classmethod
    def of(cls, members: Sequence[Scores]) -> Front:
        """Keep the members on the front, of any number of them."""
        kept: list[Scores] = []
        for member in sorted(members, key=lambda m: -float(m.cosine.mean())):
            if not kept or member.hit.mean() > kept[-1].hit.mean():
                kept.append(member)
        return cls(kept)

    def below(self, scores: Scores, *, purpose: str) -> Above:
        """Compare `scores` with the members of equal cosine and of equal R@5, window by window.

        Between two members lies their average, weighted so that the means agree. Beyond an end of
        the front stands its last member, which understates the distance. `purpose` names the draws
        of the bootstrap. Raises DataError with fewer than two articles.
        """
        cosines = [-float(member.cosine.mean()) for member in self.members]
        hits = [float(member.hit.mean()) for member in self.members]
        of_equal_cosine = self._between(cosines, -float(scores.cosine.mean()), "hit")
        of_equal_hit = self._between(hits, float(scores.hit.mean()), "cosine")
        return Above(
            _difference(scores.hit, of_equal_cosine, scores.articles, f"{purpose}/hit"),
            _difference(scores.cosine, of_equal_hit, scores.articles, f"{purpose}/cosine"),
        )

    def _between(self, rising: list[float], value: float, name: str) -> Float[np.ndarray, " M"]:
        """Return the metric `name` per window where the front passes `value`."""
        place = float(np.interp(value, rising, np.arange(len(rising))))
        low = min(int(place), max(0, len(rising) - 2))
        high = min(low + 1, len(rising) - 1)
        share = place - low
        first, second = getattr(self.members[low], name), getattr(self.members[high], name)
        return np.asarray((1 - share) * first + share * second)


def _difference(a: np.ndarray, b: np.ndarray, articles: np.ndarray, purpose: str) -> Estimate:
    estimate, _ = bootstrap_difference(
        a, b, articles, confidence=CONFIDENCE, resamples=RESAMPLES, seed=0, purpose=purpose
    )
    return estimate
