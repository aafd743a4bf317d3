"""Arms that are drawn instead of trained: they rank the targets of unequal articles by a law."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import ndtr  # type: ignore[import-untyped]  # scipy has no stubs

POOL_SIZE = 500
MEAN, SPREAD = 3.7, 1.2  # of the logarithm of an article's windows; the sample's spread is 1.2-1.4


@dataclass(frozen=True)
class RankLaw:
    """How likely each rank of the target is: a share in the top 5, the rest log-uniform."""

    in_top_5: float
    fall: float  # from one of the first five ranks to the next

    @cached_property
    def shares(self) -> np.ndarray:
        """Probability of the ranks 1 to POOL_SIZE."""
        top = self.fall ** np.arange(5)
        rest = 1 / np.arange(6, POOL_SIZE + 1)
        found = [self.in_top_5 * top / top.sum(), (1 - self.in_top_5) * rest / rest.sum()]
        return np.concatenate(found)

    @property
    def mrr(self) -> float:
        """Expected reciprocal rank."""
        return float(self.shares @ (1 / np.arange(1, POOL_SIZE + 1)))

    def ranks(self, score: np.ndarray) -> np.ndarray:
        """Return the ranks of standard normal scores; a high score is a low rank."""
        ranks: np.ndarray = 1 + np.searchsorted(np.cumsum(self.shares)[:-1], ndtr(-score))
        return ranks


@dataclass(frozen=True)
class Windows:
    """Windows in articles, with what every arm finds easy or hard in them."""

    articles: np.ndarray  # [M]
    shared: np.ndarray  # [M] latent score that all arms share
    size_score: np.ndarray  # [G] log size of the articles; standard normal over all windows
    alike: float  # correlation of the scores of two windows of one article
    own: float  # share of the latent variance that each arm draws for itself

    def scores(self, rng: np.random.Generator, by_size: float = 0.0) -> np.ndarray:
        """Return the latent scores of one arm, standard normal, [M].

        `by_size` is the correlation of the arm's own part of an article with the article's size.
        """
        drawn = rng.standard_normal(len(self.size_score))
        of_article = by_size * self.size_score + np.sqrt(1 - by_size**2) * drawn
        own = _mixed(rng.standard_normal(len(self.articles)), of_article[self.articles], self.alike)
        return _mixed(self.shared, own, self.own)


def windows(rng: np.random.Generator, num_articles: int, alike: float, own: float = 0.5) -> Windows:
    """Draw articles as unequal as the bundled sample's, some 80 windows on average.

    Of a window taken at random, the log size of its article is normal with the mean MEAN + SPREAD^2
    where that of an article is normal with the mean MEAN: longer articles have more windows. Scores
    that follow the size keep their law over windows, and so the truth of every gain is known.
    """
    logs = MEAN + SPREAD * rng.standard_normal(num_articles)
    sizes = np.maximum(1, np.round(np.exp(logs))).astype(int)
    articles = np.repeat(np.arange(num_articles), sizes)
    size_score = (logs - MEAN - SPREAD**2) / SPREAD
    return Windows(articles, _score(rng, articles, alike), size_score, alike, own)


def _score(rng: np.random.Generator, articles: np.ndarray, alike: float) -> np.ndarray:
    of_article = rng.standard_normal(articles[-1] + 1)[articles]
    return _mixed(rng.standard_normal(len(articles)), of_article, alike)


def _mixed(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    return np.sqrt(1 - share) * a + np.sqrt(share) * b


BASE = RankLaw(0.07, 0.6)  # what a gain is over
