"""Every kind of event that a journal holds, each one frozen struct: what is written and read.

`told(record)` turns a line of a journal into its struct, or says which field is wrong. A field
without a default is one that the event cannot be told without.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from lvm.config import RunConfig, to_dict
from lvm.errors import ConfigError
from lvm.records import GateResult, RunVerdict, StopReason, Verdict
from lvm.triage.event_audit import AuditTold, FindingTold
from lvm.triage.event_parts import (
    AbsentArm,
    Arguments,
    Arm,
    Comparison,
    ControlTold,
    Count,
    DataSeen,
    Environment,
    EvaluationTold,
    EvidenceTold,
    FrontTold,
    LineageTold,
    Probe,
    RepeatedModel,
)


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """What all events have."""

    at: float  # seconds since 1970


class RunStarted(Event, tag="run_started", frozen=True, kw_only=True):
    """A run begins: what is asked of which data, by which code."""

    schema: int
    command: str
    config: RunConfig
    code: str
    commit: str | None
    data: DataSeen
    again: str = ""
    address: str | None = None
    arguments: Arguments = msgspec.field(default_factory=Arguments)
    environment: Environment
    plan: list[str] = []
    identity: dict[str, str] = {}


class Resumed(Event, tag="resumed", frozen=True, kw_only=True):
    """Another process goes on with the run."""

    command: str = ""
    address: str | None = None
    arguments: Arguments = msgspec.field(default_factory=Arguments)


class Interrupted(Event, tag="interrupted", frozen=True, kw_only=True):
    """The process ends before the verdict."""

    since: str = ""


class Reopened(Event, tag="reopened", frozen=True, kw_only=True):
    """What was absent is tried again; the judgements after it no longer count."""

    step: str
    arms: list[AbsentArm]


class Audited(Event, tag="audited", frozen=True, kw_only=True):
    """The audit of the data."""

    audit: AuditTold


class Forecast(Event, tag="forecast", frozen=True, kw_only=True):
    """How long the run will take."""

    seconds: float
    lower: float
    upper: float
    parts: dict[str, float]
    probe: Probe


class Nodes(Event, tag="nodes", frozen=True, kw_only=True):
    """What runs on each node of the cluster."""

    nodes: dict[str, dict[str, str | None]]


class Ladder(Event, tag="ladder", frozen=True, kw_only=True):
    """The predictors without training, on one split."""

    split: str
    rows: dict[str, EvaluationTold]


class StepStarted(Event, tag="step_started", frozen=True, kw_only=True):
    """A race begins: phase 1, a step, a confirmation or another seed."""

    step: str
    title: str
    arms: list[Arm]
    epochs: Count
    number: int | None = None  # of a step; a race of another kind has none of what follows
    left_out: dict[str, str] | UnsetType = UNSET
    question: str | UnsetType = UNSET
    hypothesis: str | UnsetType = UNSET
    rules_out: str | UnsetType = UNSET
    carried: list[tuple[str, str]] | UnsetType = UNSET
    reported: bool = True
    extended: bool = False
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.number is not None:
            for key in ("left_out", "question", "hypothesis", "rules_out", "carried"):
                if getattr(self, key) is UNSET:
                    raise ValueError(f"Object missing required field `{key}`")


class Epoch(Event, tag="epoch", frozen=True, kw_only=True):
    """One epoch of one arm, judged on dev."""

    arm: str
    step: str
    name: str
    epoch: Count
    eval_cosine: float | None = None
    r_at_5: float | None = None
    mrr: float | None = None
    stage: Verdict | None = None
    seconds: float = 0.0
    backend: str = ""
    loss: float | None = None
    ar: float | None = None
    contrastive: float | None = None
    mmd: float | None = None
    gradient_norm: float | None = None
    num_negatives: float | None = None
    negatives: dict[str, float | None] = {}
    health: dict[str, float | None] = {}
    wall: float | None = None


class Rung(Event, tag="rung", frozen=True, kw_only=True):
    """What a rung decided."""

    step: str
    epoch: Count
    metric: str = "eval_cosine"
    values: dict[str, float | None]
    cutoff: float | None
    pruned: list[str]
    held: list[str]
    seen: int | None = None
    arrived: str | None = None


class OfAnArm(Event, frozen=True, kw_only=True):
    """An event about one arm of a race."""

    arm: str
    step: str
    name: str


class ArmRestarted(OfAnArm, tag="arm_restarted", frozen=True, kw_only=True):
    """An arm whose process went away goes on in another one."""

    attempt: int
    epoch: Count
    detail: str


class Waiting(Event, tag="waiting", frozen=True, kw_only=True):
    """Arms wait for room that the cluster does not have."""

    step: str
    detail: str


class ArmEnded(OfAnArm, tag="arm_ended", frozen=True, kw_only=True):
    """An arm has ended."""

    reason: StopReason
    epoch: Count
    detail: str


class ArmJudged(OfAnArm, tag="arm_judged", frozen=True, kw_only=True):
    """An arm, judged on dev."""

    reason: StopReason
    detail: str
    epoch: Count
    evaluation: EvaluationTold | None
    role: str
    epochs_run: Count
    train_seconds: float
    stage: GateResult
    gains: list[GateResult]
    findings: list[FindingTold] = []


class TestJudged(OfAnArm, tag="test_judged", frozen=True, kw_only=True):
    """A model, measured on the test split."""

    role: str
    epochs: Count
    evaluation: EvaluationTold
    ann: dict[str, float | None] = {}
    evidence: EvidenceTold | None = None


class Phase1Judged(Event, tag="phase_1_judged", frozen=True, kw_only=True):
    """The success gate of the base recipe."""

    verdict: Verdict
    gates: list[GateResult]
    baseline: str
    lineage: LineageTold | None = None


class BelowLadder(Event, tag="below_ladder", frozen=True, kw_only=True):
    """AR-only against copies of its context."""

    findings: list[FindingTold]
    gains: dict[str, GateResult]
    reason: str
    arm: str
    name: str


class Inspected(Event, tag="inspected", frozen=True, kw_only=True):
    """What the base recipe's model shows of itself."""

    findings: list[FindingTold]
    arm: str
    name: str
    failed: dict[str, str] = {}
    order: list[str] = []
    reasons: list[str] = []


