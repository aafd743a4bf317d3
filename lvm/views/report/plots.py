"""Charts of models: their curves per epoch, and bars of what they reach on the test split."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lvm.core.metrics import METRICS, Shown
from lvm.core.text import number, title_of
from lvm.triage.events.parts import Arm
from lvm.views.report import Run
from lvm.views.report.charts.chart import Axis, Chart, Point, Series
from lvm.views.report.charts.svg import legend, style_of, swatch, tag

NAME_LENGTH = 40  # letters of a name that fit above a bar
LEVEL_NAMES = 124  # width to the right of the curves for the names of the levels
ROW = 32  # height of a bar with its name


# --- curves --------------------------------------------------------------------------------------


def step_curves(run: Run, specs: Sequence[Arm]) -> str:
    """Return the dev cosine and R@5 per epoch of some arms, with one legend for both.

    If every arm is searched in a learned space, no cosine can be compared with the levels.
    """
    panels = []
    for metric in METRICS.shown(Shown.CURVES):
        lines = [
            _line(run, spec, metric, place)
            for place, spec in enumerate(specs)
            if METRICS.get(metric).compares(spec.recipe.search_space)
        ]
        if lines:
            panels.append(_panel(run, metric, lines))
    entries = []
    for place, spec in enumerate(specs):
        sample, name = _line(run, spec, "r_at_5", place).entry
        raw = spec.recipe.search_space == "raw"
        note = "" if raw else " (R@5 only: its cosine is in another space)"
        entries.append((sample, name + note))
    return tag("div", *panels, class_="panels") + legend(*entries)


def _line(run: Run, spec: Arm, metric: str, place: int) -> Series:
    control = spec.role == "control" or spec.name == run.baseline
    full = spec.role == "confirm"
    name = spec.name + (" (confirmation)" if full else "")
    points = [
        Point(epoch, value, f"{name}, epoch {epoch}: {number(value)}")
        for epoch, event in sorted(run.curve(spec.id).items())
        if (value := event.measured(metric)) is not None
    ]
    return Series(name, style_of(place, grey=control, dashed=control or full), points)


def _levels(run: Run, metric: str) -> list[tuple[str, str, float]]:
    """Return the lines behind the curves: the stage gate, the best baseline, copy-last."""
    gate = []
    if metric == "eval_cosine":
        gate.append(("gate", "stage gate", run.started.config.gates.stage_eval_cosine))
    ladder = run.ladder("dev", metric)
    names = dict.fromkeys([*list(ladder)[:1], *(n for n in ("copy_last",) if n in ladder)])
    return [*gate, *(("rung", name, ladder[name]) for name in names)]


def chart_of(run: Run, metric: str) -> Chart:
    """Return the axes that all panels of a metric share, so that steps can be compared by eye."""
    low, high, last = run.span(metric)
    epochs = Axis(0, last, "epoch", range(0, last + 1, math.ceil(last / 6)))
    values = [low, high, *(value for _, _, value in _levels(run, metric))]
    return Chart(epochs, Axis.around(values), right=LEVEL_NAMES, top=12)


def _panel(run: Run, metric: str, lines: Sequence[Series]) -> str:
    chart, levels = chart_of(run, metric), _levels(run, metric)
    curves = [chart.curve(line, size=2.5, end=4.5) for line in lines if line.points]
    ends = [(line.name, line.points[-1]) for line in lines if line.points]
    values = "; ".join(f"{name} {number(p.y)} at epoch {p.x}" for name, p in ends) or "no values"
    bounds = "; ".join(f"{name} {number(value)}" for _, name, value in levels) or "none"
    title = f"dev {title_of(metric)} per epoch"
    return chart.draw(title, f". {values}. Lines: {bounds}.", chart.levels(levels), *curves)


# --- bars ----------------------------------------------------------------------------------------


def comparison(run: Run) -> str:
    """Return bars of cosine and R@5 on the test split, models before the ladder."""
    panels = []
    for metric in METRICS.shown(Shown.CURVES):
        models = [m for m in run.summary.models if METRICS.get(metric).compares(m.space)]
        rows = [("model", m.name, m.masked.get(metric)) for m in models]
        rows += [("ladder", name, value) for name, value in run.ladder("test", metric).items()]
        measured = [(kind, name, value) for kind, name, value in rows if value is not None]
        panels.append(_bars(f"test {title_of(metric)}", measured))
    entries = (swatch("model"), "trained model"), (swatch("ladder"), "ladder: untrained")
    return tag("div", *panels, class_="panels") + legend(*entries)


def _bars(title: str, rows: Sequence[tuple[str, str, float]]) -> str:
    """Return horizontal bars with their names above them, so that long names have room."""
    span = max([abs(value) for _, _, value in rows], default=0.0) or 1.0
    num_rows = max(1, len(rows))
    names, height = Axis(num_rows, 0), 10 + ROW * num_rows
    chart = Chart(Axis(0, span), names, height=height, left=0, right=60, top=6, bottom=4)
    bars = [
        chart.row_name(place, _short(name)) + chart.bar(kind, place, value)
        for place, (kind, name, value) in enumerate(rows)
    ]
    values = "; ".join(f"{name} {number(value)}" for _, name, value in rows)
    return chart.draw(title, f". {values}.", *bars)


def _short(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…"
