"""Draw the small plots of the audit as inline SVG, in the manner of `plots`.

Each panel carries its axes in words, its own legend, and a sentence that says how to read it and
what it shows. Train is the dashed grey line that eval is held against; a bar is two standard errors
to each side.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from lvm.report.plot_words import (
    BLOCKS,
    LINES,
    RIGHT_OFFSET,
    Part,
    block_name,
    blocks_reading,
    histogram_reading,
    histograms,
    known_blocks,
    line_plots,
    line_reading,
)
from lvm.report.plots import MARKERS, Line, draw_legend, draw_marker, drawing, round_ticks
from lvm.text import counted, number

WIDTH, HEIGHT = 456, 236
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 24, 40
NUM_ERRORS = 2.0  # length of an error bar to each side
STYLE_OF = {"train": ("grey", MARKERS[1], True), "eval": ("c1", MARKERS[0], False)}


@dataclass(frozen=True)
class Axes:
    """Where values lie in a panel."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        """Return the place of a value from the left."""
        span = self.x_high - self.x_low
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - self.x_low) / span

    def y(self, value: float) -> float:
        """Return the place of a value from the top."""
        span = self.y_high - self.y_low
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.y_high - value) / span


@dataclass(frozen=True)
class Point:
    """One mean with its standard error."""

    x: float
    y: float
    error: float
    said: str  # shown when pointed at


def panels(plots: Part) -> str:
    """Return every plot there are numbers for, as one group of panels; "" without any."""
    drawn = [
        *(_profile(name, plots[name], sides) for name, sides in line_plots(plots).items()),
        *([_blocks(plots)] if known_blocks(plots) else []),
        *(draw_histogram(*item) for item in histograms(plots)),
    ]
    return f'<div class="panels small">{"".join(drawn)}</div>' if drawn else ""


# --- panels ---------------------------------------------------------------------------------------


def _profile(name: str, part: Part, lines: Mapping[str, Sequence[tuple[int, float, float]]]) -> str:
    """Draw one line per side."""
    title, x_title = LINES[name]
    every = [point for line in lines.values() for point in line]
    axes = _axes_of([x for x, _, _ in every], [(y, e) for _, y, e in every])
    parts = draw_frame(axes, sorted({x for x, _, _ in every}), x_title, "cosine")
    if name == "offset_sweep":
        parts.append(_guide(axes, RIGHT_OFFSET, "the chunk before"))
    for side, points in lines.items():
        said = [Point(x, y, e, f"{side}, {x}: {number(y)}") for x, y, e in points]
        parts.append(_line(axes, _style(side), said))
    values = "; ".join(
        f"{side}: " + ", ".join(f"{x} {number(y)}" for x, y, _ in points)
        for side, points in lines.items()
    )
    legend = draw_legend([_style(side, part[side].get("windows")) for side in lines], {})
    svg = drawing(WIDTH, HEIGHT, f"{title}, cosine by {x_title}. {values}.", parts, title)
    return _panel(svg, legend, line_reading(name, lines))


def _style(side: str, windows: int | None = None) -> Line:
    colour, marker, dashed = STYLE_OF.get(side, ("c2", MARKERS[2], False))
    name = f"{side}, {counted(windows, 'window')}" if windows is not None else side
    return Line(name, colour, marker, dashed, ())


def _blocks(plots: Part) -> str:
    """Draw one mark per block of eval articles over the band of the train side."""
    part, kept = plots["coherence_blocks"], known_blocks(plots)
    points = [
        Point(i, b["near"], b.get("error") or 0.0, f"{block_name(b, plots)}: {number(b['near'])}")
        for i, b in kept
    ]
    limits = [(part[k], 0.0) for k in ("low", "high") if part.get(k) is not None]
    axes = _axes_of([0.5, kept[-1][0] + 0.5], [*((p.y, p.error) for p in points), *limits])
    step = math.ceil(kept[-1][0] / 8)
    parts = [] if len(limits) < 2 else [_band(axes, part["low"], part["high"])]
    parts += draw_frame(
        axes, range(1, kept[-1][0] + 1, step), "block of articles, by id", "cosine above random"
    )
    train = (part.get("train") or {}).get("near")
    if train is not None:
        parts.append(_level(axes, train))
    eval_style = _style("eval")
    parts.append(_line(axes, eval_style, points, joined=False))
    said = "; ".join(point.said for point in points)
    band = f" Train level {number(train)}." if train is not None else ""
    legend = _blocks_legend(eval_style, train, len(limits) == 2)
    svg = drawing(WIDTH, HEIGHT, f"{BLOCKS}. {said}.{band}", parts, BLOCKS)
    return _panel(svg, legend, blocks_reading(plots))


def _blocks_legend(style: Line, train: float | None, band: bool) -> str:
    sample = f'<svg viewBox="0 0 30 12" aria-hidden="true"><g class="{style.colour}">'
    entries = [f"{sample}{draw_marker(style.marker, 15, 6, 4)}</g></svg>block of eval articles"]
    if train is not None:
        line = '<line class="curve dashed grey" x1="1" x2="29" y1="6" y2="6"/>'
        entries.append(
            f'<svg viewBox="0 0 30 12" aria-hidden="true">{line}</svg>train {number(train)}'
        )
    if band:
        entries.append('<span class="swatch band"></span>train ±20%')
    return f'<ul class="legend">{"".join(f"<li>{entry}</li>" for entry in entries)}</ul>'


def draw_histogram(title: str, part: Part) -> str:
    """Draw own targets as an area, those of other articles as a dashed outline."""
    edges, paired, shuffled = part["edges"], part["paired"], part["shuffled"]
    top = max([0.01, *(v or 0.0 for v in (*paired, *shuffled))])
    axes = Axes(edges[0], edges[-1], 0.0, round_ticks(0.0, top)[-1])
    parts = [
        f'<polygon class="area c1" points="{_outline(axes, edges, paired)}"/>',
        *draw_frame(
            axes, round_ticks(edges[0], edges[-1]), "cosine", "share of windows", percent=True
        ),
        f'<polyline class="curve dashed grey" points="{_outline(axes, edges, shuffled)}"/>',
    ]
    means = [number(part.get(f"{name}_mean")) for name in ("paired", "shuffled")]
    names = f"own target, mean {means[0]}", f"target of another article, mean {means[1]}"
    legend = (
        f'<ul class="legend"><li><span class="swatch area"></span>{names[0]}</li>'
        '<li><svg viewBox="0 0 30 12" aria-hidden="true"><line class="curve dashed grey" x1="1" '
        f'x2="29" y1="6" y2="6"/></svg>{names[1]}</li></ul>'
    )
    said = f"{title}, histogram of cosines. {names[0]}; {names[1]}."
    return _panel(drawing(WIDTH, HEIGHT, said, parts, title), legend, histogram_reading(part))


def _outline(axes: Axes, edges: Sequence[float], shares: Sequence[float | None]) -> str:
    places = [(edges[0], 0.0)]
    for i, share in enumerate(shares):
        places += [(edges[i], share or 0.0), (edges[i + 1], share or 0.0)]
    places.append((edges[-1], 0.0))
    return " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in places)


# --- pieces ---------------------------------------------------------------------------------------


def _panel(svg: str, legend: str, text: str) -> str:
    return f'<div class="panel">{svg}{legend}<p class="note">{escape(text)}</p></div>'


def _axes_of(xs: Sequence[float], levels: Iterable[tuple[float, float]]) -> Axes:
    """Return axes that hold all points with their bars, and zero."""
    ends = [y + sign * NUM_ERRORS * e for y, e in levels for sign in (-1, 1)]
    ticks = round_ticks(min(0.0, *ends), max(0.05, *ends))
    margin = 0.0 if max(xs) > min(xs) else 0.5
    return Axes(min(xs) - margin, max(xs) + margin, ticks[0], ticks[-1])


def draw_frame(
    axes: Axes, x_ticks: Iterable[float], x_title: str, y_title: str, *, percent: bool = False
) -> list[str]:
    """Return the grid of a panel with the numbers and the words of both axes."""
    parts = []
    for tick in round_ticks(axes.y_low, axes.y_high):
        y = axes.y(tick)
        text = f"{100 * tick:g}%" if percent else f"{tick:g}"
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
        )
    parts += [
        f'<text x="{axes.x(t):.1f}" y="{HEIGHT - 22}" text-anchor="middle">{t:g}</text>'
        for t in x_ticks
        if axes.x_low <= t <= axes.x_high
    ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    return [
        *parts,
        f'<text x="{middle:.0f}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_title)}</text>',
        f'<text x="0" y="12">{escape(y_title)}</text>',
    ]


def _line(axes: Axes, style: Line, points: Sequence[Point], *, joined: bool = True) -> str:
    path = " ".join(f"{axes.x(p.x):.1f},{axes.y(p.y):.1f}" for p in points)
    dash = " dashed" if style.dashed else ""
    curve = f'<polyline class="curve{dash}" points="{path}"/>' if joined else ""
    marks = "".join(_mark(axes, style.marker, point) for point in points)
    return f'<g class="{style.colour}">{curve}{marks}</g>'


def _mark(axes: Axes, marker: str, point: Point) -> str:
    x, y = axes.x(point.x), axes.y(point.y)
    reach = axes.y(point.y - NUM_ERRORS * point.error) - y
    bar = (
        f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{y - reach:.1f}" '
        f'y2="{y + reach:.1f}"/>'
    )
    return f"<g><title>{escape(point.said)}</title>{bar}{draw_marker(marker, x, y, 3.5)}</g>"


def _guide(axes: Axes, place: float, label: str) -> str:
    x = axes.x(place)
    return (
        f'<line class="rung" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text class="rung" x="{x:.1f}" y="{TOP - 6}" text-anchor="middle">{escape(label)}</text>'
    )


def _band(axes: Axes, low: float, high: float) -> str:
    top, bottom = axes.y(high), axes.y(low)
    return (
        f'<rect class="band" x="{LEFT}" y="{top:.1f}" width="{WIDTH - LEFT - RIGHT}" '
        f'height="{max(1.0, bottom - top):.1f}"/>'
    )


def _level(axes: Axes, value: float) -> str:
    y = axes.y(value)
    return (
        f'<line class="curve dashed grey" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" '
        f'y2="{y:.1f}"/>'
    )
