"""What MLflow is shown of a triage, as plain values: the form of a run, and the run of the whole.

Pure functions of the journal's events; `lvm.tracking` puts the views into a store.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lvm.events import Event as Event
from lvm.events import Events, indexed
from lvm.records import RunVerdict, flatten
from lvm.tracking.note import run_note, table_name

Document = Mapping[str, Any]  # of verdict.json
Point = tuple[str, float, int, int]  # name, value, milliseconds since 1970, step

PARENT = "triage"  # key of the parent run; those of the children are "step / arm id"
MAX_TAG = 5000  # characters every kind of store takes
MAX_NOTE = MAX_TAG - 200  # leaves room for a link
MAX_DIGEST, MAX_NAME = 36, 500  # characters MLflow takes of a data set


@dataclass(frozen=True, kw_only=True)
class DataView:
    """The data set of a run, by the names of MLflow's own record of one."""

    name: str
    digest: str
    source_type: str  # "local" or "code", after which MLflow reads `source`
    source: Mapping[str, Any]
    profile: Mapping[str, Any]  # counts of rows, windows and articles
    width: int
    context_length: int
    context: str  # what the run did with it


@dataclass(frozen=True, kw_only=True)
class ModelView:
    """A checkpoint to keep beside a run, and how it is registered when it is the confirmed one."""

    arm: str
    name: str
    checkpoint: str  # folder, as the journal has it
    width: int
    context_length: int
    space: str  # of the search, "raw" or "projected"
    registered_as: str = ""  # "" for any model but the confirmed one
    description: str = ""


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
    data: DataView | None = None
    model: ModelView | None = None

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
                self.metrics.append((name, float(value), milliseconds(at), step))

    def add_table(self, prefix: str, values: Mapping[str, Any], at: float, step: int = 0) -> None:
        """Add metrics once more under their titles in the report's table."""
        named = {table_name(name): value for name, value in values.items()}
        short = {k: round(v, 4) for k, v in named.items() if k and v is not None}
        self.add_metrics(prefix, short, at, step)

    def add_gate(self, split: str, gate: Event, at: float, step: int = 0) -> None:
        """Add one judged gate: its numbers as metrics, its answer as tags."""
        name = f"{split}.{gate['gate']}.{gate['metric']}"
        self.add_tags({f"{name}.verdict": gate["verdict"], f"{name}.reason": gate["reason"]})
        if gate["estimate"] is not None:
            numbers = {**gate["estimate"], **{k: v for k, v in gate.items() if k != "estimate"}}
            self.add_metrics(f"{name}.", numbers, at, step)

    def add_findings(self, prefix: str, findings: Sequence[Event]) -> None:
        """Add the codes of an audit's findings, and what was seen of each."""
        if not findings:
            return
        self.add_tags({f"{prefix}.codes": ", ".join(dict.fromkeys(f["code"] for f in findings))})
        for finding in reversed(findings):  # the worst comes first, and stays
            code, seen = finding["code"], f"{finding['severity']}: {finding['seen']}"
            self.add_tags({f"{prefix}.{code}": seen})

    def add_evaluation(self, judged: Event) -> None:
        """Add the metrics of one evaluation: masked as they are, unmasked under `raw`."""
        evaluation, at = judged["evaluation"], judged["at"]
        split, step = evaluation["split"], judged.get("epoch", judged.get("epochs", 0))
        latency = evaluation.get("latency", {})
        self.add_metrics(f"{split}.", evaluation["masked"], at, step)
        self.add_metrics(f"{split}.raw.", evaluation["raw"], at, step)
        self.add_metrics(f"{split}.", latency, at, step)
        self.add_metrics(f"{split}.ann.", judged.get("ann", {}), at, step)
        self.add_table(
            "Dev " if split == "dev" else "", {**evaluation["masked"], **latency}, at, step
        )

    def add_front(self, events: Events, arm: str) -> None:
        """Add where a model lies against the front of predictions without training."""
        compared = events.last("compared") or {}
        found = compared.get("front", {}).get(arm)
        if found:
            self.add_tags({"front.position": found["position"], "front.rung": found.get("rung")})
            self.add_metrics("front.", found.get("distance") or {}, compared["at"])


def milliseconds(seconds: float) -> int:
    """Return MLflow's form of a time."""
    return round(seconds * 1000)


# --- the run of a whole triage -------------------------------------------------------------------


def parent_view(events: Sequence[Event], document: Document | None, *, closed: bool) -> RunView:
    """Return the run of a whole triage; `document` is that of verdict.json when there is one."""
    events = indexed(events)
    first, latest = events[0], events[-1]
    stop = events.last("decision", action="Stop")
    status = "RUNNING"
    if closed:
        unfinished = "KILLED" if latest["event"] == "interrupted" else "FAILED"
        status = "FINISHED" if stop else unfinished
    view = RunView(
        key=PARENT,
        name=PARENT,
        status=status,
        started=milliseconds(first["at"]),
        ended=milliseconds(latest["at"]),
    )
    view.params = {key: str(value) for key, value in flatten(first["config"])}
    view.data = data_view(events, "triage")
    _add_origin(view, first)
    _add_audit(view, events)
    _add_phase_1(view, events)
    _add_seeds(view, events)
    if stop is not None:
        cause = "+".join(stop["cause"])
        view.add_tags({"verdict": stop["verdict"], "cause": cause, "since": stop["since"]})
        view.add_tags({"verdict_if_unseen": stop.get("if_unseen")})
    view.add_tags({"mlflow.note.content": run_note(events, document, MAX_NOTE)})
    if document is not None:
        view.add_metrics("compute.", document["compute"], latest["at"])
        view.add_tags({"beats_ladder": document.get("beats_ladder")})
    return view


