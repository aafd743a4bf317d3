"""What is measured of a model: a metric is declared once, and everything else reads its row.

To add one, in a file of this package or outside it:

    @METRICS.per_query(Metric(name="r_at_20", title="R@20", meaning="share in the top 20"))
    def r_at_20(queries: Ranked) -> np.ndarray:
        return queries.hit(20)

Needs neither torch nor numpy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from lvm.core.errors import ConfigError
from lvm.core.registry import Registry

if TYPE_CHECKING:  # commands that only read a journal start without numpy
    import numpy as np


class Shown(Enum):
    """A place that shows metrics."""

    MODELS = auto()  # the report's tables of models and ladder on the test split
    SPACES = auto()  # the report's table of raw against projected space
    TERMINAL = auto()  # the table at the end of a run
    DEV = auto()  # measured after every epoch: journal, tables of a step, MLflow's curves
    CURVES = auto()  # those of DEV that are drawn over epochs and as bars, and shown as a step runs
    SUMMARY = auto()  # JSON lines, and the note of a registered model
    MLFLOW = auto()  # once more under its title
    MLFLOW_COLUMN = auto()  # those of MLFLOW in the table that MLflow's page opens with


@runtime_checkable  # the tests check annotations when functions are called
class Ranked(Protocol):
    """What a metric is made from: the cosine and the rank of the target, one entry per window."""

    @property
    def cosine(self) -> np.ndarray:
        """Prediction to target in the space of the search, [M]."""

    @property
    def rank(self) -> np.ndarray:
        """Expected rank of the target, 1 is best, [M]."""

    @property
    def reciprocal_rank(self) -> np.ndarray:
        """Expected reciprocal rank of the target, [M]."""

    @property
    def percentile(self) -> np.ndarray:
        """Share of the other candidates that the target beats, [M]."""

    def hit(self, k: int) -> np.ndarray:
        """Probability that the target is among the first k, [M]."""


Values = Callable[[Ranked], "np.ndarray"]
Means = Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Declaration of a metric; its value is the mean of `values`, or what `of_means` returns."""

    name: str
    title: str
    meaning: str
    unit: str = "share"
    higher_is_better: bool = True
    lowest: float = 0.0
    highest: float = 1.0
    values: Values | None = None  # of every window, [M]
    of_means: Callable[[Means], float | None] | None = None  # from the metrics declared before it
    across_spaces: bool = True  # whether values in different spaces compare
    # The improvement over AR-only that is a success, in `unit`: a rise, or a fall where lower is
    # better. The key `success_NAME` of [gates], where there is one, takes its place.
    success: float | None = None
    shown: frozenset[Shown] = frozenset(
        {Shown.MODELS, Shown.SUMMARY, Shown.MLFLOW, Shown.MLFLOW_COLUMN}
    )

    def compares(self, space: str) -> bool:
        """Whether a value measured in this space compares with one of the raw space."""
        return self.across_spaces or space == "raw"

    def __post_init__(self) -> None:
        if not self.lowest < self.highest:
            raise ConfigError(
                f"the lowest value of metric {self.name!r} must be below its highest (got "
                f"{self.lowest:g} and {self.highest:g})."
            )
        if self.success is not None and not self.allows(self.success):
            way = "rise" if self.higher_is_better else "fall"
            raise ConfigError(
                f"the success bound of metric {self.name!r} must be {self.allowed} (got "
                f"{self.success:g}); it is the {way} that counts as a success."
            )

    @property
    def allowed(self) -> str:
        """The success bounds that it may have, in words."""
        return f"above 0 and below {self.highest - self.lowest:g}"

    def allows(self, bound: float) -> bool:
        """Whether `bound` is an improvement that the metric can reach."""
        return 0 < bound < self.highest - self.lowest


