"""What a gate reads of an evaluation, and why two evaluations may not compare."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from lvm.core.errors import ConfigError, DataError
from lvm.core.metrics import METRICS, Ranked
from lvm.core.records import Pool


@runtime_checkable  # the tests check annotations when functions are called
class Measured(Ranked, Protocol):
    """What a gate reads of an evaluation, one entry per window; own contexts are masked."""

    @property
    def articles(self) -> np.ndarray:
        """Article of the window, [M]."""

    @property
    def space(self) -> str:
        """Space of the search."""

    @property
    def pool(self) -> Pool:
        """Rows that may be retrieved."""


def values_of(per_query: Measured, metric: str) -> np.ndarray:
    """Return a metric of every window, [M]; ConfigError for one that is no mean over windows."""
    declared = METRICS.get(metric)
    if declared.values is None:
        known = ", ".join(m.name for m in METRICS if m.values is not None)
        raise ConfigError(f"the metric must be one of {known} (got {metric!r}).")
    found = np.asarray(declared.values(per_query))
    if found.shape != per_query.articles.shape:
        raise DataError(
            f"metric {metric!r} must return one value per window, {per_query.articles.shape} "
            f"(got shape {found.shape})."
        )
    return found


def means_of(per_query: Measured) -> dict[str, float | None]:
    """Return the metrics by name; null where there is no window, or nothing to divide by."""
    found: dict[str, float | None] = {}
    for metric in METRICS:
        if metric.values is not None:
            values = values_of(per_query, metric.name)
            found[metric.name] = float(values.mean(dtype=np.float64)) if len(values) else None
        elif metric.of_means is not None:
            found[metric.name] = metric.of_means(found)
    return found


def improvement(arm: Measured, other: Measured, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (a, b), [M] each, such that a - b is what `arm` is better by in `metric`."""
    ours, theirs = values_of(arm, metric), values_of(other, metric)
    return (ours, theirs) if METRICS.get(metric).higher_is_better else (theirs, ours)


def problem_of(per_query: Measured) -> str | None:
    """Return why an evaluation cannot be judged, or None."""
    if len(per_query.articles) == 0:
        return "there are no windows"
    num_articles = len(np.unique(per_query.articles))
    if num_articles < 2:
        return f"an interval needs at least 2 articles (got {num_articles})"
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
