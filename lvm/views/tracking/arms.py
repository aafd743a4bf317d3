"""The MLflow runs of the arms of a triage: one view for each, from the journal's events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lvm.core.records import ABSENT, StopReason, flatten
from lvm.triage.absence import CONFIRMATION
from lvm.triage.events import (
    ArmEnded,
    ArmJudged,
    BelowLadder,
    Compared,
    Confirmed,
    Decision,
    Epoch,
    Event,
    Inspected,
    Settled,
    StepStarted,
    TestJudged,
)
from lvm.triage.events.parts import Arm
from lvm.triage.state import RunState
from lvm.triage.summary import Summary
from lvm.views.report.models import added, is_combination
from lvm.views.tracking.note import arm_note, registered_note
from lvm.views.tracking.views import (
    MAX_TAG,
    ModelView,
    RunView,
    begun,
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


def arm_views(events: RunState, summary: Summary | None = None, *, closed: bool) -> list[RunView]:
    """Return a run per arm that has ended, and if `closed` also those that were cut short.

    `summary` is the result of the run, once it has ended; it names the confirmed model.
    """
    views = []
    for started in events.of(StepStarted):
        views += _views_of(events, summary, started, range(len(started.arms)), closed=closed)
    for test in events.of(TestJudged):
        views += _views_of_predictions(events, test)
    return views


def changed_views(events: RunState, new: Iterable[Event]) -> list[RunView]:
    """Return those views of an unfinished run that its `new` events change.

    The cost depends on these events and their steps, not on the length of the journal.
    """
    arms: dict[str, set[str]] = {}  # step -> its arms with new events
    views = []
    for event in new:
        for step, arm in _touched(events, event):
            arms.setdefault(step, set()).add(arm)
        tests = [event] if isinstance(event, TestJudged) else []
        for arm in _held_against_front(event):
            tests += events.of(TestJudged, arm=arm)
        views += [view for test in tests for view in _views_of_predictions(events, test)]
    for step in arms:
        for started in events.of(StepStarted, step=step):
            places = [i for i, spec in enumerate(started.arms) if spec.id in arms[step]]
            views += _views_of(events, None, started, places, closed=False)
    return views


def _touched(events: RunState, event: Event) -> Iterator[tuple[str, str]]:
    """Yield step and arm of every view that an event changes."""
    if isinstance(event, Settled) or _ends(event):  # of every confirmed arm
        for confirmed in events.of(Confirmed):
            yield from _touched(events, confirmed)
    for arm in _held_against_front(event):
        yield from ((e.step, e.arm) for e in events.of(ArmEnded, arm=arm))
    if isinstance(event, Confirmed):
        yield event.run_as, event.spec
        if event.control is not None:
            yield event.run_as, event.control.spec
    elif (own := getattr(event, "arm", None)) is not None:  # steps share it, and its results
        yield from ((e.step, e.arm) for e in events.of(ArmEnded, arm=own))


def _ends(event: Event) -> bool:
    return isinstance(event, Decision) and event.action == "Stop"


def _held_against_front(event: Event) -> Iterable[str]:
    """Return the arms that an event compares with the front."""
    return event.front if isinstance(event, Compared) else ()


def _views_of(
    events: RunState,
    summary: Summary | None,
    started: StepStarted,
    places: Iterable[int],
    *,
    closed: bool,
) -> list[RunView]:
    """Return the views of the arms of a step at some places in its list."""
    views = []
    for place in places:
        spec = started.arms[place]
        view = _arm_view(events, started, spec, place)
        if view.status != "KILLED" or (closed and view.metrics):
            view.model = _model(events, summary, spec)
            view.add_tags({"mlflow.note.content": arm_note(events, spec)[:MAX_TAG]})
            views.append(view)
    return views


def _views_of_predictions(events: RunState, test: TestJudged) -> list[RunView]:
    """Return the view of a judged file of predictions; none where an arm was judged."""
    started = events.of(StepStarted, step=test.step)
    if any(spec.id == test.arm for event in started for spec in event.arms):
        return []
    return [_predictions_view(events, test)]


def _arm_view(events: RunState, started: StepStarted, spec: Arm, place: int) -> RunView:
    step, arm = spec.step, spec.id
    ended = events.last(ArmEnded, step=step, arm=arm)
    # An arm that a step shares with an earlier one was trained once, under the earlier step.
    epochs = events.of(Epoch, arm=arm)
    if ended is not None:
        epochs = [e for e in epochs if e.epoch <= ended.epoch]
    end = ended or (epochs[-1] if epochs else started)
    status = "KILLED" if ended is None else "FAILED" if ended.reason in FAILED else "FINISHED"
    view = RunView(
        key=f"{step} / {arm}",
        name=f"{_heading(started)}: {spec.name}",
        status=status,
        started=milliseconds(started.at) + place,  # arms start together; this sorts them
        ended=milliseconds(end.at),
    )
    view.params = _params(events, spec)
    view.data = data_view(events, "evaluation" if spec.source else "training")
    view.add_tags({"step": step, "role": spec.role, "arm": arm, "why": spec.why})
    view.add_tags({"arm.name": spec.name, "title": started.title})
    view.add_tags({f"threshold.{k}": v for k, v in spec.gates.to_plain().items()})
    for epoch in epochs:
        curves = {k: v for k, v in epoch.record().items() if k not in NO_CURVE}
        view.add_metrics("", curves, epoch.at, epoch.epoch)
    if ended is not None:
        view.add_tags({"stop": ended.reason, "stop.epoch": ended.epoch})
        view.add_tags({"stop.detail": ended.detail})
        view.add_metrics("", {"Epochs": ended.epoch}, ended.at, ended.epoch)
        _add_judgement(view, events, spec)
        _add_confirmation(view, events, spec)
    return view


def _heading(started: StepStarted) -> str:
    """Return the report's title of a step, short enough for a column."""
    if started.step.startswith(CONFIRMATION):
        return f"Confirm {started.step.removeprefix(CONFIRMATION)}"
    return started.title if started.number is None else f"Step {started.number}, {started.title}"


