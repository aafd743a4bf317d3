"""The verdict of a run, computed from its journal and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from lvm.absence import Absence, absences, sentences
from lvm.events import Event, Events, indexed
from lvm.records import METRICS, RunVerdict, Verdict, to_plain
from lvm.report import Run
from lvm.report.audit import broken, overrides
from lvm.report.seeds import basis, over_seeds, rests_on_one_seed
from lvm.report.spent import spent_by_arm
from lvm.report.subject import PREDICTIONS, subject
from lvm.triage.actions import COMBINATION, MORE_TRAINING
from lvm.triage.ledger import ledger
from lvm.triage.step import Role

SCHEMA = 1
NOT_COMPARED = ("oracle", "random")


def build_verdict(events: Sequence[Event], *, resume: str) -> dict[str, Any]:
    """Return the document of `verdict.json`; an unfinished run has the verdict null."""
    events = indexed(events)
    stop = events.last("decision", action="Stop")
    causes = list(stop["cause"]) if stop else []
    ladder = events.last("ladder", split="test") or {"rows": {}}
    confirmed = _cause_of(events, causes)
    shown = _model_behind(events, causes, confirmed)
    audited = events.last("audited")
    audit = audited["audit"] if audited else {}
    seen = (events.last("inspected") or {"findings": []})["findings"]
    absent = absences(events)
    document = {
        "schema": SCHEMA,
        "verdict": stop["verdict"] if stop else None,
        "judged": subject(events),
        "cause": "+".join(causes) or None,
        "arm": shown,
        "codes": list(dict.fromkeys(f["code"] for f in [*audit.get("findings", []), *seen])),
        "phase1": _phase1(events),
        "steps": [_step(events, event) for event in events.of("step_started") if "number" in event],
        "absent": to_plain(absent),
        "ladder": ladder["rows"],
        "models": [_model(e) for e in events.of("test_judged") if e["role"] != "repeat"],
        "combination": _combination(events),
        "seeds": _seeds(events),
        "hypotheses": ledger(events),
        "compute": _compute(events),
        "forecast": _forecast(events),
        "since": stop["since"] if stop else None,
        "resume": resume,
    }
    document["headline"] = _headline(document, events)
    compared = (events.last("compared") or {"models": {}})["models"]
    document["warnings"] = [
        *_of_the_absent(absent, document), *_of_the_audit(audit, document),
        *_warnings(document, shown, compared), *_of_the_seeds(document),
    ]  # fmt: skip
    return document


def _headline(document: Mapping[str, Any], events: Events) -> str:
    """Return the verdict in one sentence."""
    arm, cause, judged = document["arm"], document["cause"], document["judged"]
    given = f"the predictions in {judged['file']}" if judged["stand_in"] else ""
    match document["verdict"]:
        case RunVerdict.PASSED if given:
            return f"PASSED: {given} hold the success gate; nothing needs fixing."
        case RunVerdict.PASSED:
            return "PASSED: the base recipe holds the success gate; nothing needs fixing."
        case RunVerdict.FIXED if given:
            return (
                f"FIXED by {cause} on a stand-in: {given} do not hold the success gate, "
                f"{arm['name']} of our network does. Whether it mends the model behind the "
                "predictions was not tried."
            )
        case RunVerdict.FIXED if cause == MORE_TRAINING:
            return (
                "FIXED by more training: the unchanged recipe holds the success gate on the test "
                f"split when it is trained for {arm['recipe']['training']['epochs']} epochs, so no "
                "step is the cause."
            )
        case RunVerdict.FIXED:
            beside = _beside(document["combination"])
            if beside and "+" not in cause:
                return f"FIXED by {cause}: {arm['name']} holds the success gate; {beside}."
            return f"FIXED by {cause}: {arm['name']} holds the success gate on the test split."
        case RunVerdict.NOT_FIXED if given:
            return (
                f"NOT_FIXED: {given} do not hold the success gate, nor does any arm that was tried "
                "on our network in their place."
            )
        case RunVerdict.NOT_FIXED:
            return "NOT_FIXED: none of the arms that were tried holds the success gate."
        case RunVerdict.BLOCKED:
            return f"BLOCKED: {document['since']}; no training was started."
        case RunVerdict.INCONCLUSIVE:
            lacking = (events.last("decision", action="Stop") or {}).get("absent")
            nearest = None if lacking else _nearest(events)
            return f"INCONCLUSIVE: {nearest or document['since']}."
        case _:
            return "UNFINISHED: this is partial; it shows what the run had measured so far."


def _of_the_absent(absent: Sequence[Absence], document: Mapping[str, Any]) -> list[str]:
    """Say which arms are no part of the evidence, and how to have them tried again."""
    if not absent:
        return []
    said = [text for text in sentences(absent) if text not in document["headline"]]
    again = f"absent arms are no evidence; try them again, keeping the rest: {document['resume']}"
    return [*said, again]


def _of_the_audit(audit: Mapping[str, Any], document: Mapping[str, Any]) -> list[str]:
    """Return what the audit has to say beside the verdict: overrides, blind spots, weak gates."""
    said = [*overrides(audit), *broken(audit)]
    if document["verdict"] in (RunVerdict.PASSED, RunVerdict.FIXED):
        said += [
            f"{f['seen']}."
            for f in audit.get("findings", [])
            if f["code"] == "GATE_BELOW_TRIVIAL" and f["severity"] == "warn"
        ]
    return said


def _of_the_seeds(document: Mapping[str, Any]) -> list[str]:
    """Return what repeated seeds have to say against a verdict that rests on one."""
    seeds, claims = document["seeds"], document["verdict"] in (RunVerdict.PASSED, RunVerdict.FIXED)
    if not seeds or not claims or not rests_on_one_seed(seeds):
        return []
    return [f"the verdict rests on {basis(seeds)}. {over_seeds(seeds)}"]


def _nearest(events: Events) -> str | None:
    """Name the confirmed arm whose interval crosses its bound, and by how much it gains."""
    open_ended = events.last("confirmed", verdict="INCONCLUSIVE")
    if open_ended is None:
        return None
    kept = [e["step"] for e in events.of("step_ended") if e["kept"]]
    steps = " + ".join(kept) or open_ended["step"]
    gains = ", ".join(
        f"{METRICS[g['metric']].title} {g['reason']}"
        for g in open_ended["gates"]
        if g["gate"] == "success" and g["verdict"] == "INCONCLUSIVE"
    )
    return f"{steps} helps, but the test split is too small to say whether enough ({gains})"


def _cause_of(events: Events, causes: Sequence[str]) -> Event | None:
    """Return the confirmation that a cause rests on."""
    if not causes:
        return None
    if causes[0] == MORE_TRAINING:
        return events.last("confirmed", attribution="more training")
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
        "checkpoint": spec.get("source") or f"{spec.get('folder')}/checkpoint",
        "gates": confirmed["gates"],
    }


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


def _beside(combination: Mapping[str, Any] | None) -> str | None:
    """Say what the combination adds to the best step alone."""
    if combination is None or not combination["adds"]:
        return None
    steps = ", ".join(combination["steps"])
    gains = ", ".join(
        f"{METRICS[g['metric']].title} {g['reason'].split(' against ')[0]}"
        for g in combination["adds"]
        if g["estimate"]
    )
    verdicts = [g["verdict"] for g in combination["adds"]]
    word = "adds to it" if "PASS" in verdicts else "adds nothing to it that is clear"
    if set(verdicts) == {"FAIL"}:
        word = "does worse than it alone"
    return f"all that helped together ({steps}) {word}: {gains}"


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
    arms = spent_by_arm(Run(events, {}))
    return {
        "train_seconds": round(sum(arm.seconds for arm in arms), 1),
        "trials": len(arms),
        "saved_seconds": round(sum((arm.saved for arm in arms if arm.stopped_by), start=0.0), 1),
        "wall_seconds": round(events[-1]["at"] - events[0]["at"], 1) if events else 0.0,
    }


def _warnings(
    document: Mapping[str, Any], shown: Mapping[str, Any] | None, compared: Mapping[str, Any]
) -> list[str]:
    """Return what a person must know before paying for scale: what the models do not beat."""
    if not document["ladder"]:
        return []
    return [
        text for model in _subjects(document, shown) for metric in ("r_at_5", "eval_cosine")
        if metric != "eval_cosine" or model["space"] == "raw"
        if (text := _not_beaten(model, metric, document["ladder"], compared))
    ]  # fmt: skip


def _subjects(
    document: Mapping[str, Any], shown: Mapping[str, Any] | None
) -> list[Mapping[str, Any]]:
    """Return the models that the verdict is about: the person's predictions, and what passes.

    Without a model that passes, the last one that was confirmed; never a control.
    """
    models = document["models"]
    own = [m for m in models if document["judged"]["stand_in"] and m["arm"] == PREDICTIONS]
    ours = [m for m in models if shown and m["arm"] == shown["id"]]
    if not ours:
        roles = [Role.CONFIRM, *([Role.PHASE1] if document["verdict"] == RunVerdict.PASSED else [])]
        ours = [m for m in models if m["role"] in roles and m not in own][-1:]
    if document["verdict"] == RunVerdict.PASSED and own:
        ours = []
    return [*own, *ours]


def _not_beaten(
    model: Mapping[str, Any], metric: str, ladder: Mapping[str, Any], compared: Mapping[str, Any]
) -> str:
    """Say which predictors without training a model does not beat; "" where it beats all.

    By the differences on the same windows where the journal has them, else by the plain means.
    """
    values = {n: r["masked"][metric] for n, r in ladder.items() if n not in NOT_COMPARED}
    value, title = model["masked"][metric], METRICS[metric].title
    gains = compared.get(model["arm"], {}).get(metric)
    if gains:
        open_ = {n: g for n, g in gains.items() if g["estimate"] and g["verdict"] != Verdict.PASS}
        named = sorted(open_, key=lambda name: -values[name])
        less = [n for n in named if open_[n]["estimate"]["upper"] < 0]
        alike = [n for n in named if n not in less]
        said = [
            f"{words} {', '.join(f'{n} {values[n]:.3f}' for n in names)}"
            for words, names in (("does worse than", less), ("is not told apart from", alike))
            if names
        ]
        if not said:
            return ""
        return (
            f"{model['name']} reaches {title} {value:.3f} and {' and '.join(said)}, with no "
            "training (differences on the same windows)."
        )
    named = sorted((n for n in values if values[n] >= value), key=lambda name: -values[name])
    if not named:
        return ""
    beside = "".join(f", {n} {values[n]:.3f}" for n in named[1:])
    return (
        f"{model['name']} reaches {title} {value:.3f} and does not beat the best predictor "
        f"without training: {named[0]} {values[named[0]]:.3f}{beside}."
    )
