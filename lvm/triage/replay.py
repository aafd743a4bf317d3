"""What a journal knows of the arms of a race, told to the race: nothing is trained twice."""

from __future__ import annotations

from lvm.core.records import StopReason
from lvm.triage.events import ArmEnded, Epoch, StepStarted
from lvm.triage.race import Race
from lvm.triage.spent import OUT_OF_TIME
from lvm.triage.state import RunState

BY_ITSELF = (StopReason.DIVERGED, StopReason.NOT_EVALUABLE)  # where it ran had no part in it


def replay(race: Race, state: RunState) -> None:
    """Feed a race what the journal knows of its arms, from this step or an earlier one.

    An absent arm is not among it: another step tries it anew, and so does a resumed run. Nor are
    epochs of a step that was taken back: the arm's folder gives them if they are needed.
    """
    started = {event.step for event in state.of(StepStarted)}
    about = state.about(race.lanes.keys())
    events = [e for e in about if isinstance(e, Epoch | ArmEnded) and e.step in started]
    ended = {e.arm for e in events if isinstance(e, ArmEnded) and e.reason in BY_ITSELF}
    unfinished = {
        arm
        for arm, lane in race.lanes.items()
        if lane.spec.evaluate_test and not (lane.spec.folder / "test.json").exists()
    } - ended
    for event in events:
        if isinstance(event, Epoch) and event.arm not in unfinished:
            race.record(event)
        elif isinstance(event, ArmEnded) and _counts(event, race.step):
            race.failed(event.arm, event.reason, event.detail)


def _counts(event: ArmEnded, step: str) -> bool:
    """Whether an ending stays: a resumed run does not ask the clock of a step again."""
    return event.reason in BY_ITSELF or (event.step == step and event.detail == OUT_OF_TIME)