class Metrics(Registry[Metric]):
    """The metrics, in the order of their declaration, and which of them a place shows."""

    def __iter__(self) -> Iterator[Metric]:
        self._discover()
        return iter(list(self._parts.values()))

    def register(self, name: str) -> Callable[[Metric], Metric]:
        """Return a decorator that registers a metric; a success bound needs a value per window."""
        file = super().register(name)

        def refuse_or_file(metric: Metric) -> Metric:
            if metric.success is not None and metric.values is None:
                raise ConfigError(
                    f"metric {name!r} has a success bound but no values per window; declare it "
                    "with METRICS.per_query."
                )
            return file(metric)

        return refuse_or_file

    def per_query(self, metric: Metric) -> Callable[[Values], Values]:
        """Return a decorator: `metric` is the mean of what the function returns, [M]."""

        def file(values: Values) -> Values:
            declared = replace(metric, values=values)
            vars(declared)["__module__"] = values.__module__  # an error about a duplicate names it
            self.register(metric.name)(declared)
            return values

        return file

    def shown(self, place: Shown) -> tuple[str, ...]:
        """Return the names of the metrics that a place shows."""
        return tuple(metric.name for metric in self if place in metric.shown)

    def bounds(self, gates: Mapping[str, float]) -> dict[str, float]:
        """Return the success bound of every metric that has one; `gates` are keys of [gates]."""
        return {
            metric.name: gates.get(f"success_{metric.name}", metric.success)
            for metric in self
            if metric.success is not None
        }

    @property
    def judged(self) -> tuple[str, ...]:
        """Names of the metrics whose gains decide: those with a success bound."""
        return tuple(self.bounds({}))


METRICS = Metrics("metric", "lvm.core.metrics")


# --- what decisions read by name: no list of what is shown ---------------------------------------

DECIDING = ("eval_cosine", "r_at_5", "mrr")  # no evaluation is without them
FINEST_FIRST = ("mrr", "r_at_5")  # the first one ranks arms and steps
FRONT = {"raw": ("eval_cosine", "r_at_5"), "projected": ("mrr", "r_at_5")}  # by space


# --- the table -----------------------------------------------------------------------------------

_TABLES = frozenset({Shown.MODELS, Shown.MLFLOW, Shown.MLFLOW_COLUMN})
_EVERYWHERE = frozenset(Shown)


def _hit(k: int) -> Values:
    return lambda queries: queries.hit(k)


def _efficiency(means: Means) -> float | None:
    at_5, at_50 = means["r_at_5"], means["contain_at_50"]
    return at_5 / at_50 if at_5 is not None and at_50 else None


for _metric in (
    Metric(
        name="eval_cosine",
        title="cosine",
        meaning="mean cosine between prediction and target, in the space of the search",
        unit="cosine",
        lowest=-1.0,
        values=lambda queries: queries.cosine,
        across_spaces=False,
        shown=_EVERYWHERE - {Shown.MODELS, Shown.SPACES},  # these tables have a column for it
    ),
    Metric(
        name="r_at_1",
        title="R@1",
        meaning="share of queries with the target at rank 1",
        values=_hit(1),
        shown=_TABLES | {Shown.SPACES, Shown.TERMINAL},
    ),
    Metric(
        name="r_at_5",
        title="R@5",
        meaning="share with the target in the top 5",
        values=_hit(5),
        success=0.10,  # 10 points
        shown=_EVERYWHERE,
    ),
    Metric(
        name="r_at_10",
        title="R@10",
        meaning="share with the target in the top 10",
        values=_hit(10),
        shown=_TABLES | {Shown.SPACES, Shown.TERMINAL},
    ),
    Metric(
        name="mrr",
        title="MRR",
        meaning="mean reciprocal rank of the target",
        values=lambda queries: queries.reciprocal_rank,
        success=0.05,
        shown=_EVERYWHERE - {Shown.CURVES},
    ),
    Metric(
        name="contain_at_50",
        title="Contain@50",
        meaning="share with the target in the top 50",
        values=_hit(50),
        shown=_TABLES | {Shown.SPACES, Shown.TERMINAL},
    ),
    Metric(
        name="eff_at_5",
        title="Eff@5",
        meaning="R@5 divided by Contain@50; null when both are 0",
        of_means=_efficiency,
        shown=_TABLES,
    ),
    Metric(
        name="percentile",
        title="percentile",
        meaning="mean percentile rank of the target: 1 is the top, .5 is chance",
        values=lambda queries: queries.percentile,
        shown=frozenset({Shown.MODELS}),
    ),
    Metric(
        name="p50_ms",
        title="P50",
        meaning="median latency of one query, model and search, warm",
        unit="ms",
        higher_is_better=False,
        highest=math.inf,
        shown=frozenset({Shown.MLFLOW}),
    ),
    Metric(
        name="p95_ms",
        title="P95",
        meaning="95th percentile of the latency of one query, model and search, warm",
        unit="ms",
        higher_is_better=False,
        highest=math.inf,
        shown=frozenset({Shown.MLFLOW, Shown.MLFLOW_COLUMN}),
    ),
):
    METRICS.register(_metric.name)(_metric)
