"""Draw the plots of a report as inline SVG: text in, escaped markup out, no library.

Colours are CSS variables of the page, so that a plot follows its light or dark theme. Every line
has a marker of its own and a legend in words: nothing hangs on colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from lvm.metrics import METRICS, Shown
from lvm.report import Run
from lvm.text import number, title_of

WIDTH, HEIGHT = 456, 250  # of one panel, in units of the drawing; two stand side by side
LEFT, RIGHT, TOP, BOTTOM = 34, 124, 12, 34  # the right margin holds the names of the levels
NUM_COLOURS = 7
NAME_LENGTH = 40  # letters of a name that fit above a bar
MARKERS = ("circle", "square", "diamond", "triangle")


@dataclass(frozen=True)
class Line:
    """One curve of a panel."""

    name: str
    colour: str  # of the style sheet
    marker: str
    dashed: bool
    points: Sequence[tuple[int, float]]  # epoch, value


# --- curves --------------------------------------------------------------------------------------


def step_curves(run: Run, specs: Sequence[Mapping[str, Any]]) -> str:
    """Return the dev cosine and R@5 per epoch of some arms, with one legend for both.

    Where all arms are searched in learned spaces there is no cosine to hold against the lines.
    """
    panels, notes = [], {}
    for metric in METRICS.shown(Shown.CURVES):
        lines = [_line(run, spec, metric, place) for place, spec in enumerate(specs)]
        if not METRICS.get(metric).across_spaces:
            shown = [spec["recipe"]["search_space"] == "raw" for spec in specs]
            notes = {
                line.name: "R@5 only: its cosine is in another space"
                for line, raw in zip(lines, shown, strict=True)
                if not raw
            }
            lines = [line for line, raw in zip(lines, shown, strict=True) if raw]
            if not lines:
                continue
        panels.append(_panel(run, metric, [line for line in lines if line.points]))
    legend = draw_legend(
        [_line(run, spec, "r_at_5", place) for place, spec in enumerate(specs)], notes
    )
    return f'<div class="panels">{"".join(panels)}</div>{legend}'


def _line(run: Run, spec: Mapping[str, Any], metric: str, place: int) -> Line:
    points = [
        (epoch, event[metric])
        for epoch, event in sorted(run.curve(spec["id"]).items())
        if event.get(metric) is not None
    ]
    control = spec["role"] == "control" or spec["name"] == run.baseline
    full = spec["role"] == "confirm"
    return Line(
        name=spec["name"] + (" (confirmation)" if full else ""),
        colour="grey" if control else f"c{place % NUM_COLOURS + 1}",
        marker=MARKERS[place % len(MARKERS)],
        dashed=control or full,
        points=points,
    )


def _references(run: Run, metric: str) -> list[tuple[str, float]]:
    """Return the lines that a curve is held against: the stage gate, the best rung, copy-last."""
    found = []
    if metric == "eval_cosine" and "stage_eval_cosine" in run.gates:
        found.append(("stage gate", run.gates["stage_eval_cosine"]))
    ladder = run.ladder("dev", metric)
    names = dict.fromkeys([*list(ladder)[:1], *(n for n in ("copy_last",) if n in ladder)])
    return [*found, *((name, ladder[name]) for name in names)]


@dataclass(frozen=True)
class Scale:
    """Where epochs and values lie in a panel."""

    low: float
    high: float
    last: int  # epoch

    def x(self, epoch: float) -> float:
        """Return the place of an epoch from the left."""
        return LEFT + (WIDTH - LEFT - RIGHT) * epoch / self.last

    def y(self, value: float) -> float:
        """Return the place of a value from the top."""
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.high - value) / (self.high - self.low)


def _scale(run: Run, metric: str) -> Scale:
    """Return the scale that all panels of a metric share, so that steps compare by eye."""
    low, high, last = run.span(metric)
    levels = [value for _, value in _references(run, metric)]
    ticks = round_ticks(min([low, *levels]), max([high, *levels]))
    return Scale(ticks[0], ticks[-1], last)


def _panel(run: Run, metric: str, lines: Sequence[Line]) -> str:
    scale, references = _scale(run, metric), _references(run, metric)
    parts = [*_axes(scale), *_reference_lines(scale, references)]
    for line in lines:
        parts.append(_curve(line, [(scale.x(e), scale.y(v), e, v) for e, v in line.points]))
    title = f"dev {title_of(metric)} per epoch"
    last_points = [(line.name, *line.points[-1]) for line in lines]
    ends = "; ".join(f"{name} {number(v)} at epoch {e}" for name, e, v in last_points)
    held = "; ".join(f"{name} {number(value)}" for name, value in references)
    said = f"{title}. {ends or 'no values'}. Lines: {held or 'none'}."
    return drawing(WIDTH, HEIGHT, said, parts, title)


def _axes(scale: Scale) -> list[str]:
    parts = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{scale.y(t):.1f}" '
        f'y2="{scale.y(t):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{scale.y(t) + 4:.1f}" text-anchor="end">{t:g}</text>'
        for t in round_ticks(scale.low, scale.high)
    ]
    parts += [
        f'<text x="{scale.x(epoch):.1f}" y="{HEIGHT - 16}" text-anchor="middle">{epoch}</text>'
        for epoch in range(0, scale.last + 1, math.ceil(scale.last / 6))
    ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    return [
        *parts,
        f'<text x="{middle:.0f}" y="{HEIGHT - 2}" text-anchor="middle">epoch</text>',
    ]


def _reference_lines(scale: Scale, found: Iterable[tuple[str, float]]) -> list[str]:
    """Return level lines with their labels right of the panel, pushed apart where they meet."""
    parts, above = [], math.inf
    for name, value in sorted(found, key=lambda item: item[1]):
        place = scale.y(value)
        above = min(place + 4, above - 13)
        kind = "gate" if name == "stage gate" else "rung"
        parts.append(
            f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place:.1f}" '
            f'y2="{place:.1f}"/><text class="{kind}" x="{WIDTH - RIGHT + 6}" '
            f'y="{above:.1f}">{escape(name)} {number(value)}</text>'
        )
    return parts


def _curve(line: Line, points: Sequence[tuple[float, float, int, float]]) -> str:
    path = " ".join(f"{px:.1f},{py:.1f}" for px, py, _, _ in points)
    dash = " dashed" if line.dashed else ""
    marks = "".join(
        f"<g><title>{escape(line.name)}, epoch {epoch}: {number(value)}</title>"
        f"{draw_marker(line.marker, px, py, 4.5 if index == len(points) - 1 else 2.5)}</g>"
        for index, (px, py, epoch, value) in enumerate(points)
    )
    return f'<g class="{line.colour}"><polyline class="curve{dash}" points="{path}"/>{marks}</g>'


def draw_marker(kind: str, x: float, y: float, size: float) -> str:
    """Return a marker of one kind around a point."""
    if kind == "circle":
        return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="{size}"/>'
    corners = {
        "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        "diamond": ((0.0, -1.25), (1.25, 0.0), (0.0, 1.25), (-1.25, 0.0)),
        "triangle": ((0.0, -1.2), (1.15, 0.9), (-1.15, 0.9)),
    }[kind]
    path = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in corners)
    return f'<polygon class="mark" points="{path}"/>'


def draw_legend(lines: Sequence[Line], notes: Mapping[str, str]) -> str:
    """Return the legend of some curves in words, with a note behind some of them."""
    entries = []
    for line in lines:
        dash = " dashed" if line.dashed else ""
        sample = (
            f'<svg viewBox="0 0 30 12" aria-hidden="true"><g class="{line.colour}">'
            f'<line class="curve{dash}" x1="1" x2="29" y1="6" y2="6"/>'
            f"{draw_marker(line.marker, 15, 6, 4)}</g></svg>"
        )
        note = f" <small>({escape(notes[line.name])})</small>" if line.name in notes else ""
        entries.append(f"<li>{sample}{escape(line.name)}{note}</li>")
    return f'<ul class="legend">{"".join(entries)}</ul>'


# --- bars ----------------------------------------------------------------------------------------


def comparison(run: Run) -> str:
    """Return bars of cosine and R@5 on the test split, models before the ladder."""
    panels = []
    for metric in METRICS.shown(Shown.CURVES):
        models = [
            m
            for m in run.document["models"]
            if METRICS.get(metric).across_spaces or m["space"] == "raw"
        ]
        rows = [(m["name"], m["masked"].get(metric), True) for m in models]
        rows += [(name, value, False) for name, value in run.ladder("test", metric).items()]
        panels.append(_bars(f"test {title_of(metric)}", rows))
    legend = (
        '<ul class="legend"><li><span class="swatch model"></span>trained model</li>'
        '<li><span class="swatch"></span>ladder: no training</li></ul>'
    )
    return f'<div class="panels">{"".join(panels)}</div>{legend}'


def _bars(title: str, rows: Sequence[tuple[str, float | None, bool]]) -> str:
    """Return horizontal bars with their names above them, so that long names have room."""
    known = [(name, value, model) for name, value, model in rows if value is not None]
    span = max([abs(value) for _, value, _ in known], default=0.0) or 1.0
    room, pitch = WIDTH - 60, 32
    parts = []
    for place, (name, value, model) in enumerate(known):
        top = 6 + pitch * place
        width = max(1.0, room * max(0.0, value) / span)
        kind = "model" if model else "ladder"
        parts.append(
            f'<text class="name" x="0" y="{top + 9}">{escape(_short(name))}</text>'
            f'<rect class="bar {kind}" x="0" y="{top + 13}" width="{width:.1f}" height="9" rx="2"/>'
            f'<text x="{width + 6:.1f}" y="{top + 22}">{number(value)}</text>'
        )
    said = "; ".join(f"{name} {number(value)}" for name, value, _ in known)
    return drawing(WIDTH, 10 + pitch * max(1, len(known)), f"{title}. {said}.", parts, title)


def _short(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…"


# --- shared --------------------------------------------------------------------------------------


def drawing(width: int, height: int, said: str, parts: Iterable[str], title: str = "") -> str:
    """Return a drawing with its text alternative, under a visible title if it has one."""
    head = f'<p class="plot-title">{escape(title)}</p>' if title else ""
    return (
        f'<div class="plot">{head}<svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(said)}">{"".join(parts)}</svg></div>'
    )


def round_ticks(low: float, high: float) -> list[float]:
    """Return round values that enclose low and high, about five of them."""
    step = 10 ** math.floor(math.log10(max(high - low, 1e-9) / 4))
    step *= next(m for m in (1, 2, 2.5, 5, 10) if (high - low) / (step * m) <= 6)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]