class StepEnded(Event, tag="step_ended", frozen=True, kw_only=True):
    """A step is answered."""

    step: str
    stage: Verdict
    candidate: str | None
    kept: str | None
    conflicts: list[str]


class Confirmed(Event, tag="confirmed", frozen=True, kw_only=True):
    """A full training, judged by the success gate on test."""

    step: str
    arm: str
    spec: str
    verdict: Verdict
    gates: list[GateResult]
    run_as: str
    success: Verdict | None = None
    attribution: str = ""
    over_control: Verdict | None = None
    control: ControlTold | None = None


class Settled(Event, tag="settled", frozen=True, kw_only=True):
    """All full trainings, judged together."""

    best: tuple[str, str] | None = None
    comparisons: int = 0
    adds: list[GateResult] = []


class Repeated(Event, tag="repeated", frozen=True, kw_only=True):
    """The models behind the verdict under one more seed."""

    seed: int
    models: dict[str, RepeatedModel]
    comparisons: list[Comparison]


class Compared(Event, tag="compared", frozen=True, kw_only=True):
    """Models held against the front of predictions without training."""

    of: str
    front: dict[str, FrontTold] = {}


class Decision(Event, tag="decision", frozen=True, kw_only=True):
    """What the tree asks for next."""

    action: str
    since: str
    number: int = 0
    step: str | None = None
    arm: str | None = None
    carried: list[list[str]] = []
    verdict: RunVerdict | None = None
    cause: list[str] | None = None
    by: tuple[str, str] | None = None  # the step and the arm that a cause rests on
    absent: list[AbsentArm] = []
    if_unseen: RunVerdict | None = None
    cause_if_unseen: list[str] = []
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.action == "Stop" and (self.verdict is None or self.cause is None):
            raise ValueError("Object missing required field `verdict` or `cause`")


class Tidied(Event, tag="tidied", frozen=True, kw_only=True):
    """Files of a run that nothing needs any more are removed."""

    step: str
    states: list[str]
    weights: list[str]
    files: Count = 0


KINDS: dict[str, type[Event]] = {
    str(kind.__struct_config__.tag): kind
    for kind in (
        RunStarted, Resumed, Interrupted, Reopened, Audited, Forecast, Nodes, Ladder, StepStarted,
        Epoch, Rung, ArmRestarted, Waiting, ArmEnded, ArmJudged, TestJudged, Phase1Judged,
        BelowLadder, Inspected, StepEnded, Confirmed, Settled, Repeated, Compared, Decision, Tidied,
    )
}  # fmt: skip


class NotToldError(ValueError):
    """An event lacks what it cannot be told without, or says it in another form."""


def read_event(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an event whose recipes have every key that a recipe has now.

    Raises NotToldError like `told`.
    """
    event = told(record)
    if isinstance(event, RunStarted):
        return {**record, "config": to_dict(event.config)}
    if isinstance(event, StepStarted):
        recipes = [to_dict(arm.recipe) for arm in event.arms]
        arms = zip(record["arms"], recipes, strict=True)
        return {**record, "arms": [{**arm, "recipe": recipe} for arm, recipe in arms]}
    return record


def told(record: Mapping[str, Any]) -> Event | None:
    """Return an event as its struct; None for a kind that this version does not know.

    Raises NotToldError with the field and what is wrong with it.
    """
    kind = KINDS.get(record["event"])
    if kind is None:
        return None
    try:
        return msgspec.convert(record, kind)
    except msgspec.ValidationError as error:
        raise NotToldError(str(error)) from None
    except ConfigError as error:
        raise NotToldError(f"{error} - at `$.config`") from None
