"""What the events of a run are made of: arms, findings, evidence, in the form that is on disk.

Records that the program computes with (`lvm.records`) are used as they are. The others have their
form here, because a journal is read without what computed them: nothing heavy is imported.

A part may be older than a key: what has a default here was not always written.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from lvm.config import GateConfig, Recipe
from lvm.records import (
    Estimate,
    GateResult,
    Pool,
    Position,
    SeededEstimate,
    StopReason,
    Verdict,
)

Count = Annotated[int, msgspec.Meta(ge=0)]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A part of an event; keys that this version does not know are left out."""


# --- the run --------------------------------------------------------------------------------------


class Size(Part, frozen=True, kw_only=True):
    """How much a split held before a part of it was drawn."""

    windows: Count
    articles: Count


class DataSeen(Part, frozen=True, kw_only=True):
    """The data of a run."""

    source: str
    width: Count
    rows: Count
    fingerprint: str | None
    windows: dict[str, Count]
    articles: dict[str, Count]
    drawn_from: dict[str, Size] = {}


class Arguments(Part, frozen=True, kw_only=True):
    """The command line of a run."""

    data: str | None = None
    train: str | None = None
    eval: str | None = None
    payload: str | None = None
    checkpoint: str | None = None
    predictions: str | None = None
    seen: str | None = None
    recipe: str | None = None
    preset: str | None = None
    independent: bool = False
    five_steps: bool = False
    all_steps: bool = False
    extended: bool = False
    seeds: int | None = None
    allow: list[str] | None = None


class Environment(Part, frozen=True, kw_only=True):
    """Where a run was started."""

    versions: dict[str, str | None]
    platform: str
    cpus: Count
    memory_gib: float


class Probe(Part, frozen=True, kw_only=True):
    """What was timed before a forecast."""

    seconds: float
    update_seconds: float
    dev_seconds: float
    test_seconds: float
    start_seconds: float


# --- arms -----------------------------------------------------------------------------------------


class Arm(Part, frozen=True, kw_only=True):
    """An arm as its step starts it."""

    id: str
    step: str
    name: str
    role: str
    recipe: Recipe
    folder: str
    gates: GateConfig
    source: str | None
    baseline: str | None
    evaluate_test: bool
    workers: Annotated[int, msgspec.Meta(ge=1)]
    threads: Annotated[int, msgspec.Meta(ge=1)]
    device: str
    commit: str | None
    why: str
    changes: dict[str, str | int | float | bool | None] = {}


class AbsentArm(Part, frozen=True, kw_only=True):
    """An arm that left nothing to judge, as `lvm.absence.Absence` writes it."""

    step: str
    arm: str
    role: str
    reason: StopReason
    detail: str = ""
    num_arms: Count = 1


class ControlTold(Part, frozen=True, kw_only=True):
    """The control of a full training, as it was judged."""

    spec: str
    name: str
    reason: StopReason | None = None
    verdict: Verdict | None = None
    gates: list[GateResult] = []


# --- what is measured ----------------------------------------------------------------------------


class EvaluationTold(Part, frozen=True, kw_only=True):
    """Metrics of one predictor on one split, as `lvm.records.Evaluation` writes them."""

    split: str
    space: str
    num_windows: Count
    num_articles: Count
    pool: Pool
    masked: dict[str, float | None]
    raw: dict[str, float | None]
    latency: dict[str, float | None] = {}

    def __post_init__(self) -> None:
        for name in ("eval_cosine", "r_at_5", "mrr"):
            if self.masked.get(name) is None:
                raise ValueError(f"Object missing required field `masked.{name}`")


# --- evidence -------------------------------------------------------------------------------------


class SpaceTold(Part, frozen=True, kw_only=True):
    """Cosines of one space, in bins, and its metrics."""

    low: float
    width: float
    paired: list[float]
    shuffled: list[float]
    paired_mean: float
    shuffled_mean: float
    closer: float
    r_at_1: float
    r_at_5: float
    r_at_10: float
    mrr: float
    contain_at_50: float

    def __post_init__(self) -> None:
        if not len(self.paired) == len(self.shuffled) > 0 or self.width <= 0:
            raise ValueError("Expected two histograms over the same bins")


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

    def __post_init__(self) -> None:
        if len(self.retrieved) != len(self.scores):
            raise ValueError("Expected a score for every row retrieved")


class Words(Part, frozen=True, kw_only=True):
    """A row in words."""

    key: tuple[int, int]
    text: str | None


class EvidenceTold(Part, frozen=True, kw_only=True):
    """What stands behind a model's metrics on test."""

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


class OfSeed(Part, frozen=True, kw_only=True):
    """A model's test metrics under one seed."""

    seed: int
    eval_cosine: float
    r_at_5: float
    mrr: float


class RepeatedModel(Part, frozen=True, kw_only=True):
    """A model under several seeds."""

    arm: str
    per_seed: list[OfSeed]
    over_seeds: dict[str, SeededEstimate] = {}


class Comparison(Part, frozen=True, kw_only=True):
    """The gain of one repeated model over another."""

    model: str
    over: str
    metric: str
    bound: float
    seeds: list[int]
    estimate: SeededEstimate


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


class FrontTold(Part, frozen=True, kw_only=True):
    """A model against the front, as `lvm.records.FrontPosition` writes it."""

    position: Position
    metrics: tuple[str, str]
    distance: Estimate | None
    rung: str | None
    gains: dict[str, Estimate]
    mixture: dict[str, float]
    reason: str
