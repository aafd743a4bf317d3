"""What MLflow shows of a triage, as plain values: the form of a run, and the parent run.

Pure functions of the journal's events; `lvm.views.tracking` puts the views into a store.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from msgspec.structs import asdict

from lvm.audit.document import FindingTold
from lvm.core.plain_json import Json
from lvm.core.records import Estimate, Evaluation, GateResult, Part, RunVerdict, flatten, to_plain
from lvm.triage.events import (
    Audited,
    Compared,
    Confirmed,
    Interrupted,
    Ladder,
    Phase1Judged,
    Repeated,
    RunStarted,
    StepEnded,
    TestJudged,
)
from lvm.triage.importance import swept
from lvm.triage.state import RunState
from lvm.triage.summary import Summary
from lvm.views.tracking.note import run_note, table_name

Point = tuple[str, float, int, int]  # name, value, milliseconds since 1970, step

PARENT = "triage"  # key of the parent run; those of the children are "step / arm id"
MAX_TAG = 5000  # characters that every kind of store accepts
MAX_NOTE = MAX_TAG - 200  # leaves room for a link
MAX_DIGEST, MAX_NAME = 36, 500  # characters that MLflow accepts for a data set


@dataclass(frozen=True, kw_only=True)
class DataView:
    """The data set of a run, with MLflow's field names."""

    name: str
    digest: str
    source_type: str  # "local" or "code": how MLflow reads `source`
    source: Mapping[str, Json]
    profile: Mapping[str, Json]  # counts of rows, windows and articles
    width: int
    context_length: int
    context: str  # what the run did with it


@dataclass(frozen=True, kw_only=True)
class ModelView:
    """A checkpoint to keep with a run, and how to register it if it is the confirmed one."""

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

    def add_tags(self, values: Mapping[str, object]) -> None:
        """Add the values that are known, as text."""
        self.tags.update({k: str(v)[:MAX_TAG] for k, v in values.items() if v not in (None, "")})

    def add_metrics(
        self, prefix: str, values: Mapping[str, object] | Part | Estimate, at: float, step: int = 0
    ) -> None:
        """Add every finite number in `values` under names that MLflow accepts."""
        for name, value in flatten(to_plain(values)):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            if math.isfinite(value):
                name = re.sub(r"[^\w\-./: ]", "_", prefix + name, flags=re.ASCII)
                self.metrics.append((name, float(value), milliseconds(at), step))

    def add_table(
        self, prefix: str, values: Mapping[str, float | None], at: float, step: int = 0
    ) -> None:
        """Add metrics again under their titles in the report's table."""
        named = {table_name(name): value for name, value in values.items()}
        short = {k: round(v, 4) for k, v in named.items() if k and v is not None}
        self.add_metrics(prefix, short, at, step)

    def add_gate(self, split: str, gate: GateResult, at: float, step: int = 0) -> None:
        """Add one judged gate: its numbers as metrics, its verdict as tags."""
        name = f"{split}.{gate.gate}.{gate.metric}"
        self.add_tags({f"{name}.verdict": gate.verdict, f"{name}.reason": gate.reason})
        if gate.estimate is not None:
            numbers = to_plain(gate.estimate) | to_plain(gate) | {"estimate": None}
            self.add_metrics(f"{name}.", numbers, at, step)

    def add_findings(self, prefix: str, findings: Sequence[FindingTold]) -> None:
        """Add the codes of an audit's findings, and what was seen."""
        if not findings:
            return
        self.add_tags({f"{prefix}.codes": ", ".join(dict.fromkeys(f.code for f in findings))})
        for finding in reversed(findings):  # the first is the worst, and overwrites the others
            code, seen = finding.code, f"{finding.severity}: {finding.seen}"
            self.add_tags({f"{prefix}.{code}": seen})

    def add_evaluation(self, evaluation: Evaluation, at: float, step: int = 0) -> None:
        """Add the metrics of one evaluation: masked as they are, unmasked under `raw`."""
        split, latency = evaluation.split, evaluation.latency
        self.add_metrics(f"{split}.", evaluation.masked, at, step)
        self.add_metrics(f"{split}.raw.", evaluation.raw, at, step)
        self.add_metrics(f"{split}.", latency, at, step)
        self.add_table("Dev " if split == "dev" else "", {**evaluation.masked, **latency}, at, step)

    def add_test(self, judged: TestJudged) -> None:
        """Add what a model reached on the test split."""
        self.add_evaluation(judged.evaluation, judged.at, judged.epochs)
        self.add_metrics("test.ann.", judged.ann, judged.at, judged.epochs)

    def add_front(self, events: RunState, arm: str) -> None:
        """Add where a model lies against the front of untrained baselines."""
        compared = events.last(Compared)
        found = compared.front.get(arm) if compared else None
        if compared and found:
            self.add_tags({"front.position": found.position, "front.rung": found.rung})
            self.add_metrics("front.", found.distance or {}, compared.at)


def milliseconds(seconds: float) -> int:
    """Return MLflow's form of a time."""
    return round(seconds * 1000)


# --- the run of a whole triage -------------------------------------------------------------------


