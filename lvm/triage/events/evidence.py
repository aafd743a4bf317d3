"""The evidence behind the numbers of a run, see `lvm.triage.events.parts`."""

from __future__ import annotations

from typing import Annotated

import msgspec

from lvm.core.records import Count, Estimate, Part


def measured(part: SpaceTold | OfSeed, name: str) -> float | None:
    """Return a metric by its name, of the package or from outside."""
    value = getattr(part, name) if name in part.__struct_fields__ else part.also.get(name)
    return None if value is None else float(value)


# --- evidence -------------------------------------------------------------------------------------


class SpaceTold(Part, frozen=True, kw_only=True):
    """Cosines of one space, in bins, and its metrics."""

    low: float
    width: float
    paired: list[float]
    shuffled: list[float]
    paired_mean: float | None  # None, and no bins, where there is no other article to compare with
    shuffled_mean: float | None
    closer: float | None
    r_at_1: float
    r_at_5: float
    r_at_10: float
    mrr: float
    contain_at_50: float
    also: dict[str, int | float | None] = {}  # metrics from outside the package

    def __post_init__(self) -> None:
        if len(self.paired) != len(self.shuffled) or self.width <= 0:
            raise ValueError("Expected two histograms over the same bins")

    def of(self, name: str) -> float | None:
        """Return a mean cosine or a metric by its name."""
        return measured(self, name)


class Reach(Part, frozen=True, kw_only=True):
    """Share of targets within the first k places."""

    k: list[int]
    share: list[float]

    def __post_init__(self) -> None:
        if len(self.k) != len(self.share):
            raise ValueError("Expected a share for every k")


class Hub(Part, frozen=True, kw_only=True):
    """A row that many windows retrieve."""

    row: int
    windows: int


class Found(Part, frozen=True, kw_only=True):
    """How many windows found their target."""

    hit: Count
    near_miss: Count = msgspec.field(name="near miss")
    miss: Count


class Example(Part, frozen=True, kw_only=True):
    """A window to look at; rows are rows of the bank."""

    kind: str
    contexts: list[int]
    target: int
    rank: float
    cosine: float
    retrieved: list[int]
    scores: list[float]
    hub: int | None = None  # the row that led this window away, where its kind is "hub"

    def __post_init__(self) -> None:
        if len(self.retrieved) != len(self.scores):
            raise ValueError("Expected a score for every row retrieved")


class Words(Part, frozen=True, kw_only=True):
    """A row in words."""

    key: tuple[int, int]
    text: str | None


class EvidenceTold(Part, frozen=True, kw_only=True):
    """The evidence behind a model's metrics on test."""

    windows: Count
    spaces: dict[str, SpaceTold]
    reach: Reach
    ranks: tuple[float, float, float]  # quartiles
    hubs: list[Hub]
    found: Found
    examples: list[Example]
    words: dict[str, Words] = {}
    titles: dict[str, str] = {}
    source: str = ""
    licence: str = ""


# --- several seeds --------------------------------------------------------------------------------


Variance = Annotated[float, msgspec.Meta(ge=0)]


class SeededTold(Part, frozen=True, kw_only=True):
    """A mean over several seeds, as `lvm.core.records.SeededEstimate` writes it."""

    value: float
    lower: float
    upper: float
    confidence: float
    num_windows: Count
    num_articles: Count
    num_seeds: Count
    between_seeds: Variance
    between_articles: Variance
    rest: Variance


class OfSeed(Part, frozen=True, kw_only=True):
    """A model's test metrics under one seed."""

    seed: int
    eval_cosine: float
    r_at_5: float
    mrr: float
    also: dict[str, int | float | None] = {}  # metrics from outside the package

    def of(self, metric: str) -> float | None:
        """Return one of them by its name; None where it was not measured."""
        return measured(self, metric)


class RepeatedModel(Part, frozen=True, kw_only=True):
    """A model under several seeds."""

    arm: str
    per_seed: list[OfSeed]
    over_seeds: dict[str, SeededTold] = {}


class Comparison(Part, frozen=True, kw_only=True):
    """The gain of one repeated model over another."""

    model: str
    over: str
    metric: str
    bound: float
    seeds: list[int]
    estimate: SeededTold


# --- what a model has read ------------------------------------------------------------------------


class TraceTold(Part, frozen=True, kw_only=True):
    """A trace of the test articles in a model's answers."""

    found: bool
    reference: str
    surplus: Estimate
    over_nearest_train: Estimate


class LineageTold(Part, frozen=True, kw_only=True):
    """What is known of the articles that the judged model has read."""

    articles: str
    model: str | None = None
    why: str = ""
    read: Count = 0
    trace: TraceTold | None = None
    off_contexts: dict[str, Estimate] | None = None
