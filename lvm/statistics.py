"""Intervals and p-values for means over windows that come in articles.

Windows of one article resemble each other, so the article is the unit of every resampling: a mean
is the ratio of sums (sum of values) / (sum of windows) over articles drawn with replacement.

The plain percentile interval is too short for the 15-25 articles of a test split: at 95 % it
missed the truth in 9-10 % of 1,500 simulated splits of unequal articles. Here the draws are
stretched about the estimate, which brought that to 5-7 %, in two factors: their spread becomes the
delete-one-article jackknife error, and their tails become those of Student's t with G - 1 degrees
of freedom. The skew of the draws stays. Limits and p-values are read from the same stretched draws,
so that they never contradict each other.

Known limit: where a few articles hold most of the hits, or long articles score otherwise than short
ones, the upper limit lies too low (5-15 % misses instead of 2.5 %), the lower one, which decides a
PASS, too low as well (below 2 %). Bootstrap-t missed half as often above, but was 20-40 % wider and
has no bound when almost no article has a hit.

`python benchmarks/coverage.py` measures all this; its table is kept in reports/statistics/.

Sources: Efron and Tibshirani, An Introduction to the Bootstrap, chapters 11 (jackknife), 13
(percentile interval) and 15 (permutation); Davison and Hinkley, Bootstrap Methods and their
Application, section 3.8 (resampling of clusters); Howe 1974, JASA 69:789 (limits of
a mean with two sources of error).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtri, stdtrit  # type: ignore[import-untyped]  # scipy has no stubs

from lvm.errors import DataError
from lvm.randomness import numpy_generator
from lvm.records import Estimate, SeededEstimate

NEAREST_DISTANCE = 1e-3  # to a bound; nearer, no number of articles settles it

_EXACT_FLIPS = 24  # up to this many articles all 2^G sign patterns are counted
_DRAWN_FLIPS = 20_000
_FLIP_BLOCK = 1_000  # patterns held at once


def bootstrap_mean(
    values: Float[np.ndarray, " M"],
    articles: Int[np.ndarray, " M"],
    *,
    confidence: float,
    resamples: int,
    seed: int,
    purpose: str,
) -> Estimate:
    """Return the mean of `values` with its two-sided interval over resampled articles.

    Raises DataError with fewer than two articles or a value that is not finite.
    """
    sums, sizes = _article_sums(values, articles)
    draws = _stretched_draws(sums, sizes, resamples, numpy_generator(seed, "bootstrap", purpose))
    return _estimate(draws, sums, sizes, confidence)


def bootstrap_difference(
    a: Float[np.ndarray, " M"],
    b: Float[np.ndarray, " M"],
    articles: Int[np.ndarray, " M"],
    *,
    confidence: float,
    resamples: int,
    seed: int,
    purpose: str,
    bound: float = 0.0,
) -> tuple[Estimate, float]:
    """Return the mean of a - b over the same windows, and the p-value of "it is at most `bound`".

    The p-value is one-sided; it is at most (1 - confidence) / 2 exactly when the interval lies
    above the bound. Raises DataError as `bootstrap_mean`.
    """
    paired = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    sums, sizes = _article_sums(paired, articles)
    draws = _stretched_draws(sums, sizes, resamples, numpy_generator(seed, "bootstrap", purpose))
    p_value = (1 + int(np.count_nonzero(draws <= bound))) / (resamples + 1)
    return _estimate(draws, sums, sizes, confidence), p_value


def _article_sums(values: np.ndarray, articles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum of values and the number of windows per article, [G] each."""
    unique, place = np.unique(articles, return_inverse=True)
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if len(unique) < 2 or bad:
        raise DataError(
            f"{len(unique)} articles and {bad} values that are not finite, allowed are 2 articles "
            "or more and finite values; evaluate on more documents or repair the predictions."
        )
    sums = np.bincount(place, weights=np.asarray(values, dtype=np.float64))
    return sums, np.bincount(place).astype(np.float64)