def _add_origin(view: RunView, first: Event) -> None:
    view.add_tags({"command": first["command"], "commit": first["commit"], "code": first["code"]})
    view.add_tags({"mlflow.source.name": "tune_jobs/triage.py", "mlflow.source.type": "LOCAL"})
    view.add_tags({"mlflow.source.git.commit": first["commit"], "data": first["data"]["source"]})
    view.add_tags({"data.fingerprint": first["data"]["fingerprint"], "role": "triage"})
    versions = first.get("environment", {}).get("versions", {})
    view.add_tags({f"version.{name}": version for name, version in versions.items()})
    view.add_metrics("data.", first["data"], first["at"])


def _add_audit(view: RunView, events: Events) -> None:
    audited = events.last("audited")
    if audited is None:
        return
    audit = audited["audit"]
    view.add_tags(
        {"audit": audit.get("verdict"), "audit.allowed": ", ".join(audit.get("allowed", []))}
    )
    view.add_findings("audit", audit.get("findings", []))
    counts: dict[str, int] = {}
    for check in audit.get("checks", []):
        counts[check["status"]] = counts.get(check["status"], 0) + 1
    view.add_metrics("audit.checks.", counts, audited["at"])


def _add_phase_1(view: RunView, events: Events) -> None:
    """Add the first comparison and what the predictors without training reach, on test."""
    ladder = events.last("ladder", split="test")
    if ladder is not None:
        for name, row in ladder["rows"].items():
            view.add_metrics(f"ladder.{name}.", row["masked"], ladder["at"])
    judged = events.last("phase_1_judged")
    if judged is None:
        return
    for test in events.of("test_judged", role="phase 1"):
        which = "ar_only" if test["name"] == judged["baseline"] else "model"
        view.add_metrics(f"phase_1.{which}.", test["evaluation"]["masked"], test["at"])
        view.add_tags({f"phase_1.{which}": test["name"]})
    view.add_tags({"phase_1.verdict": judged["verdict"]})
    lineage = judged.get("lineage") or {}
    view.add_tags({"lineage": lineage.get("articles")})
    if lineage.get("trace"):
        view.add_metrics("lineage.trace.", lineage["trace"], judged["at"])
    for gate in judged["gates"]:
        view.add_gate("phase_1", gate, judged["at"])


def _add_seeds(view: RunView, events: Events) -> None:
    """Add the gains over all repeated seeds, with what a seed changes."""
    repeated = events.last("repeated")
    if repeated is None:
        return
    for found in repeated["comparisons"]:
        names = f"{found['model']} over {found['over']}"
        numbers = {**found["estimate"], "bound": found["bound"]}
        view.add_metrics(f"seeds.{names}.{found['metric']}.", numbers, repeated["at"])


# --- what both kinds of runs need ----------------------------------------------------------------


def data_view(events: Sequence[Event], context: str) -> DataView | None:
    """Return the data set of the triage; None when the audit ended it before it had a name."""
    first = events[0]
    data, given = first["data"], first.get("arguments") or {}
    if not data.get("fingerprint"):
        return None
    paths = [str(given[key]) for key in ("data", "payload", "train", "eval") if given.get(key)]
    code = {
        "mlflow.source.name": "lvm.data.sample",
        "mlflow.source.git.commit": str(first["commit"]),
    }
    counts = {key: data.get(key, {}) for key in ("rows", "windows", "articles")}
    return DataView(
        name=str(data["source"])[-MAX_NAME:],
        digest=str(data["fingerprint"])[:MAX_DIGEST],
        source_type="local" if paths else "code",
        source={"uri": paths[0]} if paths else {"tags": code},
        profile=dict(flatten(counts)),
        width=int(data["width"]),
        context_length=int(first["config"]["recipe"]["context_length"]),
        context=context,
    )


def confirmed_arm(events: Events, document: Document | None) -> str | None:
    """Return the id of the arm whose model the verdict speaks for, or None."""
    stop = events.last("decision", action="Stop")
    if stop is None:
        return None
    if stop["verdict"] == RunVerdict.PASSED:
        baseline = (events.last("phase_1_judged") or {}).get("baseline")
        tests = events.of("test_judged", role="phase 1")
        return next((str(e["arm"]) for e in tests if e["name"] != baseline), None)
    if stop["verdict"] != RunVerdict.FIXED:
        return None
    known = (document or {}).get("arm") or {}
    found = events.last("confirmed", verdict="PASS") or {}
    arm = known.get("id") or found.get("spec")
    return None if arm is None else str(arm)
