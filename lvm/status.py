"""Where a running or finished triage stands: one screen, or one JSON object, from its journal."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from lvm.absence import Absence, in_short, sentences
from lvm.audit.words import answer, blocking_codes
from lvm.command import lvm_command, shown
from lvm.events import Event, Events, indexed
from lvm.pace import AFTER_A_STEP, gate_of
from lvm.printed import arguments_of, eval_command, resume_of
from lvm.progress import arms_of, seconds_left, since_start
from lvm.records import RunVerdict
from lvm.terminal import duration
from lvm.text import counted, title_of
from lvm.triage.folder import found_at
from lvm.triage.lock import Driver
from lvm.triage.subject import TRAINER
from lvm.triage.verdict import build_verdict

SCHEMA = 1
WIDTH = 80
STEPS_SHOWN, ARMS_SHOWN, CODES_SHOWN = 5, 6, 3  # so that all of it fits 24 lines
LABEL = 8


def status(
    events: Sequence[Event], folder: Path, now: float, driver: Driver | None = None
) -> dict[str, Any]:
    """Return where the run in `folder` stands at `now` (seconds since 1970).

    `driver` is what the folder's lock says (`lvm.triage.lock.driver_of`), None without one. `state`
    is running, interrupted or finished; `seconds` and `seconds_left` leave out what lay between an
    interruption and its resumption.
    """
    events = indexed(events)
    document = build_verdict(events, resume=resume_of(events, folder))
    age = max(0.0, now - events[-1]["at"])
    state = _state(document["verdict"], driver)
    audited = (events.last("audited") or {}).get("audit")
    return {
        "schema": SCHEMA,
        "run": str(folder),
        "state": state,
        "verdict": document["verdict"],
        "headline": document["headline"],
        "judged": document["judged"],
        "since": document["since"],
        "absent": document["absent"],
        "started_at": events[0]["at"],
        "last_event_at": events[-1]["at"],
        "age_seconds": round(age, 1),
        "driver": _driver(driver),
        "seconds": _spent(events, age if state == "running" else 0.0),
        **{key: document["compute"][key] for key in ("train_seconds", "trials", "saved_seconds")},
        "audit": _audit(audited) if audited else None,
        "doing": _doing(events) if document["verdict"] is None else None,
        "step": _running(events, age if state == "running" else 0.0),
        "ended": _ended(events),
        "gains": _gains(document),
        "next": _next(document, folder, state, events),
    }


def _state(verdict: str | None, driver: Driver | None) -> str:
    """Return whether a run goes on: its lock says so, and how long it was silent says nothing."""
    if verdict is not None:
        return "finished"
    return "interrupted" if driver is None or driver.abandoned else "running"


def _driver(driver: Driver | None) -> dict[str, Any] | None:
    """Return the process that drives the run; None when nobody does."""
    if driver is None or driver.abandoned or driver.owner is None:
        return None
    return {
        "host": driver.owner.host,
        "pid": driver.owner.pid,
        "silent_seconds": round(max(0.0, driver.age), 1),
    }


def _pairs(events: Sequence[Event]) -> list[tuple[Event, Event]]:
    """Return neighbouring events, without those that an interruption lies between."""
    return [pair for pair in itertools.pairwise(events) if pair[1]["event"] != "resumed"]


def _spent(events: Sequence[Event], age: float) -> float:
    spent: float = sum(later["at"] - earlier["at"] for earlier, later in _pairs(events))
    return round(spent + age, 1)


def _audit(audit: Mapping[str, Any]) -> dict[str, Any]:
    blocking = blocking_codes(audit)
    return {
        "verdict": audit["verdict"],
        "answer": answer(audit),
        "codes": list(dict.fromkeys(finding["code"] for finding in audit["findings"])),
        "blocked": [
            {key: finding[key] for key in ("code", "seen", "next")}
            for finding in audit["findings"]
            if finding["code"] in blocking
        ],
    }


def _doing(events: Events) -> str:
    """Return what the run does after its last event, in words."""
    if step := since_start(events):
        arms = arms_of(events, step[0])
        return _title(step[0]) if any(a["reason"] is None for a in arms) else "judging its arms"
    kinds = {event["event"] for event in events}
    if {"phase_1_judged", "inspected"} & kinds and not {"step_ended", "confirmed"} & kinds:
        return "looking at the model of phase 1"
    if {*AFTER_A_STEP} & kinds:
        return "deciding what comes next"
    return "measuring the predictors without training" if "audited" in kinds else "preparing"


def _title(step: Mapping[str, Any]) -> str:
    number = step.get("number")
    return f"step {number}, {step['title']}" if number is not None else str(step["title"])


def _running(events: Events, age: float) -> dict[str, Any] | None:
    """Return the running step and its arms, `age` seconds after the last event."""
    step = since_start(events)
    if not step:
        return None
    left, started = seconds_left(events), step[0]
    return {
        "step": started["step"],
        "title": started["title"],
        "number": started.get("number"),
        "started_at": started["at"],
        "seconds": _spent(step, age),
        "seconds_left": None if left is None else round(max(0.0, left - age), 1),
        "gate": gate_of(events[0]),
        "arms": arms_of(events, started),
    }


def _ended(events: Events) -> list[dict[str, Any]]:
    """Return every step that has ended, with its verdict and its arms."""
    running = since_start(events)[:1]
    return [
        {
            **{key: started.get(key) for key in ("step", "title", "number")},
            **_outcome(events, started),
            "arms": arms_of(events, started),
        }
        for started in events.of("step_started")
        if all(started is not event for event in running)
    ]


def _outcome(events: Events, started: Event) -> dict[str, Any]:
    """Return the verdict on a step and the arm that it keeps."""
    step = started["step"]
    if step == "phase_1":
        judged = events.last("phase_1_judged") or {}
        return {"verdict": judged.get("verdict"), "kept": None}
    if confirmed := events.last("confirmed", run_as=step):
        return {"verdict": confirmed["verdict"], "kept": None}
    if events.last("repeated", seed=started.get("seed")):
        return {"verdict": "repeated", "kept": None}
    ended = events.last("step_ended", step=step) or {}
    return {"verdict": ended.get("stage"), "kept": ended.get("kept")}


def _gains(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the success gates behind the verdict: of the confirmed arm, else of phase 1."""
    judged = document["arm"] or document["phase1"]
    return [
        {key: gate.get(key) for key in ("metric", "verdict", "reason")}
        for gate in judged["gates"]
        if gate["gate"] == "success"
    ]