def _params(events: RunState, spec: Arm) -> dict[str, str]:
    """Return the recipe: first what differs from the base recipe, then what always matters."""
    base = dict(flatten(begun(events).config.recipe.to_plain()))
    recipe = dict(flatten(spec.recipe.to_plain()))
    differing = {k: str(v) for k, v in recipe.items() if base.get(k) != v}
    named = ", ".join(f"{k} = {v}" for k, v in differing.items()) or "none"
    important = {k: str(recipe[k]) for k in IMPORTANT if k in recipe}
    return {"changes": named[:MAX_TAG], **differing, **important}


def _add_judgement(view: RunView, events: RunState, spec: Arm) -> None:
    """Add the judgement of an ended arm, on dev and on test, and the audit's findings in it."""
    arm, step = spec.id, spec.step
    judged = events.last(ArmJudged, step=step, arm=arm)
    if judged is not None:
        at, epoch = judged.at, judged.epoch
        view.add_tags({"verdict": judged.stage.verdict, "reason": judged.stage.reason})
        view.add_metrics("", {"train_seconds": judged.train_seconds}, at, epoch)
        for gate in (judged.stage, *judged.gains):
            view.add_gate("dev", gate, at, epoch)
        if judged.evaluation is not None:
            view.add_evaluation(judged.evaluation, at, epoch)
    inspected, below = events.last(Inspected, arm=arm), events.last(BelowLadder, arm=arm)
    sources = [found.findings for found in (judged, inspected, below) if found is not None]
    view.add_findings("finding", [finding for found in sources for finding in found])
    view.add_tags({"route": "; ".join(inspected.reasons) if inspected else ""})
    test = events.last(TestJudged, arm=arm) if spec.evaluate_test else None
    if test is not None:
        view.add_test(test)
        view.add_front(events, arm)


def _add_confirmation(view: RunView, events: RunState, spec: Arm) -> None:
    """Add the result of a confirmation to its arm, and to the control that it trained."""
    confirmed = events.last(Confirmed, spec=spec.id, run_as=spec.step)
    if confirmed is not None:
        reasons = [f"{g.gate} {g.metric}: {g.reason}" for g in confirmed.gates]
        view.add_tags({"verdict": confirmed.verdict, "reason": "; ".join(reasons)})
        view.add_tags({"attribution": confirmed.attribution})
        view.add_tags({"over_control": confirmed.over_control})
        if confirmed.step in events.causes:
            view.add_tags({"cause": confirmed.step})
        for gate in confirmed.gates:
            view.add_gate("test", gate, confirmed.at)
        _add_combination(view, events, confirmed)
    if spec.role != "control":
        return
    for event in events.of(Confirmed, run_as=spec.step):
        control = event.control
        if control is not None and control.spec == spec.id:
            view.add_tags({"verdict": control.verdict})
            for gate in control.gates:
                view.add_gate("test", gate, event.at)


def _add_combination(view: RunView, events: RunState, confirmed: Confirmed) -> None:
    """Add what the helpful steps gain together over the best of them alone."""
    if not is_combination(events, confirmed):
        return
    if len(events.causes) > 1:  # no single step is the cause
        view.add_tags({"cause": "+".join(events.causes)})
    best, adds = added(events, confirmed)
    view.add_tags({"best_alone": best})
    for gate in adds:
        view.add_gate("test", gate, confirmed.at)


def _model(events: RunState, summary: Summary | None, spec: Arm) -> ModelView | None:
    """Return the model of an arm that was judged on test; only such models are kept."""
    test = events.last(TestJudged, arm=spec.id, step=spec.step)
    if test is None or spec.role == "repeat":  # repeats only show how much a seed changes
        return None
    data = begun(events).data
    confirmed = confirmed_arm(events, summary) == spec.id
    return ModelView(
        arm=spec.id,
        name=spec.name,
        checkpoint=spec.source or f"{spec.folder}/checkpoint",
        width=data.width,
        context_length=spec.recipe.context_length,
        space=spec.recipe.search_space,
        registered_as=f"lvm-{data.fingerprint}" if confirmed else "",
        description=registered_note(events, spec, test) if confirmed else "",
    )


def _predictions_view(events: RunState, test: TestJudged) -> RunView:
    """Return the MLflow run of user predictions, judged without a model."""
    at, step = milliseconds(test.at), test.step
    started = events.last(StepStarted, step=step)
    view = RunView(
        key=f"{step} / {test.arm}",
        name=f"{_heading(started) if started else step}: {test.name}",
        status="FINISHED",
        started=at,
        ended=at,
        data=data_view(events, "evaluation"),
    )
    view.add_tags({"step": step, "role": test.role, "arm": test.arm})
    view.add_tags({"arm.name": test.name})
    view.add_test(test)
    view.add_front(events, test.arm)
    return view
