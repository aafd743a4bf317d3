"""Models compared with the front of untrained baselines: a picture and its numbers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from lvm.core.metrics import FRONT
from lvm.core.records import LIMITS, Evaluation, FrontPosition, Position
from lvm.core.text import interval, number
from lvm.triage.summary import ModelShown
from lvm.views.report import Block, Figure, Heading, Paragraph, Run, Table
from lvm.views.report.charts.chart import Axis, Chart, Place, Point, Series
from lvm.views.report.charts.svg import Style, style_of, tag, wide
from lvm.views.report.models import model_name

FRONT_STYLE = Style("ladder", "diamond")
TITLE = "R@5 over cosine, test split"


def front_blocks(run: Run) -> Iterator[Block]:
    """Yield the position of every model relative to the front; nothing if it was not measured."""
    found = run.summary.front
    models = [model for model in run.summary.models if found.get(model.arm)]
    if not models:
        return
    yield Heading("Against the front of untrained baselines")
    yield Paragraph(
        "The baselines of the ladder trade cosine for R@5. Choosing one of two at random for "
        "each window reaches every point between them, so the front is the best that needs no "
        "training. The distance is what both metrics can lose before reaching the front; above "
        "or below means that its interval excludes zero. A model is also below where it loses "
        "to a baseline in one metric more than ten times what it may have gained in the other. "
        "The baseline named is the one closest to beating it in both. In a learned space, MRR "
        "replaces the cosine.",
        "note",
    )
    yield Table(
        "test split, own contexts masked; Δ is the difference from the baseline",
        "llrlrr",
        ("Model", "Position", "Distance", "Rung", "Δ cosine or MRR", "Δ R@5"),
        [_row(model, found[model.arm]) for model in models],
    )
    drawn = [model for model in models if model.space == "raw"]
    front = front_line(run.summary.ladder)
    if front and drawn:
        left_out = "" if drawn == models else " Models searched in a learned space are omitted."
        caption = (
            "The line is the front. A bar is the interval of the distance, along which both "
            f"metrics change equally: a model is clear of the front if its bar is.{left_out}"
        )
        yield Figure(_picture(front, drawn, found, run.baseline), caption)


def front_line(ladder: Mapping[str, Evaluation]) -> list[tuple[str, Place]]:
    """Return the baselines at the corners of the front, from the best cosine to the best R@5."""
    places = {name: _place(row.masked) for name, row in ladder.items() if name not in LIMITS}
    corners: list[tuple[str, Place]] = []
    for name, place in sorted(places.items(), key=lambda item: item[1], reverse=True):
        if corners and place[1] <= corners[-1][1][1]:
            continue  # an earlier baseline is as good in both
        while len(corners) > 1 and _inside(corners[-2][1], corners[-1][1], place):
            corners.pop()
        corners.append((name, place))
    return corners


def _place(masked: Mapping[str, float | None]) -> Place:
    """Return cosine and R@5 of a model or baseline; every evaluation has them."""
    first, second = FRONT["raw"]
    return masked[first] or 0.0, masked[second] or 0.0


def _inside(first: Place, middle: Place, last: Place) -> bool:
    """Whether a mixture of the outer two is as good as the middle one."""
    (x1, y1), (x2, y2), (x3, y3) = first, middle, last
    return (x2 - x1) * (y3 - y1) - (y2 - y1) * (x3 - x1) <= 0


def _row(model: ModelShown, found: FrontPosition) -> list[str]:
    return [
        model_name(model),
        found.position,
        interval(found.distance),
        found.rung or found.reason,
        *(interval(found.gains.get(metric)) for metric in found.metrics),
    ]


# --- the picture ----------------------------------------------------------------------------------


def _picture(
    front: Sequence[tuple[str, Place]],
    models: Sequence[ModelShown],
    found: Mapping[str, FrontPosition],
    baseline: str,
) -> str:
    lines = [
        Series(
            model_name(model),
            style_of(place, grey=model.name == baseline),
            [_point(model, found[model.arm])],
        )
        for place, model in enumerate(models)
    ]
    points = [line.points[0] for line in lines]
    ends = [end for point in points for end in point.interval or ()]
    places = [*(place for _, place in front), *((p.x, p.y) for p in points), *ends]
    cosines, hits = zip(*places, strict=True)
    chart = Chart(Axis.around(cosines, "cosine"), Axis.around(hits, "R@5"))
    marks = [chart.dots(line.style, *line.points) for line in lines]
    values = "; ".join(
        f"{_at(model_name(model), _place(model.masked))}, {_in_words(found[model.arm])}"
        for model in models
    )
    corners = "; ".join(_at(name, place) for name, place in front)
    text = f". Front, cosine and R@5: {corners}. Models: {values}."
    drawing = chart.draw(TITLE, text, _front(chart, front), *marks)
    rungs = Series("front: no training", FRONT_STYLE, ())
    return wide(drawing, *(series.entry for series in (rungs, *lines)))


def _point(model: ModelShown, found: FrontPosition) -> Point:
    """Return a model's position, with the interval of its distance drawn through it."""
    x, y = _place(model.masked)
    distance = found.distance
    low, high = (distance.lower, distance.upper) if distance else (0.0, 0.0)
    middle = distance.value if distance else 0.0
    low, high = low - middle, high - middle
    hint = f"{_at(model_name(model), (x, y))}, {found.position}"
    return Point(x, y, hint, ((x + low, y + low), (x + high, y + high)))


def _at(name: str, place: Place) -> str:
    return f"{name} {number(place[0])}, {number(place[1])}"


def _in_words(found: FrontPosition) -> str:
    if found.position == Position.NOT_EVALUABLE:
        return "not compared"
    return f"{found.position} the front, distance {interval(found.distance)}"


def _front(chart: Chart, front: Sequence[tuple[str, Place]]) -> str:
    """Draw the front, dashed to the left of its last baseline and below its first."""
    best_r, best_cosine = front[-1][1], front[0][1]
    corners = [place for _, place in front]
    edges = [((chart.x.low, best_r[1]), best_r), (best_cosine, (best_cosine[0], chart.y.low))]
    rungs = (Point(*place, _at(name, place)) for name, place in front)
    lines = (chart.line("curve", *pair) for pair in itertools.pairwise(corners))
    dashed = (chart.line("curve dashed", *edge) for edge in edges)
    line = tag("g", *dashed, *lines, class_=FRONT_STYLE.colour)
    return line + chart.dots(FRONT_STYLE, *rungs)