def _stretched_draws(
    sums: np.ndarray, sizes: np.ndarray, resamples: int, generator: np.random.Generator
) -> np.ndarray:
    """Return the resampled means in rising order, stretched as the module says, [resamples]."""
    num_articles = len(sums)
    picks = generator.integers(num_articles, size=(resamples, num_articles))
    draws = np.sort(sums[picks].sum(axis=1) / sizes[picks].sum(axis=1))
    mean, spread = sums.sum() / sizes.sum(), draws.std()
    if spread <= 1e-12 * max(1.0, abs(mean)):  # every article has the same mean
        return np.full(resamples, mean)
    stretch = _jackknife_error(sums, sizes) / spread * _tails(num_articles - 1, resamples)
    stretched: np.ndarray = mean + stretch * (draws - mean)
    return np.sort(stretched)


@lru_cache(maxsize=32)  # as costly as the draws themselves, and the same for every metric of a run
def _tails(degrees: int, resamples: int) -> np.ndarray:
    """Return the quantiles of Student's t over those of the normal at the places of the draws."""
    level = (np.arange(resamples) + 0.5) / resamples
    normal = ndtri(level)
    middle = np.abs(normal) < 1e-3  # where t / normal is 0 / 0; its neighbours differ by 1e-6
    normal[middle], level[middle] = 1e-3, 0.5 + 1e-3 / np.sqrt(2 * np.pi)
    tails: np.ndarray = stdtrit(degrees, level) / normal
    tails.flags.writeable = False
    return tails


def _jackknife_error(sums: np.ndarray, sizes: np.ndarray) -> float:
    """Return the standard error of the mean from leaving out one article at a time."""
    num_articles = len(sums)
    without = (sums.sum() - sums) / (sizes.sum() - sizes)
    spread = np.sum((without - sums.sum() / sizes.sum()) ** 2)
    return float(np.sqrt((num_articles - 1) / num_articles * spread))


def _estimate(
    draws: np.ndarray, sums: np.ndarray, sizes: np.ndarray, confidence: float
) -> Estimate:
    tail = (1 - confidence) / 2
    outside = max(1, int(tail * (len(draws) + 1) + 1e-9))  # draws at or beyond each limit
    return Estimate(
        value=float(sums.sum() / sizes.sum()),
        lower=float(draws[outside - 1]),
        upper=float(draws[-outside]),
        confidence=confidence,
        num_windows=int(sizes.sum()),
        num_articles=len(sums),
    )


def sign_flip_mean_p(
    values: Float[np.ndarray, " M"],
    articles: Int[np.ndarray, " M"],
    *,
    bound: float = 0.0,
    seed: int = 0,
) -> float:
    """Return the one-sided p-value of "the mean is at most `bound`" by turning whole articles over.

    What is flipped is the sum of (value - bound) per article, so the statistic is the mean over
    windows, as in the interval. Raises DataError as `bootstrap_mean`.
    """
    sums, sizes = _article_sums(values, articles)
    return sign_flip_p(sums - bound * sizes, seed=seed)


