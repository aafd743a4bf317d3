"""The result of a run, as in `verdict.json`: one frozen struct, computed from the journal.

Views read it, and decide nothing. `lvm.triage.verdict` computes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lvm.audit.document import FindingTold
from lvm.core.config.recipe import Recipe
from lvm.core.records import (
    Absence,
    Estimate,
    Evaluation,
    FrontPosition,
    GateResult,
    Part,
    Pool,
    RunVerdict,
    StopReason,
    Verdict,
)
from lvm.triage.events.evidence import Comparison, RepeatedModel, TraceTold
from lvm.triage.events.parts import Probe

SCHEMA = 1


class Judged(Part, frozen=True, kw_only=True):
    """What a run judges and what it trains: not the same where only predictions were given."""

    kind: str  # predictions, checkpoint, recipe, or trainer (of one's own)
    file: str | None
    trained: str | None  # the network of the recipe
    stand_in: bool  # the steps are tried on a network of ours in place of the model under triage
    sentence: str  # both in words, or the trainer; "" where they are the same


class LineageShown(Part, frozen=True, kw_only=True):
    """What is known of the articles that the judged model has read."""

    articles: str | None = None  # known, stated or unknown; None before phase 1 is judged
    model: str | None = None
    why: str = ""
    read: int = 0
    trace: TraceTold | None = None
    off_contexts: dict[str, Estimate] | None = None
    verdict_if_unseen: RunVerdict | None = None  # had the model read no test article
    cause_if_unseen: str | None = None
    sentence: str = ""


class PassingArm(Part, frozen=True, kw_only=True):
    """The model that passes: the confirmed arm, or the control that needed no step."""

    id: str
    name: str
    step: str
    recipe: Recipe | None
    checkpoint: str
    gates: list[GateResult]


class ModelShown(Part, frozen=True, kw_only=True):
    """A model on the test split."""

    name: str
    arm: str
    role: str
    space: str
    pool: Pool
    num_windows: int
    num_articles: int
    masked: Mapping[str, float | None]
    raw: Mapping[str, float | None]
    latency: Mapping[str, float | None]
    ann: Mapping[str, float | None]
    epochs: int


class Phase1Shown(Part, frozen=True, kw_only=True):
    """The success gate of the base recipe; None before it is judged."""

    verdict: Verdict | None
    gates: list[GateResult]
    arms: list[ModelShown]


class ArmShown(Part, frozen=True, kw_only=True):
    """An arm of a step, and its result on dev; None where it is not judged yet."""

    id: str
    name: str
    role: str
    why: str
    changes: dict[str, Any]  # dotted recipe key -> its value
    reason: StopReason | None = None
    detail: str | None = None
    epoch: int | None = None
    epochs_run: int | None = None
    train_seconds: float | None = None
    evaluation: Evaluation | None = None
    stage: GateResult | None = None
    gains: list[GateResult] | None = None
    findings: list[FindingTold] | None = None


class ConfirmationShown(Part, frozen=True, kw_only=True):
    """The full training of an arm, judged on test."""

    arm: str
    verdict: Verdict
    gates: list[GateResult]


class StepShown(Part, frozen=True, kw_only=True):
    """A step: its question, its arms, its answer (None before its end)."""

    step: str
    number: int
    title: str
    question: str
    hypothesis: str
    rules_out: str
    epochs: int
    carried: list[tuple[str, str]]
    left_out: dict[str, str]
    reported: bool
    extended: bool
    arms: list[ArmShown]
    stage: Verdict | None
    candidate: str | None
    kept: str | None
    conflicts: list[str]
    confirmation: ConfirmationShown | None


class StepGain(Part, frozen=True, kw_only=True):
    """What a step gains over its control, by its full training or else its best arm."""

    step: str
    arm: str
    split: str
    gains: dict[str, GateResult]  # by metric


class CombinationShown(Part, frozen=True, kw_only=True):
    """What all steps that helped reach together, and what that adds to the best alone."""

    steps: list[str]
    arms: list[str]
    verdict: Verdict
    gates: list[GateResult]
    best_alone: tuple[str, str] | None
    adds: list[GateResult]
    comparisons: int


class SeedsShown(Part, frozen=True, kw_only=True):
    """The models behind the verdict seed by seed, and their gains over all seeds."""

    seeds: list[int]
    models: dict[str, RepeatedModel]
    comparisons: list[Comparison]


class GainShown(Part, frozen=True, kw_only=True):
    """A gain over the control, next to the bound of the success gate."""

    metric: str
    value: float
    lower: float
    upper: float
    verdict: Verdict
    success_bound: float


class TestingArm(Part, frozen=True, kw_only=True):
    """The result of an arm that tests a hypothesis."""

    arm: str
    step: str
    split: str
    epoch: int
    reason: StopReason | None
    detail: str
    learned: bool
    projected_cosine: float | None
    gains: list[GainShown]


class LedgerEntry(Part, frozen=True, kw_only=True):
    """A hypothesis, and what the run says of it."""

    id: str
    kind: str
    claim: str
    predicts: str
    statistic: str
    status: str
    result: str
    arms: list[TestingArm]


class Compute(Part, frozen=True, kw_only=True):
    """What a run has cost: seconds, and trials."""

    train_seconds: float
    trials: int
    saved_seconds: float  # by the stage gate and by pruning
    wall_seconds: float


class ForecastShown(Part, frozen=True, kw_only=True):
    """How long the run was predicted to take, and how long it took without interruptions."""

    seconds: float
    lower: float
    upper: float
    parts: dict[str, float]
    probe: Probe
    actual_seconds: float | None


class Summary(Part, frozen=True, kw_only=True):
    """The result of a run; an unfinished one has no verdict."""

    schema: int = SCHEMA
    verdict: RunVerdict | None
    judged: Judged
    lineage: LineageShown
    cause: str | None
    arm: PassingArm | None
    codes: list[str]
    phase1: Phase1Shown
    steps: list[StepShown]
    by_gain: list[StepGain]
    absent: list[Absence]
    ladder: Mapping[str, Evaluation]
    front: Mapping[str, FrontPosition]
    models: list[ModelShown]
    combination: CombinationShown | None
    seeds: SeedsShown | None
    hypotheses: list[LedgerEntry]
    compute: Compute
    forecast: ForecastShown | None
    since: str | None
    resume: str
    beats_ladder: bool | None = None
    headline: str = ""
    warnings: list[str] = []
