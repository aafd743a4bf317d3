"""The tree as a pure function: from what has happened to what is done next.

    phase 1 --PASS--> PASSED
       |
    step 1 --an arm holds (or may hold) the stage gate--> confirm --PASS--> FIXED
       |                                                     |
    step 2 ...  (a step that beat its control is carried: later steps start from it)
       |
    after the last step: the carried recipe is confirmed if no confirmation has tried it,
    because a false stop costs more than one training; then NOT_FIXED or INCONCLUSIVE

No cluster, file or clock is touched here, so every combination of verdicts is tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lvm.records import RunVerdict, Verdict


@dataclass(frozen=True, kw_only=True)
class Phase1Outcome:
    """The success gate of the base recipe against AR-only."""

    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """The arms of a step, judged."""

    step: str
    stage: Verdict  # best stage-gate verdict over the arms; NOT_EVALUABLE when none could be judged
    candidate: str | None  # the arm worth confirming when stage is PASS or INCONCLUSIVE
    carried: str | None  # the arm that beat the control clearly, from which later steps start


@dataclass(frozen=True, kw_only=True)
class ConfirmOutcome:
    """The full training of one arm, judged by the success gate."""

    step: str
    arm: str
    verdict: Verdict


Outcome = Phase1Outcome | StepOutcome | ConfirmOutcome


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
class Stop:
    """The triage is over."""

    verdict: RunVerdict
    cause: tuple[str, ...]  # the steps that together made the fix
    since: str


Action = RunPhase1 | RunStep | Confirm | Stop


def next_action(
    plan: Sequence[str], history: Sequence[Outcome], *, independent: bool = False
) -> Action:
    """Return what to do after `history` when the steps in `plan` are asked in order.

    `independent` starts every step from the base recipe, as the failure report literally says.
    """
    if not history:
        return RunPhase1(since="no model has been judged yet")
    first, last = history[0], history[-1]
    if isinstance(first, Phase1Outcome) and first.verdict is Verdict.PASS:
        return Stop(
            verdict=RunVerdict.PASSED, cause=(), since="the base recipe holds the success gate"
        )
    carried = () if independent else _carried(history)
    if isinstance(last, StepOutcome) and last.candidate is not None:
        before = () if independent else _carried(history[:-1])
        word = "holds" if last.stage is Verdict.PASS else "may hold (its interval crosses)"
        since = f"{last.candidate} {word} the stage gate"
        return Confirm(step=last.step, arm=last.candidate, carried=before, since=since)
    if isinstance(last, ConfirmOutcome) and last.verdict is Verdict.PASS:
        steps = tuple(step for step, _ in carried if step != last.step)
        since = f"{last.arm} holds the success gate on the test split"
        return Stop(verdict=RunVerdict.FIXED, cause=(*steps, last.step), since=since)
    done = {o.step for o in history if isinstance(o, StepOutcome)}
    for step in plan:
        if step not in done:
            return RunStep(step=step, carried=carried, since=_why_go_on(last))
    unconfirmed = _unconfirmed(history)
    if carried and unconfirmed is not None:
        return Confirm(
            step=unconfirmed[0],
            arm=None,
            carried=carried,
            since="it beat its control, and no full training has tried it",
        )
    return _end(history)


def _carried(history: Sequence[Outcome]) -> tuple[tuple[str, str], ...]:
    return tuple((o.step, o.carried) for o in history if isinstance(o, StepOutcome) and o.carried)


def _unconfirmed(history: Sequence[Outcome]) -> tuple[str, str] | None:
    """Return the last carried (step, arm) unless a confirmation has tried exactly that."""
    carried = _carried(history)
    if not carried:
        return None
    tried = {(o.step, o.arm) for o in history if isinstance(o, ConfirmOutcome)}
    return None if carried[-1] in tried else carried[-1]


def _why_go_on(last: Outcome) -> str:
    if isinstance(last, Phase1Outcome):
        return f"the success gate of phase 1 is {last.verdict}"
    if isinstance(last, ConfirmOutcome):
        return f"the success gate of {last.arm} is {last.verdict}"
    return f"no arm of {last.step} holds the stage gate"


def _end(history: Sequence[Outcome]) -> Stop:
    judged = [o.verdict for o in history if not isinstance(o, StepOutcome)]
    if Verdict.INCONCLUSIVE in judged:
        since = "no arm holds the success gate, and for one the interval crosses the bound"
        return Stop(verdict=RunVerdict.INCONCLUSIVE, cause=(), since=since)
    if all(v is Verdict.NOT_EVALUABLE for v in judged):
        since = "no success gate could be judged"
        return Stop(verdict=RunVerdict.INCONCLUSIVE, cause=(), since=since)
    return Stop(
        verdict=RunVerdict.NOT_FIXED, cause=(), since="no arm of any step holds the success gate"
    )