def _next(document: Mapping[str, Any], folder: Path, state: str, events: Sequence[Event]) -> str:
    """Return the command to type now."""
    if state == "interrupted":
        return str(document["resume"])
    if document["absent"] and document["verdict"] == RunVerdict.INCONCLUSIVE:
        return str(document["resume"])
    if document["verdict"] == RunVerdict.BLOCKED:
        return str(events[0].get("again") or events[0]["command"])
    own = document["judged"]["kind"] == TRAINER  # there is no checkpoint of ours to judge
    if document["arm"] is not None and state == "finished" and not own:
        checkpoint = found_at(document["arm"]["checkpoint"], folder)
        modules = events[0]["config"].get("plugins", ())
        return eval_command(checkpoint, arguments_of(events), modules)
    return f"{lvm_command()} report {shown(folder)}"


# --- one screen -----------------------------------------------------------------------------------


def screen(seen: Mapping[str, Any]) -> list[str]:
    """Return `status` as lines of at most 80 columns; only a command to be copied may be longer."""
    return [
        *textwrap.wrap(
            _headline(seen), WIDTH, max_lines=2 if seen["step"] else 3, placeholder=" …"
        ),
        *(_folded("judged", _judged(seen["judged"]), 2) if seen["judged"]["stand_in"] else ()),
        *_folded("run", f"{shown(Path(seen['run']))}, started {_clock(seen['started_at'])}", 2),
        *_folded("spent", _cost(seen), 2),
        *_folded("audit", seen["audit"]["answer"] if seen["audit"] else "not done yet", 2),
        *_absent(seen),
        *_steps(seen["ended"]),
        *(_arms(seen["step"]) if seen["step"] else ()),
        *(_gates(seen["gains"]) if seen["state"] == "finished" else ()),
        *_advice(seen),
    ]


def _judged(judged: Mapping[str, Any]) -> str:
    network = f"our {judged['trained']} network" if judged["trained"] else "our network"
    return f"predictions in {judged['file']}; trained in their model's place: {network}"


