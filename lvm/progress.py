"""How far a running triage is: its running step, its arms, the time left; as JSON lines too."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from lvm.triage.journal import Event, Journal
from lvm.triage.reopen import REOPENED

AFTER_A_STEP = ("phase_1_judged", "step_ended", "confirmed", "repeated", "decision")
NUM_GAPS = 3  # epochs of an arm that say how fast it is now


def since_start(events: Sequence[Event]) -> list[Event]:
    """Return the events of the running step, its step_started first; empty between two steps."""
    for index in range(len(events) - 1, -1, -1):
        if events[index]["event"] in AFTER_A_STEP:
            return []
        if events[index]["event"] == "step_started":
            return list(events[index:])
    return []


def arms_of(events: Sequence[Event], started: Event) -> list[dict[str, Any]]:
    """Return how far each arm of a step is; an arm that ran in an earlier step keeps its epochs."""
    return [_arm(events, started, spec) for spec in started["arms"]]


def _arm(events: Sequence[Event], started: Event, spec: Mapping[str, Any]) -> dict[str, Any]:
    arm, step = spec["id"], started["step"]
    own = [e for e in events if e.get("arm") == arm]
    here = [e for e in own if e.get("step") == step]
    epochs = [e for e in own if e["event"] == "epoch"]
    latest: Event = max(epochs, key=lambda e: e["epoch"], default={})
    ended: Event = next((e for e in here if e["event"] == "arm_ended"), {})
    judged: Event = next((e for e in here if e["event"] == "arm_judged"), {})
    stage = judged.get("stage") or {"verdict": latest.get("stage")}
    return {
        "id": arm,
        "name": spec["name"],
        "role": spec.get("role"),
        "epoch": ended.get("epoch", latest.get("epoch", 0)),
        "of": _budget(started, spec),
        **{key: latest.get(key) for key in ("eval_cosine", "r_at_5", "loss")},
        "reason": ended.get("reason"),
        "detail": ended.get("detail") or None,
        "stage": stage.get("verdict"),
    }


def _budget(started: Event, spec: Mapping[str, Any]) -> int:
    """Return the epochs an arm may train; 0 for an arm that only searches another one's vectors."""
    if spec.get("source") is not None:
        return 0
    own = spec.get("recipe", {}).get("training", {}).get("epochs")
    return int(own if own is not None else started.get("epochs", 0))


# --- the time left --------------------------------------------------------------------------------


def seconds_left(events: Sequence[Event]) -> float | None:
    """Return the seconds that training needs to the end of the running step.

    Counted from the last event, from the rate of the step's own epochs. Pruning and gates may end
    it sooner. None between two steps and before the first epoch of a step.
    """
    step = since_start(events)
    if not step:
        return None
    stretches = _stretches(step)
    num_done = sum(len(stretch) for stretch in stretches)
    arms = [arm for arm in arms_of(events, step[0]) if arm["reason"] is None]
    left = {arm["id"]: arm["of"] - arm["epoch"] for arm in arms if arm["of"] > arm["epoch"]}
    if not left:
        return 0.0
    if not num_done:
        return None
    together: float = sum(map(_busy, stretches)) / num_done * sum(left.values())
    alone: list[float] = [_gap(stretches, arm) * epochs for arm, epochs in left.items()]
    return round(max(together, *alone), 1)


def _stretches(step: Sequence[Event]) -> list[list[Event]]:
    """Return the trained epochs of a step, apart where the run was interrupted."""
    found: list[list[Event]] = [[]]
    for event in step:
        if event["event"] == "resumed":
            found.append([])
        elif event["event"] == "epoch" and event["epoch"] > 0:
            found[-1].append(event)
    return [stretch for stretch in found if stretch]


def _busy(stretch: Sequence[Event]) -> float:
    """Return the seconds a stretch trained; the start of its workers is no rate and not in it."""
    return float(stretch[-1]["at"] - stretch[0]["at"] + (stretch[0].get("seconds") or 0.0))


def _gap(stretches: Sequence[Sequence[Event]], arm: str) -> float:
    """Return the seconds between the latest epochs of one arm; 0 where it has run none."""
    own = [e for e in stretches[-1] if e["arm"] == arm][-NUM_GAPS - 1 :]
    if len(own) < 2:
        return float(own[0].get("seconds") or 0.0) if own else 0.0
    return float(own[-1]["at"] - own[0]["at"]) / (len(own) - 1)


# --- JSON lines -----------------------------------------------------------------------------------

PLAIN = (str, int, float, bool, type(None))
NOT_PROGRESS = ("rung",)  # what a rung decides is told by the arms that it ends
METRICS_TOLD = ("eval_cosine", "r_at_5", "mrr")


def line(events: Sequence[Event]) -> dict[str, Any] | None:
    """Return what the last event tells a program; None when it is no progress.

    Every plain value of the event as it stands, also of events this version does not know; `arm`
    is the name of an arm and `id` its fingerprint.
    """
    event = events[-1]
    if event["event"] in NOT_PROGRESS:
        return None
    told = {key: value for key, value in event.items() if isinstance(value, PLAIN)}
    if "name" in told and "arm" in told:
        told["id"], told["arm"] = told["arm"], told.pop("name")
    return {**told, **_more(events, event)}


def _more(events: Sequence[Event], event: Event) -> dict[str, Any]:
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
            return {**_of(events, event), "gate": gate_of(events)}
        case "arm_ended":
            return _of(events, event)
        case "arm_judged":
            return {"stage": (event.get("stage") or {}).get("verdict")}
        case "test_judged":
            return _metrics(event["evaluation"]["masked"])
        case "reopened":
            return {"arms": [arm["arm"] for arm in event["arms"]]}
        case "repeated":
            return {"models": {n: m["per_seed"] for n, m in event["models"].items()}}
        case _:
            return {}


def _of(events: Sequence[Event], event: Event) -> dict[str, Any]:
    """Return the budget of the arm of an event, and the time left in its step."""
    step = since_start(events)
    arms = arms_of(events, step[0]) if step else []
    of = next((arm["of"] for arm in arms if arm["id"] == event["arm"]), None)
    return {"of": of, "seconds_left": seconds_left(events)}


def _metrics(masked: Mapping[str, Any]) -> dict[str, Any]:
    return {name: masked.get(name) for name in METRICS_TOLD}


def gate_of(events: Sequence[Event]) -> float | None:
    """Return the bound of the stage gate on dev cosine."""
    gates = events[0].get("config", {}).get("gates", {})
    bound: float | None = gates.get("stage_eval_cosine")
    return bound


class JsonLines:
    """Writes progress as one JSON object per line; what else is printed goes to stderr meanwhile.

    Used as a context around a command. Without a stream it does nothing.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._told = 0
        self._context = contextlib.ExitStack()

    def __enter__(self) -> JsonLines:
        if self._stream is not None:
            self._context.enter_context(contextlib.redirect_stdout(sys.stderr))
        return self

    def __exit__(self, *_: object) -> None:
        self._context.close()

    def skip(self, journal: Journal) -> None:
        """Take note that a resumed run has told these events before."""
        self._told = len(journal.events)

    def tell(self, journal: Journal) -> None:
        """Write what is new in the journal."""
        if journal.events[-1]["event"] == REOPENED:  # there are fewer events now than were told
            self._told = len(journal.events) - 1
        while self._told < len(journal.events) and self._stream is not None:
            self._told += 1
            told = line(journal.events[: self._told])
            if told is not None:
                first = {"run": str(journal.folder)} if self._told == 1 else {}
                self._write({**told, **first})

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