def sign_flip_p(differences: Float[np.ndarray, " G"], *, seed: int = 0) -> float:
    """Return the one-sided p-value of "the differences of the G articles are symmetric about 0".

    Small when they are mostly positive. Exact over all 2^G signs up to 24 articles, then from
    20,000 drawn sign patterns (the seen one counts).
    """
    values = np.asarray(differences, dtype=np.float64)
    seen = values.sum() - 1e-12 * np.abs(values).sum()
    if len(values) <= _EXACT_FLIPS:
        half = len(values) // 2  # each half's sums, then pairs of them that reach what was seen
        some, others = _signed_sums(values[:half]), np.sort(_signed_sums(values[half:]))
        below = np.searchsorted(others, seen - some)
        return 1 - float(below.sum()) / (len(some) * len(others))
    generator, as_large = numpy_generator(seed, "sign flip"), 0
    for _ in range(_DRAWN_FLIPS // _FLIP_BLOCK):
        kept = generator.integers(2, size=(_FLIP_BLOCK, len(values)), dtype=np.uint8)
        as_large += int(np.count_nonzero(2 * (kept @ values) - values.sum() >= seen))
    return (1 + as_large) / (1 + _DRAWN_FLIPS)


def _signed_sums(values: np.ndarray) -> np.ndarray:
    """Return the sums of the values under all 2^n signs."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def holm(p_values: Sequence[float]) -> Float[np.ndarray, " P"]:
    """Return p-values adjusted for being judged together (Holm 1979), in the given order."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    scaled = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


def design_effect(values: Float[np.ndarray, " M"], articles: Int[np.ndarray, " M"]) -> float:
    """Return by how much articles inflate the variance of the mean over that of M free windows.

    M divided by it is the number of independent windows that would tell as much. It is 1 when all
    values are equal. Raises DataError as `bootstrap_mean`.
    """
    sums, sizes = _article_sums(values, articles)
    free = float(np.var(values, ddof=1)) / len(values) if len(values) > 1 else 0.0
    return _jackknife_error(sums, sizes) ** 2 / free if free > 0 else 1.0


def more_articles(articles: int, half_width: float, distance: float) -> int:
    """Return about how many more articles would bring a half-width down to `distance`.

    Half-widths fall as 1 / sqrt(articles). A distance below NEAREST_DISTANCE counts as that.
    """
    wanted = (half_width / max(distance, NEAREST_DISTANCE)) ** 2
    return max(1, math.ceil(articles * (wanted - 1)))


def mean_over_seeds(
    values: Float[np.ndarray, "S M"], articles: Int[np.ndarray, " M"], *, confidence: float
) -> SeededEstimate:
    """Return the mean over S training seeds with an interval over seeds and articles together.

    Row s holds the values (or paired differences) of the same M windows under seed s. The model is
    crossed, value = mean + article + seed + rest, its components are the moments of the articles'
    contributions, none below zero. The half-width joins the two as Howe does,

        t(G - 1)^2 * between_articles / G  +  t(S - 1)^2 * (variance of the S means) / S

    (the second term holds the rest as well), and is wide where two or three seeds differ.
    Raises DataError with fewer than two seeds, and as `bootstrap_mean`.
    """
    values = np.asarray(values, dtype=np.float64)
    num_seeds = len(values)
    if num_seeds < 2:
        raise DataError(
            f"there are results of {num_seeds} seeds, allowed are 2 or more, for their variance; "
            "train with another seed as well."
        )
    rows = [_article_sums(row, articles) for row in values]
    sums, sizes = np.stack([row[0] for row in rows]), rows[0][1]
    means, num_articles = sums.sum(axis=1) / sizes.sum(), len(sizes)
    # What an article moves the mean of a seed by, times G: on the scale of a single article.
    moved = (sums - means[:, None] * sizes) * num_articles / sizes.sum()
    of_articles = moved.mean(axis=0)
    free = (num_seeds - 1) * (num_articles - 1)
    rest = float(((moved - of_articles) ** 2).sum()) / free
    between_articles = max(0.0, float(of_articles.var(ddof=1)) - rest / num_seeds)
    seed_means = float(means.var(ddof=1))
    t_articles, t_seeds = stdtrit([num_articles - 1, num_seeds - 1], (1 + confidence) / 2)
    half_width = math.sqrt(
        t_articles**2 * between_articles / num_articles + t_seeds**2 * seed_means / num_seeds
    )
    value = float(means.mean())
    return SeededEstimate(
        value=value, lower=value - half_width, upper=value + half_width, confidence=confidence,
        num_windows=values.shape[1], num_articles=num_articles, num_seeds=num_seeds,
        between_seeds=max(0.0, seed_means - rest / num_articles),
        between_articles=between_articles, rest=rest,
    )  # fmt: skip
