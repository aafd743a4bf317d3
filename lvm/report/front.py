"""Models held against the front of predictions without training: a picture and its numbers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from lvm.metrics import FRONT
from lvm.records import LIMITS, Position
from lvm.report import Block, Figure, Heading, Paragraph, Run, Table
from lvm.report.models import model_name
from lvm.report.plots import (
    MARKERS,
    NUM_COLOURS,
    Line,
    draw_legend,
    draw_marker,
    drawing,
    round_ticks,
)
from lvm.report.small_plots import HEIGHT, WIDTH, Axes, draw_frame
from lvm.text import NONE, number

TITLE = "R@5 over cosine, test split"
Place = tuple[float, float]  # cosine, R@5


def front_blocks(run: Run) -> Iterator[Block]:
    """Yield where every model lies against the front; nothing in a run that did not measure it."""
    found = run.document.get("front") or {}
    models = [model for model in run.document["models"] if found.get(model["arm"])]
    if not models:
        return
    yield Heading("Against the front of predictions without training")
    yield Paragraph(
        "The rungs of the ladder trade cosine for R@5, and a mixture of two (one of them, drawn "
        "for each window) reaches every point between them: the front is the best that needs no "
        "training. The distance is what both metrics can lose before the front is reached; the "
        "interval of one above or below leaves out zero. A model is below as well where it loses "
        "to a rung in one metric over ten times what it can have gained in the other. The rung "
        "named is the one nearest to beating it in both. In a learned space MRR stands for the "
        "cosine.",
        "note",
    )
    yield Table(
        "test split, own contexts masked; Δ is the difference to the rung",
        "llrlrr",
        ("Model", "Position", "Distance", "Rung", "Δ cosine or MRR", "Δ R@5"),
        [_row(model, found[model["arm"]]) for model in models],
    )
    drawn = [model for model in models if model["space"] == "raw"]
    front = front_line(run.document["ladder"])
    if front and drawn:
        left_out = "" if drawn == models else " A model searched in a learned space is left out."
        caption = (
            "The line is the front. A bar is the interval of the distance, along which both "
            f"metrics change alike: a model is clear of the front where its bar is.{left_out}"
        )
        yield Figure(_picture(front, drawn, found, run.baseline), caption)


def front_line(ladder: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Place]]:
    """Return the rungs at the corners of the front, from the best cosine to the best R@5."""
    places = {
        name: _place(row["masked"])
        for name, row in ladder.items()
        if name not in LIMITS
        and all(row["masked"].get(metric) is not None for metric in FRONT["raw"])
    }
    corners: list[tuple[str, Place]] = []
    for name, place in sorted(places.items(), key=lambda item: item[1], reverse=True):
        if corners and place[1] <= corners[-1][1][1]:
            continue  # a rung before it is as good in both
        while len(corners) > 1 and _inside(corners[-2][1], corners[-1][1], place):
            corners.pop()
        corners.append((name, place))
    return corners


def _place(masked: Mapping[str, Any]) -> Place:
    """Return where a model or a rung lies; no evaluation is without these metrics."""
    first, second = FRONT["raw"]
    return masked[first], masked[second]


def _inside(first: Place, middle: Place, last: Place) -> bool:
    """Whether a mixture of the outer two is as good as the middle one."""
    (x1, y1), (x2, y2), (x3, y3) = first, middle, last
    return (x2 - x1) * (y3 - y1) - (y2 - y1) * (x3 - x1) <= 0


def _row(model: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    return [
        model_name(model),
        found["position"],
        _interval(found["distance"]),
        found["rung"] or found["reason"],
        *(_interval(found["gains"].get(metric)) for metric in found["metrics"]),
    ]


def _interval(estimate: Mapping[str, Any] | None) -> str:
    if not estimate:
        return NONE
    value, lower, upper = (number(estimate[k], sign=True) for k in ("value", "lower", "upper"))
    return f"{value} [{lower}, {upper}]"


# --- the picture ----------------------------------------------------------------------------------


def _picture(
    front: Sequence[tuple[str, Place]],
    models: Sequence[Mapping[str, Any]],
    found: Mapping[str, Mapping[str, Any]],
    baseline: str,
) -> str:
    places = [_place(model["masked"]) for model in models]
    bars = [_bar(place, found[m["arm"]]) for place, m in zip(places, models, strict=True)]
    ends = [end for bar in bars for end in bar]
    x_ticks, y_ticks = (
        round_ticks(min(values), max(values))
        for values in zip(*(p for _, p in front), *places, *ends, strict=True)
    )
    axes = Axes(x_ticks[0], x_ticks[-1], y_ticks[0], y_ticks[-1])
    lines = [_style(m, place, m["name"] == baseline) for place, m in enumerate(models)]
    parts = [*draw_frame(axes, x_ticks, "cosine", "R@5"), _front(axes, front)]
    for line, model, place, bar in zip(lines, models, places, bars, strict=True):
        where = found[model["arm"]]["position"]
        parts.append(_model(axes, line, place, bar, f"{_said(line.name, place)}, {where}"))
    said = "; ".join(
        f"{_said(line.name, place)}, {_in_words(found[model['arm']])}"
        for line, model, place in zip(lines, models, places, strict=True)
    )
    corners = "; ".join(_said(name, place) for name, place in front)
    text = f"{TITLE}. Front, cosine and R@5: {corners}. Models: {said}."
    legend = draw_legend([Line("front: no training", "ladder", "diamond", False, ()), *lines], {})
    return f'<div class="wide">{drawing(WIDTH, HEIGHT, text, parts, TITLE)}{legend}</div>'


def _bar(place: Place, found: Mapping[str, Any]) -> tuple[Place, Place]:
    """Return the ends of the interval of the distance, laid through the model."""
    distance = found["distance"] or {"lower": 0.0, "value": 0.0, "upper": 0.0}
    low, high = (distance[key] - distance["value"] for key in ("lower", "upper"))
    return (place[0] + low, place[1] + low), (place[0] + high, place[1] + high)


def _style(model: Mapping[str, Any], place: int, grey: bool) -> Line:
    return Line(
        name=model_name(model),
        colour="grey" if grey else f"c{place % NUM_COLOURS + 1}",
        marker=MARKERS[place % len(MARKERS)],
        dashed=False,
        points=(),
    )


def _said(name: str, place: Place) -> str:
    return f"{name} {number(place[0])}, {number(place[1])}"


def _in_words(found: Mapping[str, Any]) -> str:
    if found["position"] == Position.NOT_EVALUABLE:
        return "not compared"
    return f"{found['position']} the front, distance {_interval(found['distance'])}"


def _front(axes: Axes, front: Sequence[tuple[str, Place]]) -> str:
    """Draw the front, to the left of its last rung and below its first dashed."""
    best_r, best_cosine = front[-1][1], front[0][1]
    corners = [place for _, place in front]
    edges = [((axes.x_low, best_r[1]), best_r), (best_cosine, (best_cosine[0], axes.y_low))]
    marks = "".join(
        f"<g><title>{escape(_said(name, place))}</title>"
        f"{draw_marker('diamond', axes.x(place[0]), axes.y(place[1]), 3.5)}</g>"
        for name, place in front
    )
    lines = "".join(_line(axes, *pair, "curve") for pair in itertools.pairwise(corners))
    dashed = "".join(_line(axes, *edge, "curve dashed") for edge in edges)
    return f'<g class="ladder">{dashed}{lines}{marks}</g>'


def _model(axes: Axes, line: Line, place: Place, bar: tuple[Place, Place], said: str) -> str:
    mark = draw_marker(line.marker, axes.x(place[0]), axes.y(place[1]), 4)
    title = f"<title>{escape(said)}</title>"
    return f'<g class="{line.colour}">{title}{_line(axes, *bar, "whisker")}{mark}</g>'


def _line(axes: Axes, first: Place, last: Place, kind: str) -> str:
    return (
        f'<line class="{kind}" x1="{axes.x(first[0]):.1f}" y1="{axes.y(first[1]):.1f}" '
        f'x2="{axes.x(last[0]):.1f}" y2="{axes.y(last[1]):.1f}"/>'
    )
