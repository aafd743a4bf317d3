"""What a gate reads of an evaluation, and why two evaluations may not compare."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from lvm.records import Pool


@runtime_checkable  # the tests check annotations when functions are called
class Measured(Protocol):
    """What a gate reads of an evaluation, one entry per window; own contexts are masked."""

    @property
    def cosine(self) -> np.ndarray:
        """Prediction to target in the space of the search, [M]."""

    @property
    def articles(self) -> np.ndarray:
        """Article of the window, [M]."""

    @property
    def space(self) -> str:
        """Space of the search."""

    @property
    def pool(self) -> Pool:
        """Rows that may be retrieved."""

    @property
    def reciprocal_rank(self) -> np.ndarray:
        """Reciprocal rank of the target, [M]."""

    def hit(self, k: int) -> np.ndarray:
        """Probability that the target is among the first k, [M]."""


_HITS = {"r_at_1": 1, "r_at_5": 5, "r_at_10": 10, "contain_at_50": 50}
JUDGED = ("eval_cosine", "mrr", *_HITS)


def values_of(per_query: Measured, metric: str) -> np.ndarray:
    """Return a metric of every window, [M]; `metric` is one of JUDGED."""
    if metric == "eval_cosine":
        return per_query.cosine
    return per_query.reciprocal_rank if metric == "mrr" else per_query.hit(_HITS[metric])


def problem_of(per_query: Measured) -> str | None:
    """Return why an evaluation cannot be judged, or None."""
    if len(per_query.articles) == 0:
        return "there are no windows"
    num_articles = len(np.unique(per_query.articles))
    if num_articles < 2:
        return f"an interval needs 2 articles or more, there is {num_articles}"
    bad = int(np.count_nonzero(~np.isfinite(per_query.cosine)))
    return f"{bad} of {len(per_query.cosine)} cosines are not finite" if bad else None


def pair_problem(arm: Measured, other: Measured) -> str | None:
    """Return why two evaluations cannot be compared, or None."""
    if not np.array_equal(arm.articles, other.articles):
        return (
            f"the two evaluations hold different windows ({len(arm.articles)} and "
            f"{len(other.articles)}), or the same in another order"
        )
    if arm.pool != other.pool:
        return f"the pools differ ({_pool(arm)} and {_pool(other)})"
    return problem_of(arm) or problem_of(other)


def _pool(per_query: Measured) -> str:
    pool = per_query.pool
    return f"{pool.id}, {pool.size} rows, mask {pool.mask}, ties {pool.ties}"
