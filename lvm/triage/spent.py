"""What the arms of a run have cost, and what stopping early has saved, by who stopped it.

    journal events --spent_by_arm--> Spent of every arm --saved_seconds--> by gate and by pruning

Pure functions of the events, so that the verdict and the report count the same savings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from lvm.core.records import StopReason
from lvm.triage.events import ArmEnded, Epoch, Forecast, Resumed, Rung, StepStarted
from lvm.triage.state import RunState
from lvm.triage.summary import Compute, ForecastShown

OUT_OF_TIME = "the time of the step was over"  # why an arm was cancelled
GATE, PRUNING = "stage gate", "pruning"
STOPPED_BY = {
    StopReason.GATE_HELD: GATE,  # the arm that ends its step, and those that this ends
    StopReason.CANCELLED: GATE,
    StopReason.PRUNED: PRUNING,
}


@dataclass(frozen=True)
class Spent:
    """The training of one arm, counted where it ran first."""

    step: str
    epochs: int
    seconds: float
    left: int  # epochs of its budget that were not run
    saved: float  # seconds that these would have taken, at the arm's own pace
    stopped_by: str  # GATE, PRUNING, or "" for an arm that ended by itself or has not ended


def spent_by_arm(state: RunState) -> list[Spent]:
    """Return what every arm has cost and saved; epochs that two steps share count once."""
    budgets = {
        spec.id: spec.recipe.training.epochs
        for started in state.of(StepStarted)
        for spec in started.arms
        if spec.source is None
    }
    steps: dict[str, str] = {}
    for event in state.of(Epoch):
        steps.setdefault(event.arm, event.step)
    return [_spent(state, arm, step, budgets.get(arm, 0)) for arm, step in steps.items()]


def _spent(state: RunState, arm: str, step: str, budget: int) -> Spent:
    records = {event.epoch: event for event in state.of(Epoch, arm=arm)}
    trained = [e for e in records if e > 0]
    cost = sum(record.seconds for record in records.values())
    ended = state.last(ArmEnded, arm=arm)
    stopped = ended is not None and ended.detail != OUT_OF_TIME
    left = max(0, budget - max(records)) if ended else 0
    return Spent(
        step=step,
        epochs=len(trained),
        seconds=cost,
        left=left,
        saved=left * cost / max(1, len(trained)),
        stopped_by=STOPPED_BY.get(ended.reason, "") if ended and stopped else "",
    )


def saved_seconds(state: RunState) -> Mapping[str, float]:
    """Return the seconds of training saved by the stage gate and by pruning."""
    arms = spent_by_arm(state)
    return {by: sum(a.saved for a in arms if a.stopped_by == by) for by in (GATE, PRUNING)}


def time_said(state: RunState) -> ForecastShown | None:
    """Return how long the run was predicted to take, and how long it took without interruptions."""
    said = state.last(Forecast)
    if said is None:
        return None
    spent = sum(
        later.at - earlier.at
        for earlier, later in pairwise(state)
        if earlier.at >= said.at and not isinstance(later, Resumed)
    )
    return ForecastShown(
        seconds=said.seconds,
        lower=said.lower,
        upper=said.upper,
        parts=said.parts,
        probe=said.probe,
        actual_seconds=round(spent, 1) if state.stop else None,
    )


def compute(state: RunState) -> Compute:
    """Return seconds trained, trials run, and seconds that the stage gate and pruning saved.

    An arm that broke, or has not ended, has saved nothing.
    """
    arms = spent_by_arm(state)
    return Compute(
        train_seconds=round(sum(arm.seconds for arm in arms), 1),
        trials=len(arms),
        saved_seconds=round(sum((arm.saved for arm in arms if arm.stopped_by), start=0.0), 1),
        wall_seconds=round(state[-1].at - state[0].at, 1) if state else 0.0,
    )


def seconds_of_race(state: RunState, step: str) -> float:
    """Return how long the arms of a step have run so far, without breaks between processes."""
    return sum(
        later.at - earlier.at
        for earlier, later in pairwise(state)
        if isinstance(later, Epoch | Rung | ArmEnded) and later.step == step
    )
