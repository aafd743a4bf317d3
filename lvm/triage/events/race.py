"""The events of a race: its arms, their epochs, and what became of them."""

from __future__ import annotations

from lvm.audit.document import FindingTold
from lvm.core.plain_json import Json
from lvm.core.records import Count, Evaluation, GateResult, StopReason, Verdict
from lvm.triage.events.evidence import EvidenceTold
from lvm.triage.events.parts import Arm, Event, check_evaluation


class StepStarted(Event, tag="step_started", frozen=True, kw_only=True):
    """A race begins: phase 1, a step, a confirmation or another seed."""

    step: str
    title: str
    arms: list[Arm]
    epochs: Count
    number: int | None = None  # of a step; a race of another kind has none of what follows
    left_out: dict[str, str] = {}
    question: str = ""
    hypothesis: str = ""
    rules_out: str = ""
    carried: list[tuple[str, str]] = []
    reported: bool = True
    extended: bool = False
    seed: int | None = None


class ArmsAdded(Event, tag="arms_added", frozen=True, kw_only=True):
    """A step goes on with arms that it proposed from what its earlier ones have reached."""

    step: str
    round: Count  # the first that is added is 2
    arms: list[Arm]
    left_out: dict[str, str] = {}


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
    negatives: dict[str, int | float | None] = {}
    health: dict[str, int | float | None] = {}
    wall: float | None = None
    also: dict[str, int | float | None] = {}  # what metrics and loss terms from outside measured

    def measured(self, name: str) -> float | None:
        """Return what a metric or a loss term came to; None where it was not measured."""
        value = getattr(self, name) if name in self.__struct_fields__ else self.also.get(name)
        return None if value is None else float(value)

    def record(self) -> dict[str, Json]:
        """Return what the epoch measured, by name, whoever declares it."""
        envelope = ("at", "arm", "step", "name", "also")
        own = [name for name in self.__struct_fields__ if name not in envelope]
        told = {**{name: getattr(self, name) for name in own}, **self.also}
        return {name: value for name, value in told.items() if value is not None}


class Rung(Event, tag="rung", frozen=True, kw_only=True):
    """What a rung decided."""

    step: str
    epoch: Count
    metric: str = "eval_cosine"
    values: dict[str, int | float | None]
    cutoff: float | None
    pruned: list[str]
    held: list[str]
    seen: int | None = None
    arrived: str | None = None
    round: Count = 1  # of a step that proposes its arms in rounds


class OfAnArm(Event, frozen=True, kw_only=True):
    """An event about one arm of a race."""

    arm: str
    step: str
    name: str


class ArmRestarted(OfAnArm, tag="arm_restarted", frozen=True, kw_only=True):
    """An arm that lost its process restarts in another one."""

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
    evaluation: Evaluation | None
    role: str
    epochs_run: Count
    train_seconds: float
    stage: GateResult
    gains: list[GateResult]
    findings: list[FindingTold] = []

    def __post_init__(self) -> None:
        if self.evaluation is not None:
            check_evaluation(self.evaluation)


class TestJudged(OfAnArm, tag="test_judged", frozen=True, kw_only=True):
    """A model, measured on the test split."""

    role: str
    epochs: Count
    evaluation: Evaluation
    ann: dict[str, int | float | None] = {}
    evidence: EvidenceTold | None = None

    def __post_init__(self) -> None:
        check_evaluation(self.evaluation)
