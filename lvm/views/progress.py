"""Progress of a running triage: its running step, its arms, the time left; also as JSON lines.

events --Progress.take, one by one--> the time left in the running step, for every JSON line
events --arms_of--> the progress of every arm of a step, for `lvm status`
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from typing import TextIO

from msgspec.structs import asdict

from lvm.core.metrics import METRICS, Shown
from lvm.core.plain_json import Json
from lvm.core.records import Evaluation, Part, StopReason, Verdict, to_plain
from lvm.triage.events import (
    ArmEnded,
    ArmJudged,
    ArmsAdded,
    Audited,
    BelowLadder,
    Decision,
    Epoch,
    Event,
    Ladder,
    Reopened,
    Repeated,
    Rung,
    RunStarted,
    StepStarted,
    TestJudged,
)
from lvm.triage.events.parts import Arm
from lvm.triage.journal import Journal
from lvm.triage.pace import AFTER_A_STEP, Progress, budget
from lvm.triage.state import RunState
from lvm.triage.summary import Summary


class ArmStanding(Part, frozen=True, kw_only=True):
    """The progress of an arm of a step."""

    id: str
    name: str
    role: str
    epoch: int
    of: int  # epochs that it may train
    measured: dict[str, float | None]  # at its latest epoch, on dev
    reason: StopReason | None  # why it ended
    detail: str | None
    stage: Verdict | None


def since_start(state: RunState) -> tuple[StepStarted, list[Event]] | None:
    """Return the running step with the events since its start; None between two steps."""
    for index in range(len(state) - 1, -1, -1):
        event = state[index]
        if isinstance(event, AFTER_A_STEP):
            return None
        if isinstance(event, StepStarted):
            return event, state[index:]
    return None


def arms_of(state: RunState, started: StepStarted) -> list[ArmStanding]:
    """Return the progress of each arm of a step, with its epochs from any earlier step."""
    return [_arm(state, started.step, spec) for spec in started.arms]


def _arm(state: RunState, step: str, spec: Arm) -> ArmStanding:
    latest = max(state.of(Epoch, arm=spec.id), key=lambda e: e.epoch, default=None)
    ended = next(iter(state.of(ArmEnded, arm=spec.id, step=step)), None)
    judged = next(iter(state.of(ArmJudged, arm=spec.id, step=step)), None)
    reached, shown = ended or latest, (*METRICS.shown(Shown.CURVES), "loss")
    stage = judged.stage.verdict if judged else latest.stage if latest else None
    return ArmStanding(
        id=spec.id,
        name=spec.name,
        role=spec.role,
        epoch=reached.epoch if reached else 0,
        of=budget(spec),
        measured={name: latest.measured(name) if latest else None for name in shown},
        reason=ended.reason if ended else None,
        detail=(ended.detail or None) if ended else None,
        stage=stage,
    )


def seconds_left(events: Iterable[Event]) -> float | None:
    """Return the seconds that training needs to the end of the running step, see pace."""
    return Progress(events).seconds_left


# --- JSON lines -----------------------------------------------------------------------------------

PLAIN = (str, int, float, bool, type(None))


def line(state: RunState) -> dict[str, Json] | None:
    """Return the JSON line of the last event; None when it is no progress."""
    return line_of(state[-1], Progress(state))


def line_of(event: Event, progress: Progress) -> dict[str, Json] | None:
    """Return the JSON line of an event that `progress` has just taken; None when it is no progress.

    It has every plain value of the event unchanged; `arm` is the name of an arm and `id` its
    fingerprint. A rung has no line: the arms that end show what it decided.
    """
    if isinstance(event, Rung):
        return None
    plain = {key: value for key, value in to_plain(event).items() if isinstance(value, PLAIN)}
    if "name" in plain and "arm" in plain:
        plain["id"], plain["arm"] = plain["arm"], plain.pop("name")
    return {**plain, **to_plain(_more(event, progress))}


def _more(event: Event, progress: Progress) -> Mapping[str, object]:
    """Return values from inside an event, or derived from the events before it."""
    match event:
        case RunStarted():
            return {**asdict(event.data), "plan": event.plan}
        case Audited():
            codes = dict.fromkeys(finding.code for finding in event.audit.findings)
            return {"verdict": event.audit.verdict, "codes": list(codes)}
        case Ladder():
            return {"rows": {name: _metrics(row) for name, row in event.rows.items()}}
        case Decision():
            return {"cause": event.cause}
        case StepStarted() | ArmsAdded():
            return {"arms": [arm.name for arm in event.arms]}
        case Epoch():
            return {**event.also, **_of(event.arm, progress), "gate": progress.gate}
        case ArmEnded():
            return _of(event.arm, progress)
        case ArmJudged():
            return {"stage": event.stage.verdict}
        case BelowLadder():
            return {"codes": [finding.code for finding in event.findings]}
        case TestJudged():
            return _metrics(event.evaluation)
        case Reopened():
            return {"arms": [arm.arm for arm in event.arms]}
        case Repeated():
            return {"models": {name: model.per_seed for name, model in event.models.items()}}
        case _:
            return {}


def _of(arm: str, progress: Progress) -> dict[str, object]:
    """Return the budget of an arm, and the time left in its step."""
    return {"of": progress.of(arm), "seconds_left": progress.seconds_left}


def _metrics(evaluation: Evaluation) -> dict[str, object]:
    return {name: evaluation.masked.get(name) for name in METRICS.shown(Shown.SUMMARY)}


class JsonLines:
    """Writes progress as one JSON object per line; all other output goes to stderr meanwhile.

    Used as a context around a command. Without a stream it does nothing.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._num_written = 0
        self._progress = Progress()
        self._events = RunState()
        self._context = contextlib.ExitStack()

    def __enter__(self) -> JsonLines:
        if self._stream is not None:
            self._context.enter_context(contextlib.redirect_stdout(sys.stderr))
        return self

    def __exit__(self, *_: object) -> None:
        self._context.close()

    def skip(self, journal: Journal) -> None:
        """Mark these events as already written by an earlier run."""
        self._events, self._num_written = journal.events, len(journal.events)
        self._progress = Progress(journal.events)

    def tell(self, journal: Journal) -> None:
        """Write what is new in the journal."""
        if self._stream is None:
            return
        if journal.events is not self._events:
            self._begin(journal.events)
        while self._num_written < len(journal.events):
            event = journal.events[self._num_written]
            self._num_written += 1
            self._progress.take(event)
            record = line_of(event, self._progress)
            if record is not None:
                first = {"run": str(journal.folder)} if self._num_written == 1 else {}
                self._write({**record, **first})

    def _begin(self, events: RunState) -> None:
        """Start over with other events; after a second read, only the newest was not written."""
        self._num_written = len(events) - 1 if self._num_written else 0
        self._events, self._progress = events, Progress(events[: self._num_written])

    def verdict(self, summary: Summary) -> None:
        """Write the last line: the content of verdict.json."""
        self._write({"event": "verdict", "at": round(time.time(), 3), **to_plain(summary)})

    def _write(self, record: Mapping[str, Json]) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(json.dumps(record, allow_nan=False) + "\n")
            self._stream.flush()
        except OSError as error:  # a reader that is gone must not end hours of training
            print(
                f"Cannot write progress ({error.strerror}); the run continues without it.",
                file=sys.stderr,
            )
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            self._stream = None
