"""Descriptions in Markdown for MLflow's pages, and a table like the report's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from lvm.core.metrics import METRICS, Shown
from lvm.core.records import GateResult
from lvm.core.text import NONE, estimate, number, title_of
from lvm.triage.events import ArmEnded, ArmJudged, Confirmed, Decision, TestJudged
from lvm.triage.events.parts import Arm
from lvm.triage.state import RunState
from lvm.triage.summary import Summary
from lvm.views.report import Block, Paragraph, Run, Section, Table
from lvm.views.report.markdown import render
from lvm.views.report.models import added, models_section
from lvm.views.report.summary import verdict_section

VIEW_TAG = "mlflow.sharedViewState."  # of an experiment; a link to MLflow's page names it
WIDTHS = {"attributes.`Run Name`": 440, "tags.`verdict`": 140, "params.`changes`": 360}  # pixels


def table_name(metric: str) -> str:
    """Return the name of a metric in MLflow's table; "" for one that is not in it."""
    if metric not in METRICS.shown(Shown.MLFLOW):
        return ""
    unit = " ms" if METRICS.get(metric).unit == "ms" else ""
    return title_of(metric).replace("@", " at ") + unit  # MLflow allows no "@" in a name


def columns() -> list[str]:
    """Return the columns that MLflow's page opens with."""
    dev = [f"Dev {table_name(metric)}" for metric in METRICS.shown(Shown.CURVES)]
    test = [table_name(metric) for metric in METRICS.shown(Shown.MLFLOW_COLUMN)]
    numbers = [f"metrics.`{name}`" for name in ("Epochs", *dev, *test)]
    return ["tags.`verdict`", *numbers, "tags.`cause`", "tags.`stop`", "params.`changes`"]


def table_link(experiment: str, triage: str) -> str:
    """Return the address of that table in MLflow's page."""
    return f"#/experiments/{experiment}/runs?viewStateShareKey={triage}"


def table_state(triage: str) -> str:
    """Return the state of MLflow's page that shows one triage like the report's table."""
    return json.dumps(
        {
            "searchFilter": f"tags.`lvm.triage` = '{triage}'",
            "orderByKey": "attributes.start_time",
            "orderByAsc": True,
            "selectedColumns": columns(),
            "columnOrder": columns(),
            "columnWidths": WIDTHS,
        }
    )


def run_note(events: RunState, summary: Summary | None, limit: int) -> str:
    """Return the description of a triage: the report's first screen and its table of models.

    At most `limit` characters: rows are cut from the end of the table, then the end of the text.
    """
    if summary is None or not summary.verdict:
        return _unfinished(events)
    run = Run(events, summary)
    table = next((block for block in models_section(run) if isinstance(block, Table)), None)
    rows = len(table.rows) if table is not None else 0
    while True:
        blocks: list[Block] = list(verdict_section(run))
        if table is not None and rows:
            blocks.append(replace(table, rows=table.rows[:rows]))
        text = _body([Section("verdict", "Verdict", blocks)])
        if len(text) <= limit or rows == 0:
            return text[:limit]
        rows -= 1


def _body(sections: Sequence[Section]) -> str:
    """Return Markdown without its two headings: MLflow shows few lines, and its own title."""
    return render(sections, "").split("\n\n", 2)[-1]


def _unfinished(events: RunState) -> str:
    latest = events.last(Decision)
    if latest is None:
        return "**UNFINISHED**: nothing has been decided yet."
    if latest.action == "Stop":
        cause = "+".join(latest.cause or ())
        by = f" by {cause}" if cause else ""
        return f"**{latest.verdict}**{by}, since {latest.since}."
    what = " ".join(part for part in (latest.action, latest.step, latest.arm) if part)
    return f"**UNFINISHED**: last decided {what}, since {latest.since}."


def arm_note(events: RunState, spec: Arm) -> str:
    """Return the description of an arm: how it ended, and every gate it was judged by."""
    ended = events.last(ArmEnded, arm=spec.id, step=spec.step)
    judged = events.last(ArmJudged, arm=spec.id, step=spec.step)
    confirmed = events.last(Confirmed, spec=spec.id, run_as=spec.step)
    said, gates = [spec.why], list[tuple[str, GateResult]]()
    if ended is not None:
        detail = f": {ended.detail}" if ended.detail else ""
        said.append(f"Ended at epoch {ended.epoch}, {ended.reason}{detail}.")
    if judged is not None:
        said += [f"{f.code} ({f.severity}): {f.seen}." for f in judged.findings]
        gates += [("dev", gate) for gate in (judged.stage, *judged.gains)]
    if confirmed is not None:
        gates += [("test", gate) for gate in confirmed.gates]
        gates += [("test", gate) for gate in added(events, confirmed)[1]]
    blocks: list[Block] = [Paragraph(text) for text in said if text]
    if gates:
        blocks.append(_gates(gates))
    return _body([Section("arm", "How it went", blocks)])


def _gates(gates: Sequence[tuple[str, GateResult]]) -> Table:
    rows = [
        [
            split,
            gate.gate,
            title_of(gate.metric),
            estimate(gate),
            number(gate.bound) if gate.estimate else NONE,
            gate.verdict,
            gate.reason,
        ]
        for split, gate in gates
    ]
    header = ("Split", "Gate", "Metric", "Value [interval]", "Bound", "Verdict", "Reason")
    return Table("every gate that was judged", "lllrrll", header, rows)


def registered_note(events: RunState, spec: Arm, test: TestJudged) -> str:
    """Return the description of a registered version: its arm, and what it reached."""
    masked, started, stop = test.evaluation.masked, events.started, events.stop
    reached = ", ".join(
        f"{title_of(name)} {number(masked[name])}"
        for name in METRICS.shown(Shown.SUMMARY)
        if masked.get(name) is not None
    )
    assert started is not None
    assert stop is not None  # it ended with a model to register
    return (
        f"{spec.name}: {reached} on the test split of {started.data.source}. The triage ended "
        f"{stop.verdict}, since {stop.since}. It predicts unit next vectors in the raw space."
    )
