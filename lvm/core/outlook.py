"""How many more articles would settle what an interval leaves open, with a stated chance.

A pilot of G articles knows a gain to an error. With k G articles the error falls by sqrt(k) and its
degrees of freedom grow by k. The gain, if it is as large as seen, then clears its bound with chance
P once

    (t(1 - level, k f) + x) error / sqrt(k)  <=  distance to the bound

where f are the pilot's degrees of freedom. The error is itself a guess, its square off by
chi-square over f, and x is such that the chance is P on average over that guess:

    E[ Phi( (z + x) sqrt(chi2(f) / f) - z ) ] = P,    z = the normal quantile of 1 - level

With t(P, f) for x, which ignores that, 80 % came true in 57 to 80 % of drawn pilots. The range is
what the guess leaves open: the number at the ends of an 80 % interval of the pilot's variance.

`python benchmarks/coverage.py` draws pilots, adds that many articles and counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.special import chdtri, ndtr, ndtri, stdtrit  # type: ignore[import-untyped]  # scipy has no stubs

from lvm.core.records import Estimate, GateResult, Verdict
from lvm.core.statistics import NEAREST_DISTANCE

POWER = 0.8  # chance that the number comes true
RANGE = 0.8  # share of pilots whose range holds the number of the true variance

_MOST = 1e6  # times the pilot
_GUESSES = 200  # quantiles of chi-square that represent the guess


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """More articles that would settle a gain, and the range that the pilot's variance leaves."""

    articles: int
    fewest: int
    most: int


def more_for_a_chance(
    articles: int, error: float, degrees: float, distance: float, level: float
) -> Outlook | None:
    """Return how many more articles settle a gain that lies `distance` from its bound.

    `error` and `degrees` are the pilot's, `level` is the one-sided level of the later test. None
    where a million times as many articles would not do.
    """
    margin = _margin(degrees, level)

    def more(scale: float) -> int | None:
        def excess(times: float) -> float:
            reach = stdtrit(degrees * times, 1 - level) + margin
            return float(reach * scale * error / math.sqrt(times) - distance)

        if excess(_MOST) > 0:
            return None
        times = _root(excess, 1.0, _MOST) if excess(1.0) > 0 else 1.0
        return max(1, math.ceil(articles * (times - 1)))

    tail = (1 - RANGE) / 2
    scales = [math.sqrt(degrees / chdtri(degrees, p)) for p in (tail, 1 - tail)]
    fewest, middle, most = more(scales[0]), more(1.0), more(scales[1])
    if fewest is None or middle is None or most is None:
        return None
    return Outlook(articles=middle, fewest=fewest, most=most)


@lru_cache(maxsize=64)  # the same for all that is judged on one split
def _margin(degrees: float, level: float) -> float:
    """Return x of the module's docstring."""
    tails = (np.arange(_GUESSES) + 0.5) / _GUESSES
    guesses, wanted = np.sqrt(chdtri(degrees, tails) / degrees), float(ndtri(1 - level))

    def lacks(margin: float) -> float:
        return float(ndtr((wanted + margin) * guesses - wanted).mean()) - POWER

    return _root(lacks, 0.0, 1e4)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a function crosses zero between two places."""
    # A quarter of a second, and many runs end without it.
    from scipy.optimize import brentq  # type: ignore[import-untyped]  # scipy has no stubs

    return float(brentq(function, low, high))


def with_outlook(
    result: GateResult, estimate: Estimate, level: float, split_share: float | None
) -> GateResult:
    """Add to an INCONCLUSIVE result how many more articles would settle it if its value is true.

    `level` is the one-sided level at which a PASS would be judged.
    """
    if result.verdict is not Verdict.INCONCLUSIVE:
        return result
    distance, tail = estimate.value - result.bound, (1 - estimate.confidence) / 2
    more = None
    if abs(distance) >= NEAREST_DISTANCE and estimate.upper > estimate.lower:
        degrees = result.degrees or estimate.num_articles - 1
        error = (estimate.upper - estimate.value) / float(stdtrit(degrees, 1 - tail))
        level = level if distance > 0 else tail
        more = more_for_a_chance(estimate.num_articles, error, degrees, abs(distance), level)
    if more is None:
        words = "the value lies on the bound, so no number of articles can decide it"
        return replace(result, reason=f"{result.reason}; {words}")
    found = [
        _two_figures(n / (split_share or 1.0)) for n in (more.articles, more.fewest, more.most)
    ]
    what = "more articles of this split" if split_share is None else "more documents"
    quantity = "gain" if result.p_value is not None else "value"
    sign = "+" if result.p_value is not None else ""
    words = (
        f"for an {100 * POWER:.0f} % chance to settle it, if the {quantity} is really "
        f"{estimate.value:{sign}.3f}: about {found[0]:,} {what} ({found[1]:,} to {found[2]:,})"
    )
    return replace(
        result,
        articles_needed=more.articles,
        articles_range=(more.fewest, more.most),
        reason=f"{result.reason}; {words}",
    )


def _two_figures(number: float) -> int:
    """Round up to two figures: it is an extrapolation."""
    whole = math.ceil(number)
    digits: int = 10 ** max(0, len(str(whole)) - 2)
    return -(-whole // digits) * digits
