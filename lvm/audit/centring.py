"""Has something been subtracted from, or added to, a part of the eval vectors?

Vectors of one encoder share a direction. How far each article lies along it hardly depends on its
subject; a mean that was subtracted, in some articles or in part, shows there and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import bdtrc  # type: ignore[import-untyped]  # scipy has no stubs

from lvm.audit.coherence import Coherence, coherence
from lvm.audit.finding import Seen, Severity
from lvm.audit.location import unit
from lvm.audit.material import Material

MIN_ARTICLES = 6
CLEAR = 5.0  # standard errors
TELLS = 1.5  # of the train articles' own spread: nearer to 0 the direction says nothing
SHIFT, SHIFT_SPREAD = 0.25, 1.5  # of the usual length along it, or of the articles' own spread
OUTSIDE, RARE = 0.5, 0.01  # of the median of train, and where so few train articles lie
OUT_BLOCK = 0.2  # share of eval articles
CHANCE_WARN, CHANCE_BLOCK = 1e-3, 1e-5  # that as many lie there, if twice as many as in train did


@dataclass(frozen=True, eq=False)
class Lengths:
    """How far each article lies along the mean direction of train."""

    articles: Int[np.ndarray, " A"]
    values: Float[np.ndarray, " A"]

    @property
    def error(self) -> float:
        """Standard error of their mean."""
        return float(self.values.std(ddof=1) / len(self.values) ** 0.5)


def shifted_articles(material: Material) -> Iterator[Seen]:
    """Report eval articles that lie less, or more, far along the mean of train than train's."""
    eval_, train = coherence(material, "eval"), coherence(material, "train")
    if eval_.targets.shape[1] != train.targets.shape[1]:
        return
    axis = unit(train.contexts[:, -1].mean(axis=0))
    mine, theirs = _lengths(eval_, axis), _lengths(train, axis)
    if min(len(mine.values), len(theirs.values)) < MIN_ARTICLES:
        return
    usual, spread = float(theirs.values.mean()), float(theirs.values.std(ddof=1))
    if usual < TELLS * spread:
        return
    shift = float(mine.values.mean()) - usual
    clear = CLEAR * float(np.hypot(mine.error, theirs.error))
    large = min(SHIFT * usual, SHIFT_SPREAD * spread)
    out = _outside(mine.values, theirs.values)
    expected = 2 * max(RARE, 1 / (1 + len(theirs.values)))
    chance = float(bdtrc(int(out.sum()) - 1, len(out), expected))
    if chance > CHANCE_WARN and abs(shift) <= max(clear, large):
        return
    block = float(out.mean()) >= OUT_BLOCK and chance <= CHANCE_BLOCK
    worst = mine.articles[np.argsort(-np.abs(mine.values - usual), kind="stable")]
    yield Seen(
        severity=Severity.BLOCK if block else Severity.WARN,
        seen=f"eval articles lie {mine.values.mean():.2f} along the mean of train, train "
        f"articles {usual:.2f}; {int(out.sum())} of {len(out)} lie where almost no train "
        "article does",
        allowed=f"a shift of {large:.2f}, {expected:.0%} there ({OUT_BLOCK:.0%} blocks)",
        where=material.side("eval").where(count=out.sum(), of=len(out), articles=worst),
        meaning="Some of these vectors had a mean subtracted and the others did not, so "
        "cosines between the two kinds mean nothing.",
        next="embed all articles with the same settings (lvm embed), or subtract one mean from all",
        values={"shift": shift, "usual": usual, "outside": float(out.mean())},
    )


def _lengths(side: Coherence, axis: Float[np.ndarray, " D"]) -> Lengths:
    """Return how far each article's chunks lie along an axis; by contexts, which are intact."""
    along = side.contexts[:, -1] @ axis
    articles, place, count = np.unique(side.clusters, return_inverse=True, return_counts=True)
    return Lengths(articles, np.bincount(place, weights=along) / count)


def _outside(
    mine: Float[np.ndarray, " A"], theirs: Float[np.ndarray, " B"]
) -> Bool[np.ndarray, " A"]:
    """Say which articles lie where few train articles do, and at half their median or twice it."""
    middle, low, high = np.quantile(theirs, [0.5, RARE, 1 - RARE])
    below = (mine < low) & (mine < OUTSIDE * middle)
    return np.asarray(below | ((mine > high) & (mine > middle / OUTSIDE)))
