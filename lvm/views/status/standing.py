"""The state of a run, as `lvm status --json` prints it: one frozen struct."""

from __future__ import annotations

from lvm.core.records import Absence, Part, RunVerdict, Verdict
from lvm.triage.summary import Judged
from lvm.views.progress import ArmStanding

SCHEMA = 1


class Driving(Part, frozen=True, kw_only=True):
    """The process that drives a run."""

    host: str
    pid: int
    silent_seconds: float


class Blocking(Part, frozen=True, kw_only=True):
    """A finding that blocks."""

    code: str
    seen: str
    next: str


class AuditStanding(Part, frozen=True, kw_only=True):
    """The result of the audit."""

    verdict: str
    answer: str
    codes: list[str]
    blocked: list[Blocking]


class RunningStep(Part, frozen=True, kw_only=True):
    """The running step and its arms."""

    step: str
    title: str
    number: int | None
    started_at: float
    seconds: float
    seconds_left: float | None
    gate: float | None
    arms: list[ArmStanding]


class EndedStep(Part, frozen=True, kw_only=True):
    """A step that has ended, with its verdict and the arm that it keeps."""

    step: str
    title: str
    number: int | None
    verdict: Verdict | str | None
    kept: str | None
    arms: list[ArmStanding]


class GainStanding(Part, frozen=True, kw_only=True):
    """A success gate behind the verdict."""

    metric: str
    verdict: Verdict
    reason: str


class Standing(Part, frozen=True, kw_only=True):
    """The state of a run.

    `state` is running, interrupted or finished; `seconds` and `seconds_left` leave out the time
    between an interruption and its resumption.
    """

    schema: int = SCHEMA
    run: str
    state: str
    verdict: RunVerdict | None
    headline: str
    judged: Judged
    since: str | None
    absent: list[Absence]
    started_at: float
    last_event_at: float
    age_seconds: float
    driver: Driving | None
    seconds: float
    train_seconds: float
    trials: int
    saved_seconds: float
    audit: AuditStanding | None
    doing: str | None
    step: RunningStep | None
    ended: list[EndedStep]
    gains: list[GainStanding]
    next: str
