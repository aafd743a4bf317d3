"""The verdict of a run, computed from its journal and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from lvm.absence import absences
from lvm.events import Event, Events, indexed
from lvm.records import to_plain
from lvm.triage.actions import COMBINATION, MORE_TRAINING
from lvm.triage.by_size import steps_by_gain
from lvm.triage.cautions import of_the_absent, of_the_audit, of_the_ladder, of_the_seeds
from lvm.triage.headline import headline
from lvm.triage.ledger import ledger
from lvm.triage.spent import spent_by_arm
from lvm.triage.subject import subject
from lvm.triage.unseen import lineage_part, of_the_lineage
from lvm.triage.worth import beats_ladder

SCHEMA = 1
_NOTHING: Event = {"findings": []}


def build_verdict(events: Sequence[Event], *, resume: str) -> dict[str, Any]:
    """Return the document of `verdict.json`; an unfinished run has the verdict null."""
    events = indexed(events)
    stop = events.last("decision", action="Stop")
    causes = list(stop["cause"]) if stop else []
    ladder = events.last("ladder", split="test") or {"rows": {}}
    confirmed = _cause_of(events, causes, stop.get("by") if stop else None)
    shown = _model_behind(events, causes, confirmed)
    audited = events.last("audited")
    audit = audited["audit"] if audited else {}
    shown_by_models = [
        f
        for kind in ("inspected", "below_ladder")
        for f in (events.last(kind) or _NOTHING)["findings"]
    ]
    absent = absences(events)
    document = {
        "schema": SCHEMA,
        "verdict": stop["verdict"] if stop else None,
        "judged": subject(events),
        "lineage": lineage_part(events),
        "cause": "+".join(causes) or None,
        "arm": shown,
        "codes": list(
            dict.fromkeys(f["code"] for f in [*audit.get("findings", []), *shown_by_models])
        ),
        "phase1": _phase1(events),
        "steps": [_step(events, event) for event in events.of("step_started") if "number" in event],
        "by_gain": steps_by_gain(events),
        "absent": to_plain(absent),
        "ladder": ladder["rows"],
        "front": (events.last("compared") or {}).get("front", {}),
        "models": [_model(e) for e in events.of("test_judged") if e["role"] != "repeat"],
        "combination": _combination(events),
        "seeds": _seeds(events),
        "hypotheses": ledger(events),
        "compute": _compute(events),
        "forecast": _forecast(events),
        "since": stop["since"] if stop else None,
        "resume": resume,
    }
    document["beats_ladder"] = beats_ladder(document)
    document["headline"] = headline(document, events)
    document["warnings"] = [
        *of_the_lineage(document),
        *of_the_absent(absent, document),
        *of_the_audit(audit, document),
        *of_the_ladder(document),
        *of_the_seeds(document),
    ]
    return document


def _cause_of(events: Events, causes: Sequence[str], by: Sequence[str] | None) -> Event | None:
    """Return the confirmation that a cause rests on: the one that the end names."""
    if not causes:
        return None
    if causes[0] == MORE_TRAINING:
        return events.last("confirmed", attribution="more training")
    if by is not None:
        return events.last("confirmed", step=by[0], arm=by[1])
    # A run of an earlier version does not say which.
    step = causes[-1] if len(causes) == 1 else COMBINATION
    passed = events.of("confirmed", verdict="PASS")
    named = [e for e in passed if e["step"] == step] or passed
    return named[-1] if named else None


def _model_behind(
    events: Events, causes: Sequence[str], confirmed: Event | None
) -> dict[str, Any] | None:
    """Return the model that passes: the confirmed arm, or the control that needed no step."""
    if confirmed is None or causes[0] != MORE_TRAINING:
        return _arm(events, confirmed)
    control = confirmed["control"]
    about = {"spec": control["spec"], "arm": "the unchanged recipe", "gates": control["gates"]}
    return _arm(events, {**confirmed, **about})


def _arm(events: Events, confirmed: Event | None) -> dict[str, Any] | None:
    if confirmed is None:
        return None
    specs = [
        spec
        for started in events.of("step_started", step=confirmed["run_as"])
        for spec in started["arms"]
        if spec["id"] == confirmed["spec"]
    ]
    spec = specs[-1] if specs else {}
    return {
        "id": confirmed["spec"],
        "name": confirmed["arm"],
        "step": confirmed["step"],
        "recipe": spec.get("recipe"),
        "checkpoint": spec.get("source") or f"{spec.get('folder')}/{_trained_in(spec)}",
        "gates": confirmed["gates"],
    }


def _trained_in(spec: Mapping[str, Any]) -> str:
    """Return the folder of an arm's folder that holds its model."""
    return "own" if (spec.get("recipe") or {}).get("trainer") else "checkpoint"


