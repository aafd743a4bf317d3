"""Intervals and p-values for means over windows that come in articles.

Windows of one article resemble each other, so the article is the unit: a mean is the ratio of sums
(sum of values) / (sum of windows) over articles, its error the CR2 of Bell and McCaffrey, and its
interval Student's t with their degrees of freedom for articles of these sizes. Limits and p-values
come from one t, so they never contradict each other.

Articles of unequal length leave far fewer degrees of freedom than G - 1: the 17 test articles of
the bundled sample leave 6. Measured by `python benchmarks/coverage.py` (table in
reports/statistics/), 10 to 200 articles, sizes as the sample's, nominal 2.5 % on each side:

    truth below the lower limit, which decides a PASS    1.1 to 3.0 % drawn, 0.8 to 3.0 % real
    the same error with G - 1 degrees of freedom         2.2 to 7.0 %
    truth above the upper limit, gains not skewed        0.7 to 2.9 %

Resampling (percentile draws stretched to the jackknife error) was dropped for the t: where long
articles gain less its draws are skewed to the wrong side, and the lower limit lay above the truth
in 9 to 11 % with G - 1 and in 3 to 5 % with the degrees used here. At 10 articles the t is too wide
rather than too narrow where gain and size are independent (1.1 %): no symmetric interval fits both.

Known limit: a sample cannot show what only a few articles hold. Gains that every fourth or
eighth article has lie above the upper limit in 8 to 30 %; `lvm.evaluation.gates` asks more of a
FAIL there. In corpora of 19 and 41 articles of which one is unlike all others (chapters of a
manual, psalms), the lower limit lay above the truth in up to 15 and 9 %, with G - 1 in 21 and 15 %.

Sources: Bell and McCaffrey 2002, Survey Methodology 28:169 (CR2 and its degrees of freedom); Imbens
and Kolesar 2016, Review of Economics and Statistics 98:701 (the same, measured); Kish 1965, Survey
Sampling, section 11.7 (effective size); Efron and Tibshirani, An Introduction to the Bootstrap,
chapters 11 (jackknife) and 15 (permutation); Howe 1974, JASA 69:789 (limits of a mean with two
sources of error).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped]  # scipy has no stubs

from lvm.core.errors import DataError
from lvm.core.records import Estimate, SeededEstimate

NEAREST_DISTANCE = 1e-3  # to a bound; nearer, no number of articles settles it

_NO_SPREAD = 1e-12  # an error of so little is rounding


@dataclass(frozen=True, kw_only=True)
class ArticleMean:
    """A mean over windows that come in articles, and what its interval is made from."""

    value: float
    error: float  # CR2 standard error; 0 where every article has the same mean
    degrees: float  # of freedom, Bell and McCaffrey; at most num_articles - 1
    num_windows: int
    num_articles: int
    effective_articles: float  # articles of one length that would leave the same variance (Kish)
    size_correlation: float | None  # of article means and log sizes; None where one is constant
    skew: float  # of the article means: 0 when symmetric, above 0 when a few are far above

    def estimate(self, confidence: float) -> Estimate:
        """Return the mean with its two-sided interval."""
        half_width = float(stdtrit(self.degrees, (1 + confidence) / 2)) * self.error
        return Estimate(
            value=self.value,
            lower=self.value - half_width,
            upper=self.value + half_width,
            confidence=confidence,
            num_windows=self.num_windows,
            num_articles=self.num_articles,
        )

    def p_value(self, bound: float = 0.0) -> float:
        """Return the one-sided p-value of "the mean is at most `bound`".

        It is at most (1 - confidence) / 2 exactly when the interval lies above the bound. Without
        any spread no t is defined, and it is that of G signs which all agree, 2^-G.
        """
        if self.error > 0:
            return float(stdtr(self.degrees, (bound - self.value) / self.error))
        return 2.0**-self.num_articles if self.value > bound else 1.0


def article_mean(values: Float[np.ndarray, " M"], articles: Int[np.ndarray, " M"]) -> ArticleMean:
    """Return the mean of `values` with the error that articles leave it.

    Raises DataError with fewer than two articles or a value that is not finite.
    """
    sums, sizes = article_sums(values, articles)
    value, error = float(sums.sum() / sizes.sum()), float(cr2_error(sums, sizes))
    means = sums / sizes
    return ArticleMean(
        value=value,
        error=0.0 if error <= _NO_SPREAD * max(1.0, abs(value)) else error,
        degrees=float(bell_mccaffrey(sizes)),
        num_windows=int(sizes.sum()),
        num_articles=len(sums),
        effective_articles=float(sizes.sum() ** 2 / (sizes**2).sum()),
        size_correlation=_correlation(means, np.log(sizes)),
        skew=_skew(means),
    )


def mean_difference(
    a: Float[np.ndarray, " M"], b: Float[np.ndarray, " M"], articles: Int[np.ndarray, " M"]
) -> ArticleMean:
    """Return the mean of a - b, paired by window. Raises DataError as `article_mean`."""
    return article_mean(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64), articles)


def cr2_error(
    sums: Float[np.ndarray, "*N G"], sizes: Float[np.ndarray, "*N G"]
) -> Float[np.ndarray, "*N"]:
    """Return the standard error of the ratio mean, from the sums and sizes of G articles.

    An article of the share w of all windows moves the mean by w (its mean - the mean), and pulls
    the mean towards itself: CR2 divides that by sqrt(1 - w) before squares are added.
    """
    total = sizes.sum(axis=-1, keepdims=True)
    share = sizes / total
    moved = (sums - share * sums.sum(axis=-1, keepdims=True)) / total
    error: np.ndarray = np.sqrt((moved**2 / (1 - share)).sum(axis=-1))
    return error


def bell_mccaffrey(sizes: Float[np.ndarray, "*N G"]) -> Float[np.ndarray, "*N"]:
    """Return the degrees of freedom of CR2 for G articles of these sizes.

    CR2's square is a quadratic form of the article means. With means of one variance, the t whose
    square has its first two moments has trace(S)^2 / trace(S^2) degrees of freedom, where

        S_ij = sqrt(a_i a_j) (1[i = j] - w_i - w_j + q),  a = w^2 / (1 - w),  q = sum w^2

    and w are the shares of windows. G articles of one length leave G - 1.
    """
    w = sizes / sizes.sum(axis=-1, keepdims=True)
    q = (w**2).sum(axis=-1, keepdims=True)
    a = w**2 / (1 - w)
    trace = (a * (1 - 2 * w + q)).sum(axis=-1)
    diagonal = (a**2 * (1 + 2 * (q - 2 * w))).sum(axis=-1)  # (1 + c)^2 - c^2
    zeroth, first, second = (((a * w**k).sum(axis=-1)) for k in range(3))
    q = q[..., 0]
    rest = q**2 * zeroth**2 + 2 * zeroth * second + 2 * first**2 - 4 * q * zeroth * first
    degrees: np.ndarray = trace**2 / (diagonal + rest)
    return degrees


def _correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    spread = float(a.std() * b.std())
    if spread <= _NO_SPREAD:
        return None
    return float(((a - a.mean()) * (b - b.mean())).mean()) / spread


def _skew(values: np.ndarray) -> float:
    apart = values - values.mean()
    spread = float(apart.std())
    return float((apart**3).mean()) / spread**3 if spread > _NO_SPREAD else 0.0


def article_sums(values: np.ndarray, articles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum of values and the number of windows per article, [G] each."""
    unique, place = np.unique(articles, return_inverse=True)
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if len(unique) < 2 or bad:
        raise DataError(
            f"{len(unique)} articles and {bad} non-finite values; needs at least 2 articles and "
            "finite values: evaluate on more articles or repair the predictions."
        )
    sums = np.bincount(place, weights=np.asarray(values, dtype=np.float64))
    return sums, np.bincount(place).astype(np.float64)


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

    M divided by it is the number of independent windows with the same information. It is 1 when
    all values are equal. Raises DataError as `article_mean`.
    """
    sums, sizes = article_sums(values, articles)
    free = float(np.var(values, ddof=1)) / len(values) if len(values) > 1 else 0.0
    return float(cr2_error(sums, sizes)) ** 2 / free if free > 0 else 1.0


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

        t(f)^2 * between_articles / G  +  t(S - 1)^2 * (variance of the S means) / S

    (f is `bell_mccaffrey`; the second term holds the rest as well), and is wide where two or three
    seeds differ.
    Raises DataError with fewer than two seeds, and as `article_mean`.
    """
    values = np.asarray(values, dtype=np.float64)
    num_seeds = len(values)
    if num_seeds < 2:
        raise DataError(
            f"need results from at least 2 seeds to estimate variance (got {num_seeds})."
        )
    rows = [article_sums(row, articles) for row in values]
    sums, sizes = np.stack([row[0] for row in rows]), rows[0][1]
    means, num_articles = sums.sum(axis=1) / sizes.sum(), len(sizes)
    # How much an article moves a seed's mean, as in CR2, on the scale of a single article.
    pulled = np.sqrt((num_articles - 1) / num_articles / (1 - sizes / sizes.sum()))
    moved = (sums - means[:, None] * sizes) * pulled * num_articles / sizes.sum()
    of_articles = moved.mean(axis=0)
    free = (num_seeds - 1) * (num_articles - 1)
    rest = float(((moved - of_articles) ** 2).sum()) / free
    seen = float((of_articles**2).sum()) / (num_articles - 1)
    between_articles = max(0.0, seen - rest / num_seeds)
    seed_means = float(means.var(ddof=1))
    t_articles, t_seeds = stdtrit([bell_mccaffrey(sizes), num_seeds - 1], (1 + confidence) / 2)
    half_width = math.sqrt(
        t_articles**2 * between_articles / num_articles + t_seeds**2 * seed_means / num_seeds
    )
    value = float(means.mean())
    return SeededEstimate(
        value=value,
        lower=value - half_width,
        upper=value + half_width,
        confidence=confidence,
        num_windows=values.shape[1],
        num_articles=num_articles,
        num_seeds=num_seeds,
        between_seeds=max(0.0, seed_means - rest / num_articles),
        between_articles=between_articles,
        rest=rest,
    )