def _headline(seen: Mapping[str, Any]) -> str:
    if seen["state"] == "finished":
        return str(seen["headline"])
    step = seen["step"]
    doing = seen["doing"] + (f", {duration(step['seconds'])} in this step" if step else "")
    if seen["state"] == "interrupted":
        return f"INTERRUPTED: {doing}"
    left = step["seconds_left"] if step else None
    return f"RUNNING: {doing}{f', about {duration(left)} left in it' if left else ''}"


def _cost(seen: Mapping[str, Any]) -> str:
    more = f"last event {duration(seen['age_seconds'])} ago"
    if seen["state"] == "finished":
        more = f"{seen['saved_seconds']:.0f} s saved by stopping early"
    return (
        f"{duration(seen['seconds'])}, {seen['train_seconds']:.0f} s of training in "
        f"{counted(seen['trials'], 'trial')}; {more}"
    )


def _absent(seen: Mapping[str, Any]) -> list[str]:
    """Return which arms are no part of the evidence, unless the headline says it."""
    absent = [Absence(**one) for one in seen["absent"]]
    if not absent or (seen["headline"] and sentences(absent)[0] in seen["headline"]):
        return []
    return _folded("absent", in_short(absent), 2)


def _steps(ended: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line per step that has ended: its verdict, what it keeps, what was stopped."""
    hidden = max(0, len(ended) - STEPS_SHOWN)
    if hidden:
        yield _labelled("ended", f"({hidden} earlier: see the report)")
    for index, step in enumerate(ended[hidden:]):
        kept = f", keeps {step['kept']}" if step["kept"] else ""
        text = f"{_title(step)}: {step['verdict'] or 'not judged'}{kept}{_stopped(step)}"
        yield _labelled("" if index or hidden else "ended", text)


def _stopped(step: Mapping[str, Any]) -> str:
    """Count the arms that did not reach their last epoch, by reason."""
    reasons = [a["reason"] for a in step["arms"] if a["reason"] not in (None, "finished")]
    counts = [f"{reasons.count(reason)} {reason}" for reason in dict.fromkeys(reasons)]
    return f" ({', '.join(counts)})" if counts else ""


def _arms(step: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table of arms, those that still run first when not all can be shown."""
    arms = step["arms"]
    if len(arms) > ARMS_SHOWN:
        arms = sorted(arms, key=lambda arm: arm["reason"] is not None)
    gate = f"{step['gate']:.2f}" if step["gate"] is not None else ""
    head = f"{'arm':27} {'epoch':>7} {'dev cosine':>10} {'gate':>4}"
    yield _labelled("now", head)
    for arm in arms[:ARMS_SHOWN]:
        cosine = f"{arm['eval_cosine']:.3f}" if arm["eval_cosine"] is not None else ""
        epoch = f"{arm['epoch']}/{arm['of']}"
        ended = ": ".join(x for x in (arm["reason"], arm["detail"]) if x)
        why = ", ".join(x for x in (ended, arm["stage"]) if x)
        yield _labelled("", f"{_cut(arm['name'], 27):27} {epoch:>7} {cosine:>10} {gate:>4} {why}")
    if len(arms) > ARMS_SHOWN:
        yield _labelled("", f"(and {len(arms) - ARMS_SHOWN} more arms)")


def _gates(gains: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for index, gain in enumerate(gains):
        text = f"{title_of(gain['metric'])} {gain['verdict']}, {gain['reason']}"
        yield from _folded("" if index else "gain", text, 2)


def _advice(seen: Mapping[str, Any]) -> Iterator[str]:
    """Yield what to type next; commands are copied whole and not folded."""
    blocked = seen["audit"]["blocked"] if seen["verdict"] == RunVerdict.BLOCKED else []
    for finding in blocked[:CODES_SHOWN]:
        yield from _folded("blocked", f"{finding['code']}: {finding['seen']}", 2)
    for command in dict.fromkeys(finding["next"] for finding in blocked[:CODES_SHOWN]):
        yield f"{'next':{LABEL}} {command}"
    yield f"{'then' if blocked else 'next':{LABEL}} {seen['next']}"


def _folded(label: str, text: str, lines: int) -> list[str]:
    """Return text under a label on at most so many lines."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"{label:{LABEL}} ",
        subsequent_indent=" " * (LABEL + 1),
        max_lines=lines,
        placeholder=" …",
    )


def _labelled(label: str, text: str) -> str:
    return _cut(f"{label:{LABEL}} {text}".rstrip(), WIDTH)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
