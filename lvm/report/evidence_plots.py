"""Draw how far down the true next is found, and how far apart cosines lie, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lvm.report import Event, Run
from lvm.report.models import model_name
from lvm.report.plots import MARKERS, NUM_COLOURS, Line, draw_legend, draw_marker, drawing
from lvm.report.small_plots import draw_histogram
from lvm.text import number
from lvm.triage.events import Ladder

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 46, 16, 12, 40
RUNG_METRICS = {1: "r_at_1", 5: "r_at_5", 10: "r_at_10", 50: "contain_at_50"}
SAID = (1, 5, 10, 50, 100, 1000)  # places that the text alternative names


# --- ranks ----------------------------------------------------------------------------------------


def reach(run: Run, judged: Sequence[Event]) -> str:
    """Return one curve per model over k on a log scale, with the best rung and chance."""
    size = judged[0]["evaluation"]["pool"]["size"]
    lines = [_model_line(run, event, place) for place, event in enumerate(judged)]
    if (rung := _rung_line(run)) is not None:
        lines.append(rung)
    parts = [*_axes(size), _chance(size, judged[0]["evidence"]["reach"]["k"])]
    parts += [_curve(line, size) for line in lines]
    title = "True next among the first k, test split"
    said = "; ".join(f"{line.name}: {_said(line)}" for line in lines)
    text = f"{title}. {said}. Chance is k of {size:,}."
    plot = drawing(WIDTH, HEIGHT, text, parts, title)
    return f'<div class="wide">{plot}{draw_legend(lines, {})}</div>'


def _model_line(run: Run, event: Event, place: int) -> Line:
    found = event["evidence"]["reach"]
    grey = event["name"] == run.baseline
    return Line(
        name=f"{model_name(event)}, {event['evaluation']['space']} space",
        colour="grey" if grey else f"c{place % NUM_COLOURS + 1}",
        marker=MARKERS[place % len(MARKERS)],
        dashed=grey,
        points=list(zip(found["k"], found["share"], strict=True)),
    )


def _rung_line(run: Run) -> Line | None:
    """Return the best predictor without training, at the places where it was measured."""
    ladder = run.ladder("test", "r_at_5")
    if not ladder:
        return None
    name = next(iter(ladder))
    masked = run.last(Ladder, split="test")["rows"][name]["masked"]
    points = [(k, masked[m]) for k, m in RUNG_METRICS.items() if masked.get(m) is not None]
    return Line(f"ladder: {name}", "ladder", "diamond", True, points)


def _x(k: float, size: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * math.log10(k) / max(1e-9, math.log10(size))


def _y(share: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)


def _axes(size: int) -> list[str]:
    parts = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{_y(t / 4):.1f}" '
        f'y2="{_y(t / 4):.1f}"/><text x="{LEFT - 6}" y="{_y(t / 4) + 4:.1f}" '
        f'text-anchor="end">{25 * t}%</text>'
        for t in range(5)
    ]
    for power in range(int(math.log10(size)) + 1):
        x = _x(10**power, size)
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            f'<text x="{x:.1f}" y="{HEIGHT - 22}" text-anchor="middle">{10**power:,}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    label = "k, rows retrieved (log scale)"
    return [
        *parts,
        f'<text x="{middle:.0f}" y="{HEIGHT - 4}" text-anchor="middle">{label}</text>',
    ]


def _chance(size: int, places: Sequence[int]) -> str:
    points = [(_x(k, size), _y(k / size)) for k in places if k <= size]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return (
        f'<polyline class="rung" fill="none" points="{path}"/><text class="rung" '
        f'x="{_x(size / 8, size):.1f}" y="{_y(0.02):.1f}" text-anchor="end">chance</text>'
    )


def _curve(line: Line, size: int) -> str:
    points = [(_x(k, size), _y(share), k, share) for k, share in line.points if k <= size]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in points)
    dash = " dashed" if line.dashed else ""
    drawn = "".join(
        f"<g><title>{escape(line.name)}, first {k:,}: {number(share)}</title>"
        f"{draw_marker(line.marker, x, y, 3)}</g>"
        for x, y, k, share in points
    )
    return f'<g class="{line.colour}"><polyline class="curve{dash}" points="{path}"/>{drawn}</g>'


def _said(line: Line) -> str:
    return ", ".join(f"{number(share)} within {k:,}" for k, share in line.points if k in SAID)


# --- cosines --------------------------------------------------------------------------------------


def cosines(shown: Sequence[Event], judged: Sequence[Event]) -> str:
    """Return one histogram per space of the models shown, over the axis that holds all judged."""
    every = [space for event in judged for space in event["evidence"]["spaces"].values()]
    every = [space for space in every if space["paired"]]
    width = max([space["width"] for space in every], default=1.0)
    first = min([math.floor(_bin(space["low"], width)) for space in every], default=0)
    last = max([math.ceil(_bin(_high(space), width)) for space in every], default=1)
    panels = [
        draw_histogram(_title(event, name), _on_grid(space, width, first, last))
        for event in shown
        for name, space in event["evidence"]["spaces"].items()
        if space["paired"]
    ]
    return f'<div class="panels small">{"".join(panels)}</div>'


def _title(event: Event, space: str) -> str:
    searched = ", searched" if space == event["evaluation"]["space"] else ""
    return f"{model_name(event)}, {space} space{searched}"


def _high(space: Mapping[str, Any]) -> float:
    return float(space["low"] + space["width"] * len(space["paired"]))


def _bin(cosine: float, width: float) -> float:
    return round(cosine / width, 6)  # an edge that is one by all but its last bits is one


def _on_grid(space: Mapping[str, Any], width: float, first: int, last: int) -> dict[str, Any]:
    """Return a histogram over bins `first` to `last` of a width that its own bins fit into."""
    shares = {}
    for name in ("paired", "shuffled"):
        shares[name] = [0.0] * (last - first)
        for i, share in enumerate(space[name]):
            place = math.floor(_bin(space["low"] + i * space["width"], width))
            shares[name][place - first] += share
    return {
        "edges": [round(i * width, 4) for i in range(first, last + 1)],
        **shares,
        "paired_mean": space["paired_mean"],
        "shuffled_mean": space["shuffled_mean"],
    }
