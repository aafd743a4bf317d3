"""What the arms of a run have cost, and what stopping early has saved, by who stopped it.

    journal events --spent_by_arm--> Spent of every arm --saved_seconds--> by gate and by pruning

Pure functions of the events, so that the verdict and the report count the same savings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lvm.events import Events
from lvm.records import StopReason

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


def spent_by_arm(events: Events) -> list[Spent]:
    """Return what every arm has cost and saved; epochs that two steps share count once."""
    budgets = {
        spec["id"]: spec["recipe"]["training"]["epochs"]
        for started in events.of("step_started")
        for spec in started["arms"]
        if spec["source"] is None
    }
    steps: dict[str, str] = {}
    for event in events.of("epoch"):
        steps.setdefault(event["arm"], event["step"])
    return [_spent(events, arm, step, budgets.get(arm, 0)) for arm, step in steps.items()]


def _spent(events: Events, arm: str, step: str, budget: int) -> Spent:
    records = {event["epoch"]: event for event in events.of("epoch", arm=arm)}
    trained = [e for e in records if e > 0]
    cost = sum(record.get("seconds") or 0.0 for record in records.values())
    ended = (events.last("arm_ended", arm=arm) or {}).get("reason", "")
    left = max(0, budget - max(records)) if ended else 0
    return Spent(
        step=step,
        epochs=len(trained),
        seconds=cost,
        left=left,
        saved=left * cost / max(1, len(trained)),
        stopped_by=STOPPED_BY.get(ended, ""),
    )


def saved_seconds(events: Events) -> Mapping[str, float]:
    """Return the seconds of training saved by the stage gate and by pruning."""
    arms = spent_by_arm(events)
    return {by: sum(a.saved for a in arms if a.stopped_by == by) for by in (GATE, PRUNING)}
