"""The actions of the tree, and their outcomes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from lvm.core.records import Absence, RunVerdict, Verdict

MORE_TRAINING = "more_training"  # the cause when the unchanged recipe passes at the same budget
COMBINATION = "combination"  # stands for a step where several are tried together


class Attribution(StrEnum):
    """Which cause a confirmation supports."""

    STEP = "step"  # the arm holds the gate and beats the unchanged recipe
    MORE_TRAINING = "more training"  # the unchanged recipe holds the gate at the same budget
    OPEN = "open"  # an interval crosses its bound
    NOBODY = "nobody"  # the arm fails the gate
    NOT_JUDGED = "not judged"


def attribute(arm: Verdict, control: Verdict, over_control: Verdict) -> Attribution:
    """Return the cause that a confirmation supports.

    `arm` and `control` are success gates at the same budget and seed, `over_control` is the gain of
    the arm over the control. A fix that the control shares is none of the step's doing; one that
    does not clearly beat its control has no cause yet.
    """
    if control is Verdict.PASS:
        return Attribution.MORE_TRAINING
    if arm is Verdict.PASS:
        return Attribution.STEP if over_control is Verdict.PASS else Attribution.OPEN
    if Verdict.INCONCLUSIVE in (arm, control):
        return Attribution.OPEN
    return Attribution.NOBODY if arm is Verdict.FAIL else Attribution.NOT_JUDGED


@dataclass(frozen=True, kw_only=True)
class Phase1Outcome:
    """The success gate of the base recipe against AR-only."""

    verdict: Verdict
    absent: tuple[Absence, ...] = ()
    no_baseline: str = ""  # why AR-only left nothing to compare with; "" where it is there
    unread: str = ""  # the judged model, where nobody knows which articles it has read


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """The arms of a step, judged."""

    step: str
    stage: Verdict  # the best of the stage gate; FAIL only where no arm is absent
    candidate: str | None  # the arm worth confirming when stage is PASS or INCONCLUSIVE
    carried: str | None  # the arm that beat the control clearly, from which later steps start
    gain: float = 0.0  # of the carried arm over its control, dev MRR
    changes: frozenset[str] = frozenset()  # recipe keys that the carried arm changes
    absent: tuple[Absence, ...] = ()  # arms of the step, its control with them

    @property
    def lacks_control(self) -> bool:
        """Whether no arm could be compared: what each adds was not measured."""
        return any(one.role == "control" for one in self.absent)


@dataclass(frozen=True, kw_only=True)
class ConfirmOutcome:
    """The full training of one arm, judged by the success gate."""

    step: str
    arm: str
    verdict: Verdict
    control: Verdict  # the unchanged recipe at the same budget, by the same gate
    over_control: Verdict  # the gain of the arm over it
    gain: float = 0.0  # test MRR over the control's: of several causes the largest is named
    dominated: bool = False  # what needs no training does better
    absent: tuple[Absence, ...] = ()  # the arm, or the unchanged recipe
    unread: str = ""  # the model that the arm searches, where nobody knows what it has read

    @property
    def attribution(self) -> Attribution:
        """Which cause the confirmation supports."""
        return attribute(self.verdict, self.control, self.over_control)


@dataclass(frozen=True, kw_only=True)
class TrainedOutcome:
    """One arm trained in full and not judged yet: all are settled together."""

    step: str
    arm: str


@dataclass(frozen=True, kw_only=True)
class SettledOutcome:
    """Every full training of `all_steps`, judged together."""

    confirmed: tuple[ConfirmOutcome, ...]


@dataclass(frozen=True, kw_only=True)
class RepeatedOutcome:
    """The models behind the verdict, trained with another seed."""

    seed: int


Outcome = (
    Phase1Outcome | StepOutcome | ConfirmOutcome | TrainedOutcome | SettledOutcome | RepeatedOutcome
)


@dataclass(frozen=True, kw_only=True)
class RunPhase1:
    """Train or load AR-only and the base recipe."""

    since: str


@dataclass(frozen=True, kw_only=True)
class RunStep:
    """Run the arms of a step from the base recipe with the arms of `carried` steps applied."""

    step: str
    carried: tuple[tuple[str, str], ...]  # (step, arm)
    since: str


@dataclass(frozen=True, kw_only=True)
class Confirm:
    """Train one arm in full and judge it on the test split."""

    step: str
    arm: str | None  # None: the carried recipe itself
    carried: tuple[tuple[str, str], ...]
    since: str


@dataclass(frozen=True, kw_only=True)
class Settle:
    """Judge every full training together."""

    since: str


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """Train the models behind the verdict with another seed."""

    seed: int
    since: str


@dataclass(frozen=True, kw_only=True)
class Stop:
    """The triage is over."""

    verdict: RunVerdict
    cause: tuple[str, ...]  # the steps that together made the fix, or MORE_TRAINING
    since: str
    by: tuple[str, str] | None = None  # step and arm of the confirmation that the cause rests on
    absent: tuple[Absence, ...] = ()  # arms without which the verdict cannot be another one
    if_unseen: RunVerdict | None = None  # the verdict if the judged model has not read the test
    cause_if_unseen: tuple[str, ...] = ()  # articles, where nobody knows; and its cause


def if_unseen(stop: Stop, unread: str) -> Stop:
    """Return a good end, weakened if it is unknown what its model has read.

    `unread` is that model, which may have read the test articles: neither PASSED nor FIXED can rest
    on it, so the run ends INCONCLUSIVE and keeps what it would have ended with. "" where the model
    was trained here, or its articles are known.
    """
    if not unread:
        return stop
    return Stop(
        verdict=RunVerdict.INCONCLUSIVE,
        cause=(),
        if_unseen=stop.verdict,
        cause_if_unseen=stop.cause,
        since=f"{stop.since}, but it is unknown whether {unread} has read the test articles",
    )


Action = RunPhase1 | RunStep | Confirm | Settle | Repeat | Stop
