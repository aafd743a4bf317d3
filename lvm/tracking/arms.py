"""The MLflow runs of the arms of a triage: one view for each, from the journal's events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lvm.events import Event, Events, indexed
from lvm.records import ABSENT, StopReason, flatten
from lvm.report import Run
from lvm.report.models import added, is_combination
from lvm.tracking.note import arm_note, registered_note
from lvm.tracking.views import (
    MAX_TAG,
    Document,
    ModelView,
    RunView,
    confirmed_arm,
    data_view,
    milliseconds,
)

IMPORTANT = (
    "context_length",
    "model.name",
    "negatives.candidates",
    "objective.ar_weight",
    "objective.contrastive_weight",
    "objective.mmd_weight",
    "objective.space",
    "objective.temperature",
    "search_space",
    "seed",
    "training.batch_size",
    "training.epochs",
    "training.learning_rate",
)
NO_CURVE = ("at", "epoch", "wall")
FAILED = (StopReason.DIVERGED, StopReason.NOT_EVALUABLE, *ABSENT)


def arm_views(
    events: Sequence[Event], document: Document | None = None, *, closed: bool
) -> list[RunView]:
    """Return a run per arm that has ended, and when `closed` also those that were cut short.

    `document` is that of verdict.json when there is one; it names the confirmed model.
    """
    events = indexed(events)
    views = []
    for started in events.of("step_started"):
        views += _views_of(events, document, started, range(len(started["arms"])), closed=closed)
    for test in events.of("test_judged"):
        views += _views_of_predictions(events, test)
    return views


def changed_views(events: Events, new: Iterable[Event]) -> list[RunView]:
    """Return of the views of a run that goes on those that the `new` of its events change.

    It costs what these events and the steps they belong to cost, whatever came before.
    """
    arms: dict[str, set[str]] = {}  # step -> its arms that something was said of
    views = []
    for event in new:
        for step, arm in _touched(events, event):
            arms.setdefault(step, set()).add(arm)
        tests = [event] if event["event"] == "test_judged" else []
        for arm in _held_against_front(event):
            tests += events.of("test_judged", arm=arm)
        views += [view for test in tests for view in _views_of_predictions(events, test)]
    for step in arms:
        for started in events.of("step_started", step=step):
            places = [i for i, spec in enumerate(started["arms"]) if spec["id"] in arms[step]]
            views += _views_of(events, None, started, places, closed=False)
    return views


def _touched(events: Events, event: Event) -> Iterator[tuple[str, str]]:
    """Yield step and arm of every view that an event says something of."""
    if event["event"] == "settled" or event.get("action") == "Stop":  # of every confirmed arm
        for confirmed in events.of("confirmed"):
            yield from _touched(events, confirmed)
    for arm in _held_against_front(event):
        yield from ((e["step"], e["arm"]) for e in events.of("arm_ended", arm=arm))
    if event["event"] == "confirmed":
        yield event["run_as"], event["spec"]
        yield event["run_as"], (event.get("control") or {}).get("spec", "")
    elif "arm" in event:  # steps that share an arm share what is known of it
        yield from ((e["step"], e["arm"]) for e in events.of("arm_ended", arm=event["arm"]))


def _held_against_front(event: Event) -> Iterable[str]:
    """Return the arms that an event places against the front."""
    front: Mapping[str, Any] = event.get("front", {}) if event["event"] == "compared" else {}
    return front


def _views_of(
    events: Events,
    document: Document | None,
    started: Event,
    places: Iterable[int],
    *,
    closed: bool,
) -> list[RunView]:
    """Return the views of the arms of a step at some places in its list."""
    views = []
    for place in places:
        spec = started["arms"][place]
        view = _arm_view(events, started, spec, place)
        if view.status != "KILLED" or (closed and view.metrics):
            view.model = _model(events, document, spec)
            view.add_tags({"mlflow.note.content": arm_note(events, spec)[:MAX_TAG]})
            views.append(view)
    return views


def _views_of_predictions(events: Events, test: Event) -> list[RunView]:
    """Return the view of a judged file of predictions; none where an arm was judged."""
    started = events.of("step_started", step=test["step"])
    if any(spec["id"] == test["arm"] for event in started for spec in event["arms"]):
        return []
    return [_predictions_view(events, test)]


def _arm_view(events: Events, started: Event, spec: Event, place: int) -> RunView:
    step, arm = spec["step"], spec["id"]
    ended = events.last("arm_ended", step=step, arm=arm)
    # An arm that a step shares with an earlier one was trained once; its epochs name the first.
    epochs = events.of("epoch", arm=arm)
    if ended is not None:
        epochs = [e for e in epochs if e["epoch"] <= ended["epoch"]]
    end = ended or (epochs[-1] if epochs else started)
    status = "KILLED" if ended is None else "FAILED" if ended["reason"] in FAILED else "FINISHED"
    view = RunView(
        key=f"{step} / {arm}",
        name=f"{_heading(started)}: {spec['name']}",
        status=status,
        started=milliseconds(started["at"]) + place,  # arms start together; the order is ours
        ended=milliseconds(end["at"]),
    )
    view.params = _params(events, spec)
    view.data = data_view(events, "evaluation" if spec["source"] else "training")
    view.add_tags({"step": step, "role": spec["role"], "arm": arm, "why": spec["why"]})
    view.add_tags({"arm.name": spec["name"], "title": started.get("title")})
    view.add_tags({f"threshold.{k}": v for k, v in spec["gates"].items()})
    for epoch in epochs:
        curves = {k: v for k, v in epoch.items() if k not in NO_CURVE}
        view.add_metrics("", curves, epoch["at"], epoch["epoch"])
    if ended is not None:
        view.add_tags({"stop": ended["reason"], "stop.epoch": ended["epoch"]})
        view.add_tags({"stop.detail": ended["detail"]})
        view.add_metrics("", {"Epochs": ended["epoch"]}, ended["at"], ended["epoch"])
        _add_judgement(view, events, spec)
        _add_confirmation(view, events, spec)
    return view


def _heading(started: Event) -> str:
    """Return what the report calls a step, short enough for a column."""
    step = str(started["step"])
    if step.startswith("confirm_"):
        return f"Confirm {step.removeprefix('confirm_')}"
    title = str(started.get("title") or step)
    return f"Step {started['number']}, {title}" if "number" in started else title


def _params(events: Events, spec: Event) -> dict[str, str]:
    """Return the recipe: first what differs from the base recipe, then what matters always."""
    base = dict(flatten(events[0]["config"]["recipe"]))
    recipe = dict(flatten(spec["recipe"]))
    differing = {k: str(v) for k, v in recipe.items() if base.get(k) != v}
    named = ", ".join(f"{k} = {v}" for k, v in differing.items()) or "none"
    important = {k: str(recipe[k]) for k in IMPORTANT if k in recipe}
    return {"changes": named[:MAX_TAG], **differing, **important}


def _add_judgement(view: RunView, events: Events, spec: Event) -> None:
    """Add what was judged of an ended arm, on dev and on test, and what the audit found in it."""
    arm, step = spec["id"], spec["step"]
    judged = events.last("arm_judged", step=step, arm=arm)
    if judged is not None:
        at, epoch = judged["at"], judged["epoch"]
        view.add_tags({"verdict": judged["stage"]["verdict"], "reason": judged["stage"]["reason"]})
        view.add_metrics("", {"train_seconds": judged["train_seconds"]}, at, epoch)
        for gate in (judged["stage"], *judged["gains"]):
            view.add_gate("dev", gate, at, epoch)
        if judged["evaluation"] is not None:
            view.add_evaluation(judged)
    inspected = events.last("inspected", arm=arm) or {}
    below = events.last("below_ladder", arm=arm) or {}
    seen = [*inspected.get("findings", []), *below.get("findings", [])]
    found = [*(judged or {}).get("findings", []), *seen]
    view.add_findings("finding", found)
    view.add_tags({"route": "; ".join(inspected.get("reasons", []))})
    test = events.last("test_judged", arm=arm) if spec["evaluate_test"] else None
    if test is not None:
        view.add_evaluation(test)
        view.add_front(events, arm)


def _add_confirmation(view: RunView, events: Events, spec: Event) -> None:
    """Add the answer of a confirmation to its arm, and to the control that it trained."""
    confirmed = events.last("confirmed", spec=spec["id"], run_as=spec["step"])
    if confirmed is not None:
        reasons = [f"{g['gate']} {g['metric']}: {g['reason']}" for g in confirmed["gates"]]
        view.add_tags({"verdict": confirmed["verdict"], "reason": "; ".join(reasons)})
        view.add_tags({key: confirmed.get(key) for key in ("attribution", "over_control")})
        stop = events.last("decision", action="Stop") or {"cause": []}
        if confirmed["step"] in stop["cause"]:
            view.add_tags({"cause": confirmed["step"]})
        for gate in confirmed["gates"]:
            view.add_gate("test", gate, confirmed["at"])
        _add_combination(view, events, confirmed)
    if spec["role"] != "control":
        return
    for event in events.of("confirmed", run_as=spec["step"]):
        control: Mapping[str, Any] = event.get("control") or {}
        if control.get("spec") == spec["id"]:
            view.add_tags({"verdict": control["verdict"]})
            for gate in control["gates"]:
                view.add_gate("test", gate, event["at"])


def _add_combination(view: RunView, events: Events, confirmed: Event) -> None:
    """Add what the steps that helped add together to the best of them alone."""
    run = Run(events, {})
    if not is_combination(run, confirmed):
        return
    stop = run.last("decision", action="Stop")
    if len(stop.get("cause", ())) > 1:  # no step is the cause alone
        view.add_tags({"cause": "+".join(stop["cause"])})
    best, adds = added(run, confirmed)
    view.add_tags({"best_alone": best})
    for gate in adds:
        view.add_gate("test", gate, confirmed["at"])


def _model(events: Events, document: Document | None, spec: Event) -> ModelView | None:
    """Return the model of an arm that was judged on test: those are worth keeping."""
    test = events.last("test_judged", arm=spec["id"], step=spec["step"])
    if test is None or spec["role"] == "repeat":  # those only tell how much a seed changes
        return None
    data = events[0]["data"]
    confirmed = confirmed_arm(events, document) == spec["id"]
    return ModelView(
        arm=spec["id"],
        name=spec["name"],
        checkpoint=spec["source"] or f"{spec['folder']}/checkpoint",
        width=int(data["width"]),
        context_length=int(spec["recipe"]["context_length"]),
        space=spec["recipe"]["search_space"],
        registered_as=f"lvm-{data['fingerprint']}" if confirmed else "",
        description=registered_note(events, spec, test) if confirmed else "",
    )


def _predictions_view(events: Events, test: Event) -> RunView:
    """Return the run of predictions that were handed in and judged without a model."""
    at, step = milliseconds(test["at"]), test["step"]
    started = events.last("step_started", step=step) or {"step": step}
    view = RunView(
        key=f"{step} / {test['arm']}",
        name=f"{_heading(started)}: {test['name']}",
        status="FINISHED",
        started=at,
        ended=at,
        data=data_view(events, "evaluation"),
    )
    view.add_tags({"step": step, "role": test["role"], "arm": test["arm"]})
    view.add_tags({"arm.name": test["name"]})
    view.add_evaluation(test)
    view.add_front(events, test["arm"])
    return view
