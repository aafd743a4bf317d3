"""P-values by flipping the signs of whole articles: a second opinion that decides nothing."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from lvm.core.randomness import numpy_generator
from lvm.core.statistics import article_sums

_EXACT_FLIPS = 24  # up to this many articles all 2^G sign patterns are counted
_DRAWN_FLIPS = 20_000
_FLIP_BLOCK = 1_000  # patterns held at once


def sign_flip_mean_p(
    values: Float[np.ndarray, " M"],
    articles: Int[np.ndarray, " M"],
    *,
    bound: float = 0.0,
    seed: int = 0,
) -> float:
    """Return the one-sided p-value of "the mean is at most `bound`" by turning whole articles over.

    What is flipped is the sum of (value - bound) per article, so the statistic is the mean over
    windows, as in the interval. Raises DataError as `article_mean`.
    """
    sums, sizes = article_sums(values, articles)
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