def parent_view(events: RunState, summary: Summary | None, *, closed: bool) -> RunView:
    """Return the parent run of a triage; `summary` is its result, once it has ended."""
    first, latest, stop = begun(events), events[-1], events.stop
    status = "RUNNING"
    if closed:
        unfinished = "KILLED" if isinstance(latest, Interrupted) else "FAILED"
        status = "FINISHED" if stop else unfinished
    view = RunView(
        key=PARENT,
        name=PARENT,
        status=status,
        started=milliseconds(first.at),
        ended=milliseconds(latest.at),
    )
    plain = flatten(first.config.to_plain())
    view.params = {key: str(value)[:MAX_TAG] for key, value in plain}
    view.data = data_view(events, "triage")
    _add_origin(view, first)
    _add_audit(view, events)
    _add_phase_1(view, events)
    _add_seeds(view, events)
    if stop is not None:
        cause = "+".join(events.causes)
        view.add_tags({"verdict": stop.verdict, "cause": cause, "since": stop.since})
        view.add_tags({"verdict_if_unseen": stop.if_unseen})
    view.add_tags({"mlflow.note.content": run_note(events, summary, MAX_NOTE)})
    if summary is not None:
        view.add_metrics("compute.", summary.compute, latest.at)
        _add_sweeps(view, events)
        view.add_tags({"beats_ladder": summary.beats_ladder})
    return view


def _add_origin(view: RunView, first: RunStarted) -> None:
    view.add_tags({"command": first.command, "commit": first.commit, "code": first.code})
    view.add_tags({"mlflow.source.name": "tune_jobs/triage.py", "mlflow.source.type": "LOCAL"})
    view.add_tags({"mlflow.source.git.commit": first.commit, "data": first.data.source})
    view.add_tags({"data.fingerprint": first.data.fingerprint, "role": "triage"})
    versions = first.environment.versions.items()
    view.add_tags({f"version.{name}": version for name, version in versions})
    view.add_metrics("data.", first.data, first.at)


def _add_audit(view: RunView, events: RunState) -> None:
    audited = events.last(Audited)
    if audited is None:
        return
    audit = audited.audit
    view.add_tags({"audit": audit.verdict, "audit.allowed": ", ".join(audit.allowed)})
    view.add_findings("audit", audit.findings)
    view.add_metrics("audit.checks.", Counter(check.status for check in audit.checks), audited.at)


def _add_phase_1(view: RunView, events: RunState) -> None:
    """Add the first comparison and what the untrained baselines reach, on test."""
    ladder = events.last(Ladder, split="test")
    if ladder is not None:
        for name, row in ladder.rows.items():
            view.add_metrics(f"ladder.{name}.", row.masked, ladder.at)
    judged = events.last(Phase1Judged)
    if judged is None:
        return
    for test in events.of(TestJudged, role="phase 1"):
        which = "ar_only" if test.name == judged.baseline else "model"
        view.add_metrics(f"phase_1.{which}.", test.evaluation.masked, test.at)
        view.add_tags({f"phase_1.{which}": test.name})
    view.add_tags({"phase_1.verdict": judged.verdict})
    if judged.lineage is not None:
        view.add_tags({"lineage": judged.lineage.articles})
        view.add_metrics("lineage.trace.", judged.lineage.trace or {}, judged.at)
    for gate in judged.gates:
        view.add_gate("phase_1", gate, judged.at)


def _add_seeds(view: RunView, events: RunState) -> None:
    """Add the gains over all repeated seeds, with what a seed changes."""
    repeated = events.last(Repeated)
    if repeated is None:
        return
    for found in repeated.comparisons:
        names = f"{found.model} over {found.over}"
        numbers = {**asdict(found.estimate), "bound": found.bound}
        view.add_metrics(f"seeds.{names}.{found.metric}.", numbers, repeated.at)


def _add_sweeps(view: RunView, events: RunState) -> None:
    """Add how much each key of a sweep explains; it reads every arm, so once, at the end."""
    for own in begun(events).config.steps:
        found, ended = swept(events, own.name), events.last(StepEnded, step=own.name)
        if found is not None and ended is not None:
            view.add_metrics(f"importance.{own.name}.", found.shares, ended.at)


# --- what both kinds of runs need ----------------------------------------------------------------


def begun(events: RunState) -> RunStarted:
    """Return the event with which the run began, the first of every journal."""
    assert events.started is not None
    return events.started


def data_view(events: RunState, context: str) -> DataView | None:
    """Return the data set of the triage; None if the audit ended the run before naming it."""
    first = begun(events)
    data, given = first.data, first.arguments
    if not data.fingerprint:
        return None
    paths = [path for path in (given.data, given.payload, given.train, given.eval) if path]
    code = {
        "mlflow.source.name": "lvm.data.sample",
        "mlflow.source.git.commit": str(first.commit),
    }
    counts: dict[str, Json] = {
        "rows": data.rows,
        "windows": data.windows,
        "articles": data.articles,
    }
    return DataView(
        name=data.source[-MAX_NAME:],
        digest=data.fingerprint[:MAX_DIGEST],
        source_type="local" if paths else "code",
        source={"uri": paths[0]} if paths else {"tags": code},
        profile=dict(flatten(counts)),
        width=data.width,
        context_length=first.config.recipe.context_length,
        context=context,
    )


def confirmed_arm(events: RunState, summary: Summary | None) -> str | None:
    """Return the id of the arm whose model the verdict is about, or None."""
    stop, judged = events.stop, events.last(Phase1Judged)
    if stop is not None and stop.verdict is RunVerdict.PASSED and judged is not None:
        tests = events.of(TestJudged, role="phase 1")
        return next((e.arm for e in tests if e.name != judged.baseline), None)
    if stop is None or stop.verdict is not RunVerdict.FIXED:
        return None
    if summary is not None and summary.arm is not None:
        return summary.arm.id
    found = events.last(Confirmed, verdict="PASS")
    return found.spec if found else None
