"""The state of a running or finished triage, from its journal; `screen` shows it.

journal --status--> Standing --screen--> 24 lines
                             --as_json--> one JSON object
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec.structs import asdict

from lvm.audit.document import AuditDocument, answer, blocking_codes
from lvm.core.command import lvm_command, shown
from lvm.core.plain_json import Json
from lvm.core.printed import eval_command, resume_command
from lvm.core.records import GateResult, RunVerdict, Verdict, to_plain
from lvm.triage.events import (
    Audited,
    Confirmed,
    Event,
    Inspected,
    Phase1Judged,
    Repeated,
    Resumed,
    StepEnded,
    StepStarted,
)
from lvm.triage.folder import found_at
from lvm.triage.lock import Driver
from lvm.triage.pace import AFTER_A_STEP
from lvm.triage.state import RunState
from lvm.triage.subject import TRAINER
from lvm.triage.summary import Summary
from lvm.triage.verdict import build_verdict
from lvm.views.progress import ArmStanding, arms_of, seconds_left, since_start
from lvm.views.status.standing import (
    AuditStanding,
    Blocking,
    Driving,
    EndedStep,
    GainStanding,
    RunningStep,
    Standing,
)


def status(state: RunState, folder: Path, now: float, driver: Driver | None = None) -> Standing:
    """Return the state of the run in `folder` at `now` (seconds since 1970).

    `driver` is what the folder's lock says (`lvm.triage.lock.driver_of`), None without one.
    """
    summary = build_verdict(state, resume=resume_command(folder, state.address))
    age = max(0.0, now - state[-1].at)
    goes_on = _goes_on(summary.verdict, driver)
    silent = age if goes_on == "running" else 0.0
    audited, compute = state.last(Audited), summary.compute
    return Standing(
        run=str(folder),
        state=goes_on,
        verdict=summary.verdict,
        headline=summary.headline,
        judged=summary.judged,
        since=summary.since,
        absent=summary.absent,
        started_at=state[0].at,
        last_event_at=state[-1].at,
        age_seconds=round(age, 1),
        driver=_driver(driver),
        seconds=_spent(state, silent),
        train_seconds=compute.train_seconds,
        trials=compute.trials,
        saved_seconds=compute.saved_seconds,
        audit=_audit(audited.audit) if audited else None,
        doing=_doing(state) if summary.verdict is None else None,
        step=_running(state, silent),
        ended=_ended(state),
        gains=[_gain(gate) for gate in _judged_gates(summary) if gate.gate == "success"],
        next=_next(summary, folder, goes_on, state),
    )


def as_json(standing: Standing) -> dict[str, Json]:
    """Return a standing as JSON values; the metrics of an arm are among its own keys."""
    step = _step_as_json(standing.step) if standing.step else None
    ended = [_step_as_json(step) for step in standing.ended]
    return to_plain(standing) | {"step": step, "ended": ended}


def _step_as_json(step: RunningStep | EndedStep) -> dict[str, Json]:
    return to_plain(step) | {"arms": [_arm_as_json(arm) for arm in step.arms]}


def _arm_as_json(arm: ArmStanding) -> dict[str, Json]:
    flat: dict[str, Json] = {}
    for key, value in to_plain(arm).items():
        flat |= to_plain(arm.measured) if key == "measured" else {key: value}
    return flat


def _goes_on(verdict: str | None, driver: Driver | None) -> str:
    """Return whether a run goes on, by its lock: silence alone means nothing."""
    if verdict is not None:
        return "finished"
    return "interrupted" if driver is None or driver.abandoned else "running"


def _driver(driver: Driver | None) -> Driving | None:
    """Return the process that drives the run; None when nobody does."""
    if driver is None or driver.abandoned or driver.owner is None:
        return None
    silent = round(max(0.0, driver.age), 1)
    return Driving(host=driver.owner.host, pid=driver.owner.pid, silent_seconds=silent)


def _spent(events: Iterable[Event], age: float) -> float:
    """Return the seconds between events, except across interruptions."""
    pairs = itertools.pairwise(events)
    spent = sum(late.at - early.at for early, late in pairs if not isinstance(late, Resumed))
    return round(spent + age, 1)


def _audit(audit: AuditDocument) -> AuditStanding:
    blocking = blocking_codes(audit)
    return AuditStanding(
        verdict=audit.verdict,
        answer=answer(audit),
        codes=list(dict.fromkeys(finding.code for finding in audit.findings)),
        blocked=[
            Blocking(code=finding.code, seen=finding.seen, next=finding.next)
            for finding in audit.findings
            if finding.code in blocking
        ],
    )


def _doing(state: RunState) -> str:
    """Return what the run does after its last event, in words."""
    if running := since_start(state):
        started, _ = running
        going = any(arm.reason is None for arm in arms_of(state, started))
        return title(started.number, started.title) if going else "judging its arms"
    asked = state.last(StepEnded) or state.last(Confirmed)
    if (state.last(Phase1Judged) or state.last(Inspected)) and not asked:
        return "checking the phase 1 models"
    if any(state.last(kind) for kind in AFTER_A_STEP):
        return "deciding what comes next"
    return "measuring the untrained baselines" if state.last(Audited) else "preparing"


def title(number: int | None, name: str) -> str:
    """Return the title of a step on the screen."""
    return f"step {number}, {name}" if number is not None else name


def _running(state: RunState, age: float) -> RunningStep | None:
    """Return the running step and its arms, `age` seconds after the last event."""
    running = since_start(state)
    if running is None:
        return None
    started, events = running
    left, run = seconds_left(state), state.started
    return RunningStep(
        step=started.step,
        title=started.title,
        number=started.number,
        started_at=started.at,
        seconds=_spent(events, age),
        seconds_left=None if left is None else round(max(0.0, left - age), 1),
        gate=run.config.gates.stage_eval_cosine if run else None,
        arms=arms_of(state, started),
    )


def _ended(state: RunState) -> list[EndedStep]:
    """Return every step that has ended, with its verdict and its arms."""
    running = since_start(state)
    return [
        _ended_step(state, started)
        for started in state.of(StepStarted)
        if running is None or started is not running[0]
    ]


def _ended_step(state: RunState, started: StepStarted) -> EndedStep:
    verdict, kept = _outcome(state, started)
    return EndedStep(
        step=started.step,
        title=started.title,
        number=started.number,
        verdict=verdict,
        kept=kept,
        arms=arms_of(state, started),
    )


def _outcome(state: RunState, started: StepStarted) -> tuple[Verdict | str | None, str | None]:
    """Return the verdict on a step, and the arm that it keeps."""
    if started.step == "phase_1":
        judged = state.last(Phase1Judged)
        return (judged.verdict if judged else None), None
    if confirmed := state.last(Confirmed, run_as=started.step):
        return confirmed.verdict, None
    if started.seed is not None and state.last(Repeated, seed=started.seed):
        return "repeated", None
    ended = state.last(StepEnded, step=started.step)
    return (ended.stage, ended.kept) if ended else (None, None)


def _judged_gates(summary: Summary) -> Sequence[GateResult]:
    """Return the gates behind the verdict: of the confirmed arm, else of phase 1."""
    return (summary.arm or summary.phase1).gates


def _gain(gate: GateResult) -> GainStanding:
    return GainStanding(metric=gate.metric, verdict=gate.verdict, reason=gate.reason)


def _next(summary: Summary, folder: Path, goes_on: str, state: RunState) -> str:
    """Return the command to type now."""
    started = state.started
    if goes_on == "interrupted":
        return summary.resume
    if summary.absent and summary.verdict is RunVerdict.INCONCLUSIVE:
        return summary.resume
    if summary.verdict is RunVerdict.BLOCKED and started is not None:
        return started.again or started.command
    own = summary.judged.kind == TRAINER  # it has no checkpoint that lvm can judge
    if summary.arm is not None and goes_on == "finished" and not own:
        checkpoint = found_at(summary.arm.checkpoint, folder)
        modules = started.config.plugins if started else ()
        return eval_command(checkpoint, asdict(state.arguments), modules)
    return f"{lvm_command()} report {shown(folder)}"
