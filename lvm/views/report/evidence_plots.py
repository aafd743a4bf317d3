"""Charts of the rank of the target, and of the distribution of cosines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from lvm.audit.document import Histogram
from lvm.core.text import number
from lvm.triage.events import TestJudged
from lvm.triage.events.evidence import EvidenceTold, SpaceTold
from lvm.views.report import Run
from lvm.views.report.charts.chart import Axis, Chart, Point, Series, percent
from lvm.views.report.charts.svg import Style, style_of, tag, wide, words
from lvm.views.report.models import model_name
from lvm.views.report.small_plots import draw_histogram

RUNG_METRICS = {1: "r_at_1", 5: "r_at_5", 10: "r_at_10", 50: "contain_at_50"}
NAMED = (1, 5, 10, 50, 100, 1000)  # ranks that the text alternative names
Judged = tuple[TestJudged, EvidenceTold]
QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)


# --- ranks ----------------------------------------------------------------------------------------


def reach(run: Run, judged: Sequence[Judged]) -> str:
    """Return one curve per model over k on a log scale, with the best baseline and chance."""
    size = judged[0][0].evaluation.pool.size
    lines = [_model_line(run, *one, place) for place, one in enumerate(judged)]
    lines += _rung_line(run)
    chart = reach_chart(size)
    values = "; ".join(f"{line.name}: {_in_words(line)}" for line in lines)
    plot = chart.draw(
        "True next chunk among the first k, test split",
        f". {values}. Chance is k of {size:,}.",
        _chance(chart, size, judged[0][1].reach.k),
        *map(chart.curve, lines),
    )
    return wide(plot, *(line.entry for line in lines))


def reach_chart(size: int) -> Chart:
    """Return axes for shares of windows over ranks in a pool of `size` rows."""
    powers = [10**power for power in range(int(math.log10(size)) + 1)]
    ranks = Axis(1, size, "k, rows retrieved (log scale)", powers, "{:,}".format, log=True)
    return Chart(ranks, Axis(0, 1, "", QUARTERS, percent), top=12, x_grid=True)


def _model_line(run: Run, event: TestJudged, evidence: EvidenceTold, place: int) -> Series:
    found = evidence.reach
    grey = event.name == run.baseline
    name = f"{model_name(event)}, {event.evaluation.space} space"
    points = zip(found.k, found.share, strict=True)
    return _series(name, style_of(place, grey=grey, dashed=grey), points)


def _rung_line(run: Run) -> list[Series]:
    """Return the best untrained baseline, at the ranks where it was measured."""
    best = next(iter(run.ladder("test", "r_at_5")), None)
    if best is None:
        return []
    masked = run.rungs("test")[best].masked
    points = ((k, v) for k, m in RUNG_METRICS.items() if (v := masked.get(m)) is not None)
    return [_series(f"ladder: {best}", Style("ladder", "diamond", dashed=True), points)]


def _series(name: str, style: Style, shares: Iterable[tuple[int, float]]) -> Series:
    points = [Point(k, share, f"{name}, first {k:,}: {number(share)}") for k, share in shares]
    return Series(name, style, points)


def _chance(chart: Chart, size: int, places: Sequence[int]) -> str:
    path = chart.path((k, k / size) for k in places if k <= size)
    x, y = chart.at(max(1.0, size / 8), 0.02)
    line = tag("polyline", class_="rung", fill="none", points=path)
    return line + words("chance", x, y, "rung", anchor="end")


def _in_words(line: Series) -> str:
    return ", ".join(f"{number(p.y)} within {p.x:,}" for p in line.points if p.x in NAMED)


# --- cosines --------------------------------------------------------------------------------------


def cosines(shown: Sequence[Judged], judged: Sequence[Judged]) -> str:
    """Return one histogram per space of the models shown; the axis holds all judged models."""
    every = [s for _, evidence in judged for s in evidence.spaces.values() if s.paired]
    width = max([space.width for space in every], default=1.0)
    first = min([math.floor(_bin(space.low, width)) for space in every], default=0)
    last = max([math.ceil(_bin(_high(space), width)) for space in every], default=1)
    panels = [
        draw_histogram(_title(event, name), _on_grid(space, width, first, last))
        for event, evidence in shown
        for name, space in evidence.spaces.items()
        if space.paired
    ]
    return tag("div", *panels, class_="panels")


def _title(event: TestJudged, space: str) -> str:
    searched = ", searched" if space == event.evaluation.space else ""
    return f"{model_name(event)}, {space} space{searched}"


def _high(space: SpaceTold) -> float:
    return space.low + space.width * len(space.paired)


def _bin(cosine: float, width: float) -> float:
    return round(cosine / width, 6)  # ignores rounding errors at the edges


def _on_grid(space: SpaceTold, width: float, first: int, last: int) -> Histogram:
    """Return a histogram over bins `first` to `last` of a width that is a multiple of its own."""

    def shares(found: Sequence[float]) -> list[float | None]:
        sums = [0.0] * (last - first)
        for i, share in enumerate(found):
            place = math.floor(_bin(space.low + i * space.width, width))
            sums[place - first] += share
        return [*sums]

    return Histogram(
        edges=[round(i * width, 4) for i in range(first, last + 1)],
        paired=shares(space.paired),
        shuffled=shares(space.shuffled),
        paired_mean=space.paired_mean,
        shuffled_mean=space.shuffled_mean,
    )