def _phase1(events: Events) -> dict[str, Any]:
    judged = events.last("phase_1_judged")
    arms = [_model(e) for e in events.of("test_judged") if e["role"] == "phase 1"]
    return {
        "verdict": judged["verdict"] if judged else None,
        "gates": judged["gates"] if judged else [],
        "arms": arms,
    }


def _step(events: Events, started: Event) -> dict[str, Any]:
    name = started["step"]
    ended = events.last("step_ended", step=name)
    arms = {e["arm"]: e for e in events.of("arm_judged", step=name)}
    confirmed = events.last("confirmed", step=name)
    return {
        "step": name,
        "number": started["number"],
        "title": started["title"],
        "question": started["question"],
        "hypothesis": started["hypothesis"],
        "rules_out": started["rules_out"],
        "epochs": started["epochs"],
        "carried": started["carried"],
        "left_out": started["left_out"],
        "reported": started.get("reported", True),
        "extended": started.get("extended", False),
        "arms": [_step_arm(spec, arms.get(spec["id"])) for spec in started["arms"]],
        "stage": ended["stage"] if ended else None,
        "candidate": ended["candidate"] if ended else None,
        "kept": ended["kept"] if ended else None,
        "conflicts": ended["conflicts"] if ended else [],
        "confirmation": _confirmation(confirmed),
    }


def _step_arm(spec: Mapping[str, Any], judged: Event | None) -> dict[str, Any]:
    about = {key: spec[key] for key in ("id", "name", "role", "why", "changes")}
    keys = (
        "reason",
        "detail",
        "epoch",
        "epochs_run",
        "train_seconds",
        "evaluation",
        "stage",
        "gains",
        "findings",
    )
    return {**about, **{key: judged.get(key) if judged else None for key in keys}}


def _combination(events: Events) -> dict[str, Any] | None:
    """Return what all steps that helped reach together, and what that adds to the best alone."""
    confirmed, settled = events.last("confirmed", step=COMBINATION), events.last("settled")
    tried = events.last("decision", action="Confirm", step=COMBINATION)
    if confirmed is None or settled is None or tried is None:
        return None
    return {
        "steps": [step for step, _ in tried["carried"]],
        "arms": [arm for _, arm in tried["carried"]],
        "verdict": confirmed["verdict"],
        "gates": confirmed["gates"],
        "best_alone": settled["best"],
        "adds": settled["adds"],
        "comparisons": settled["comparisons"],
    }


def _seeds(events: Events) -> dict[str, Any] | None:
    """Return the models behind the verdict seed by seed, and their gains over all seeds."""
    repeated = events.last("repeated")
    if repeated is None:
        return None
    first = events[0]["config"]["recipe"]["seed"] if "config" in events[0] else 0
    return {
        "seeds": [first, *(event["seed"] for event in events.of("repeated"))],
        "models": repeated["models"],
        "comparisons": repeated["comparisons"],
    }


def _forecast(events: Events) -> dict[str, Any] | None:
    """Return how long the run was said to take, and how long it took without interruptions."""
    said, stop = events.last("forecast"), events.last("decision", action="Stop")
    if said is None:
        return None
    spent = 0.0
    for earlier, later in itertools.pairwise(events):
        if earlier["at"] >= said["at"] and later["event"] != "resumed":
            spent += later["at"] - earlier["at"]
    numbers = {key: said[key] for key in ("seconds", "lower", "upper", "parts", "probe")}
    return {**numbers, "actual_seconds": round(spent, 1) if stop else None}


def _confirmation(confirmed: Event | None) -> dict[str, Any] | None:
    if confirmed is None:
        return None
    return {key: confirmed[key] for key in ("arm", "verdict", "gates")}


def _model(event: Event) -> dict[str, Any]:
    evaluation = event["evaluation"]
    return {
        "name": event["name"],
        "arm": event["arm"],
        "role": event["role"],
        "space": evaluation["space"],
        "pool": evaluation["pool"],
        "num_windows": evaluation["num_windows"],
        "num_articles": evaluation["num_articles"],
        "masked": evaluation["masked"],
        "raw": evaluation["raw"],
        "latency": evaluation.get("latency", {}),
        "ann": event.get("ann", {}),
        "epochs": event["epochs"],
    }


def _compute(events: Events) -> dict[str, Any]:
    """Return seconds trained, trials run, and seconds that the stage gate and pruning saved.

    An arm that broke, or has not ended, has saved nothing.
    """
    arms = spent_by_arm(events)
    return {
        "train_seconds": round(sum(arm.seconds for arm in arms), 1),
        "trials": len(arms),
        "saved_seconds": round(sum((arm.saved for arm in arms if arm.stopped_by), start=0.0), 1),
        "wall_seconds": round(events[-1]["at"] - events[0]["at"], 1) if events else 0.0,
    }
