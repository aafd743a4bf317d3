"""The events of a run between its races: its options, decisions and judgements."""

from __future__ import annotations

import msgspec

from lvm.audit.document import AuditDocument, FindingTold
from lvm.core.config.run import RunConfig
from lvm.core.records import (
    Absence,
    Count,
    Evaluation,
    FrontPosition,
    GateResult,
    RunVerdict,
    Verdict,
)
from lvm.triage.events.evidence import Comparison, LineageTold, RepeatedModel
from lvm.triage.events.parts import (
    Arguments,
    ControlTold,
    DataSeen,
    Environment,
    Event,
    Probe,
    check_evaluation,
)


class RunStarted(Event, tag="run_started", frozen=True, kw_only=True):
    """A run begins: its configuration, data and code."""

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
    """Another process resumes the run."""

    command: str = ""
    address: str | None = None
    arguments: Arguments = msgspec.field(default_factory=Arguments)


class Interrupted(Event, tag="interrupted", frozen=True, kw_only=True):
    """The process ends before the verdict."""

    since: str = ""


class Reopened(Event, tag="reopened", frozen=True, kw_only=True):
    """What was absent is tried again; the judgements after it no longer count."""

    step: str
    arms: list[Absence]


class Audited(Event, tag="audited", frozen=True, kw_only=True):
    """The audit of the data."""

    audit: AuditDocument


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
    """The untrained baselines, on one split."""

    split: str
    rows: dict[str, Evaluation]

    def __post_init__(self) -> None:
        for evaluation in self.rows.values():
            check_evaluation(evaluation)


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

    best: tuple[str, str] | None
    comparisons: int
    adds: list[GateResult]


class Repeated(Event, tag="repeated", frozen=True, kw_only=True):
    """The models behind the verdict under one more seed."""

    seed: int
    models: dict[str, RepeatedModel]
    comparisons: list[Comparison]

    def __post_init__(self) -> None:
        known = {name: {of.seed for of in model.per_seed} for name, model in self.models.items()}
        for one in self.comparisons:
            for name in (one.model, one.over):
                if not known.get(name, set()) >= set(one.seeds):
                    raise ValueError(f"Expected every seed of {name!r} in `models`")


class Compared(Event, tag="compared", frozen=True, kw_only=True):
    """Models compared with the front of untrained baselines."""

    of: str
    front: dict[str, FrontPosition] = {}


class Decision(Event, tag="decision", frozen=True, kw_only=True):
    """The next action of the tree."""

    action: str
    since: str
    number: int = 0
    step: str | None = None
    arm: str | None = None
    carried: list[list[str]] = []
    verdict: RunVerdict | None = None
    cause: list[str] | None = None
    by: tuple[str, str] | None = None  # the step and the arm that a cause rests on
    absent: list[Absence] = []
    if_unseen: RunVerdict | None = None
    cause_if_unseen: list[str] = []
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.action == "Stop" and (self.verdict is None or self.cause is None):
            raise ValueError("Object missing required field `verdict` or `cause`")
        if self.verdict in (RunVerdict.FIXED, RunVerdict.BLOCKED) and not self.cause:
            raise ValueError("Expected what was fixed, or what blocks, in `cause`")


class Tidied(Event, tag="tidied", frozen=True, kw_only=True):
    """Files of a run that nothing needs any more are removed."""

    step: str
    states: list[str]
    weights: list[str]
    files: Count = 0
