"""How far a running triage is: its running step, its arms, the time left; as JSON lines too.

events --Progress.take, one by one--> the time left in the running step, for every JSON line
events --arms_of--> how far every arm of a step is, for `lvm status`
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from lvm.events import Event, Events
from lvm.metrics import METRICS, Shown
from lvm.pace import AFTER_A_STEP, Progress, budget
from lvm.triage.journal import Journal


def since_start(events: Sequence[Event]) -> list[Event]:
    """Return the events of the running step, its step_started first; empty between two steps."""
    for index in range(len(events) - 1, -1, -1):
        if events[index]["event"] in AFTER_A_STEP:
            return []
        if events[index]["event"] == "step_started":
            return list(events[index:])
    return []


def arms_of(events: Events, started: Event) -> list[dict[str, Any]]:
    """Return how far each arm of a step is; an arm that ran in an earlier step keeps its epochs."""
    return [_arm(events, started, spec) for spec in started["arms"]]


def _arm(events: Events, started: Event, spec: Mapping[str, Any]) -> dict[str, Any]:
    arm, step = spec["id"], started["step"]
    latest: Event = max(events.of("epoch", arm=arm), key=lambda e: e["epoch"], default={})
    ended: Event = next(iter(events.of("arm_ended", arm=arm, step=step)), {})
    judged: Event = next(iter(events.of("arm_judged", arm=arm, step=step)), {})
    stage = judged.get("stage") or {"verdict": latest.get("stage")}
    return {
        "id": arm,
        "name": spec["name"],
        "role": spec.get("role"),
        "epoch": ended.get("epoch", latest.get("epoch", 0)),
        "of": budget(started, spec),
        **{key: latest.get(key) for key in (*METRICS.shown(Shown.CURVES), "loss")},
        "reason": ended.get("reason"),
        "detail": ended.get("detail") or None,
        "stage": stage.get("verdict"),
    }


def seconds_left(events: Iterable[Event]) -> float | None:
    """Return the seconds that training needs to the end of the running step, see lvm.pace."""
    return Progress(events).seconds_left


# --- JSON lines -----------------------------------------------------------------------------------

PLAIN = (str, int, float, bool, type(None))
NOT_PROGRESS = ("rung",)  # what a rung decides is told by the arms that it ends


def line(events: Sequence[Event]) -> dict[str, Any] | None:
    """Return what the last event tells a program; None when it is no progress."""
    return line_of(events[-1], Progress(events))


def line_of(event: Event, progress: Progress) -> dict[str, Any] | None:
    """Return what an event tells a program that `progress` has just taken; None for no progress.

    Every plain value of the event as it stands, also of events this version does not know; `arm`
    is the name of an arm and `id` its fingerprint.
    """
    if event["event"] in NOT_PROGRESS:
        return None
    plain = {key: value for key, value in event.items() if isinstance(value, PLAIN)}
    if "name" in plain and "arm" in plain:
        plain["id"], plain["arm"] = plain["arm"], plain.pop("name")
    return {**plain, **_more(event, progress)}


def _more(event: Event, progress: Progress) -> dict[str, Any]:
    """Return what lies deeper in an event, or follows from those before it."""
    match event["event"]:
        case "run_started":
            return {**event.get("data", {}), "plan": event.get("plan", [])}
        case "audited":
            audit = event["audit"]
            codes = list(dict.fromkeys(finding["code"] for finding in audit["findings"]))
            return {"verdict": audit["verdict"], "codes": codes}
        case "ladder":
            rows = {name: row["masked"] for name, row in event["rows"].items()}
            return {"rows": {name: _metrics(row) for name, row in rows.items()}}
        case "decision":
            return {"cause": event["cause"]} if "cause" in event else {}
        case "step_started":
            return {"arms": [arm["name"] for arm in event["arms"]]}
        case "epoch":
            return {**_of(event, progress), "gate": progress.gate}
        case "arm_ended":
            return _of(event, progress)
        case "arm_judged":
            return {"stage": (event.get("stage") or {}).get("verdict")}
        case "below_ladder":
            return {"codes": [finding["code"] for finding in event["findings"]]}
        case "test_judged":
            return _metrics(event["evaluation"]["masked"])
        case "reopened":
            return {"arms": [arm["arm"] for arm in event["arms"]]}
        case "repeated":
            return {"models": {n: m["per_seed"] for n, m in event["models"].items()}}
        case _:
            return {}


def _of(event: Event, progress: Progress) -> dict[str, Any]:
    """Return the budget of the arm of an event, and the time left in its step."""
    return {"of": progress.of(event["arm"]), "seconds_left": progress.seconds_left}


def _metrics(masked: Mapping[str, Any]) -> dict[str, Any]:
    return {name: masked.get(name) for name in METRICS.shown(Shown.SUMMARY)}


class JsonLines:
    """Writes progress as one JSON object per line; what else is printed goes to stderr meanwhile.

    Used as a context around a command. Without a stream it does nothing.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._num_written = 0
        self._progress = Progress()
        self._events = Events()
        self._context = contextlib.ExitStack()

    def __enter__(self) -> JsonLines:
        if self._stream is not None:
            self._context.enter_context(contextlib.redirect_stdout(sys.stderr))
        return self

    def __exit__(self, *_: object) -> None:
        self._context.close()

    def skip(self, journal: Journal) -> None:
        """Take note that a resumed run has told these events before."""
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

    def _begin(self, events: Events) -> None:
        """Start over with other events; of a journal read anew, all but the newest were written."""
        self._num_written = len(events) - 1 if self._num_written else 0
        self._events, self._progress = events, Progress(events[: self._num_written])

    def verdict(self, document: Mapping[str, Any]) -> None:
        """Write the last line: the content of verdict.json."""
        self._write({"event": "verdict", "at": round(time.time(), 3), **document})

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(json.dumps(record, allow_nan=False) + "\n")
            self._stream.flush()
        except OSError as error:  # hours of training are worth more than who reads of them
            print(f"no progress can be told ({error.strerror}); the run goes on", file=sys.stderr)
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            self._stream = None
