"""What MLflow is shown of a triage, as plain values: one view for the run, one for each arm.

Pure functions of the journal's events; `lvm.tracking` puts the views into a store.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Event = Mapping[str, Any]
Point = tuple[str, float, int, int]  # name, value, milliseconds since 1970, step

PARENT = "triage"  # key of the parent run; those of the children are "step / arm id"
IMPORTANT = (
    "context_length", "model.name", "negatives.candidates", "objective.ar_weight",
    "objective.contrastive_weight", "objective.mmd_weight", "objective.space",
    "objective.temperature", "search_space", "seed", "training.batch_size", "training.epochs",
    "training.learning_rate",
)  # fmt: skip
NO_CURVE = ("at", "epoch", "wall")
FAILED = ("diverged", "crashed", "not evaluable")
MAX_TAG = 5000  # characters every kind of store takes


@dataclass(kw_only=True)
class RunView:
    """One MLflow run in plain values."""

    key: str
    name: str
    status: str  # RUNNING, FINISHED, FAILED or KILLED
    started: int  # milliseconds since 1970
    ended: int
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: list[Point] = field(default_factory=list)

    def add_tags(self, values: Mapping[str, Any]) -> None:
        """Add what is known of `values` as text."""
        self.tags.update({k: str(v)[:MAX_TAG] for k, v in values.items() if v not in (None, "")})

    def add_metrics(self, prefix: str, values: Mapping[str, Any], at: float, step: int = 0) -> None:
        """Add every finite number in `values` under names that MLflow takes."""
        for name, value in flatten(values):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            if math.isfinite(value):
                name = re.sub(r"[^\w\-./: ]", "_", prefix + name, flags=re.ASCII)
                self.metrics.append((name, float(value), _ms(at), step))

    def add_gate(self, split: str, gate: Event, at: float, step: int = 0) -> None:
        """Add one judged gate: its numbers as metrics, its answer as tags."""
        name = f"{split}.{gate['gate']}.{gate['metric']}"
        self.add_tags({f"{name}.verdict": gate["verdict"], f"{name}.reason": gate["reason"]})
        if gate["estimate"] is not None:
            numbers = {**gate["estimate"], "bound": gate["bound"], "p_value": gate["p_value"]}
            self.add_metrics(f"{name}.", numbers, at, step)

    def add_evaluation(self, judged: Event) -> None:
        """Add the metrics of one evaluation: masked as they are, unmasked under `raw`."""
        evaluation, at = judged["evaluation"], judged["at"]
        split, step = evaluation["split"], judged.get("epoch", judged.get("epochs", 0))
        self.add_metrics(f"{split}.", evaluation["masked"], at, step)
        self.add_metrics(f"{split}.raw.", evaluation["raw"], at, step)
        self.add_metrics(f"{split}.", evaluation.get("latency", {}), at, step)
        self.add_metrics(f"{split}.ann.", judged.get("ann", {}), at, step)


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, leaf) of nested mappings in order."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def parent_view(
    events: Sequence[Event], document: Mapping[str, Any] | None, *, closed: bool
) -> RunView:
    """Return the run of a whole triage; `document` is that of verdict.json when there is one."""
    first, last = events[0], events[-1]
    stop = _last(events, "decision", action="Stop")
    status = "RUNNING"
    if closed:
        unfinished = "KILLED" if last["event"] == "interrupted" else "FAILED"
        status = "FINISHED" if stop else unfinished
    view = RunView(
        key=PARENT, name=PARENT, status=status, started=_ms(first["at"]), ended=_ms(last["at"])
    )
    view.params = {key: str(value) for key, value in flatten(first["config"])}
    view.add_tags({"command": first["command"], "commit": first["commit"], "code": first["code"]})
    view.add_tags({"mlflow.source.name": "tune_jobs/triage.py", "mlflow.source.type": "LOCAL"})
    view.add_tags({"mlflow.source.git.commit": first["commit"], "data": first["data"]["source"]})
    view.add_tags({"data.fingerprint": first["data"]["fingerprint"], "role": "triage"})
    view.add_metrics("data.", first["data"], first["at"])
    _add_phase_1(view, events)
    if stop is not None:
        cause = "+".join(stop["cause"])
        view.add_tags({"verdict": stop["verdict"], "cause": cause, "since": stop["since"]})
        warnings = list((document or {}).get("warnings", []))
        by = f" by {cause}" if cause else ""
        lines = [f"**{stop['verdict']}**{by}, since {stop['since']}.", *warnings]
        view.add_tags({"mlflow.note.content": "\n\n".join(lines)})
    if document is not None:
        view.add_metrics("compute.", document["compute"], last["at"])
    return view


def _add_phase_1(view: RunView, events: Sequence[Event]) -> None:
    """Add the first comparison and what the predictors without training reach, on test."""
    ladder = _last(events, "ladder", split="test")
    if ladder is not None:
        for name, row in ladder["rows"].items():
            view.add_metrics(f"ladder.{name}.", row["masked"], ladder["at"])
    judged = _last(events, "phase_1_judged")
    if judged is None:
        return
    for test in (e for e in events if e["event"] == "test_judged" and e["role"] == "phase 1"):
        which = "ar_only" if test["name"] == judged["baseline"] else "model"
        view.add_metrics(f"phase_1.{which}.", test["evaluation"]["masked"], test["at"])
        view.add_tags({f"phase_1.{which}": test["name"]})
    view.add_tags({"phase_1.verdict": judged["verdict"]})
    for gate in judged["gates"]:
        view.add_gate("phase_1", gate, judged["at"])


def arm_views(events: Sequence[Event], *, closed: bool) -> list[RunView]:
    """Return a run per arm that has ended, and when `closed` also those that were cut short."""
    base = dict(flatten(events[0]["config"]["recipe"]))
    views = []
    for started in (e for e in events if e["event"] == "step_started"):
        for spec in started["arms"]:
            view = _arm_view(events, started, spec, base)
            if view.status != "KILLED" or (closed and view.metrics):
                views.append(view)
    known = {spec["id"] for e in events if e["event"] == "step_started" for spec in e["arms"]}
    for test in (e for e in events if e["event"] == "test_judged" and e["arm"] not in known):
        views.append(_predictions_view(test))
    return views


def _arm_view(events: Sequence[Event], started: Event, spec: Event, base: Event) -> RunView:
    step, arm = spec["step"], spec["id"]
    ended = _last(events, "arm_ended", step=step, arm=arm)
    # An arm that a step shares with an earlier one was trained once; its epochs name the first.
    epochs = [e for e in events if e["event"] == "epoch" and e["arm"] == arm]
    if ended is not None:
        epochs = [e for e in epochs if e["epoch"] <= ended["epoch"]]
    end = ended or (epochs[-1] if epochs else started)
    status = "KILLED" if ended is None else "FAILED" if ended["reason"] in FAILED else "FINISHED"
    view = RunView(
        key=f"{step} / {arm}",
        name=f"{step} / {spec['name']}",
        status=status,
        started=_ms(started["at"]),
        ended=_ms(end["at"]),
    )
    recipe = dict(flatten(spec["recipe"]))
    view.params = {k: str(v) for k, v in recipe.items() if k in IMPORTANT or base.get(k) != v}
    view.add_tags({"step": step, "role": spec["role"], "arm": arm, "why": spec["why"]})
    view.add_tags({f"threshold.{k}": v for k, v in spec["gates"].items()})
    for epoch in epochs:
        curves = {k: v for k, v in epoch.items() if k not in NO_CURVE}
        view.add_metrics("", curves, epoch["at"], epoch["epoch"])
    if ended is not None:
        view.add_tags({"stop": ended["reason"], "stop.epoch": ended["epoch"]})
        view.add_tags({"stop.detail": ended["detail"]})
        _add_judgement(view, events, spec)
    return view


def _add_judgement(view: RunView, events: Sequence[Event], spec: Event) -> None:
    """Add what was judged of an ended arm: on dev, on test, and by a confirmation."""
    arm, step = spec["id"], spec["step"]
    judged = _last(events, "arm_judged", step=step, arm=arm)
    if judged is not None:
        at, epoch = judged["at"], judged["epoch"]
        view.add_tags({"verdict": judged["stage"]["verdict"], "reason": judged["stage"]["reason"]})
        view.add_metrics("", {"train_seconds": judged["train_seconds"]}, at, epoch)
        for gate in (judged["stage"], *judged["gains"]):
            view.add_gate("dev", gate, at, epoch)
        if judged["evaluation"] is not None:
            view.add_evaluation(judged)
    test = _last(events, "test_judged", arm=arm) if spec["evaluate_test"] else None
    if test is not None:
        view.add_evaluation(test)
    confirmed = _last(events, "confirmed", spec=arm, run_as=step)
    if confirmed is not None:
        reasons = [f"{g['gate']} {g['metric']}: {g['reason']}" for g in confirmed["gates"]]
        view.add_tags({"verdict": confirmed["verdict"], "reason": "; ".join(reasons)})
        for gate in confirmed["gates"]:
            view.add_gate("test", gate, confirmed["at"])


def _predictions_view(test: Event) -> RunView:
    """Return the run of predictions that were handed in and judged without a model."""
    at, step = _ms(test["at"]), test["step"]
    view = RunView(
        key=f"{step} / {test['arm']}", name=f"{step} / {test['name']}", status="FINISHED",
        started=at, ended=at,
    )  # fmt: skip
    view.add_tags({"step": step, "role": test["role"], "arm": test["arm"]})
    view.add_evaluation(test)
    return view


def _last(events: Sequence[Event], kind: str, **values: Any) -> Event | None:
    for event in reversed(events):
        if event["event"] == kind and all(event.get(k) == v for k, v in values.items()):
            return event
    return None


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
