"""Charts of the audit, one panel each, with a sentence on how to read it and what it shows.

Train is the dashed grey line that eval is compared to; a bar is two standard errors to each side.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from html import escape

from lvm.audit.document import Coherence, Histogram, Plots, Profile
from lvm.core.text import counted, number
from lvm.views.report.charts.chart import Axis, Chart, Point, Series, percent
from lvm.views.report.charts.svg import Style, legend, line_sample, swatch, tag, words
from lvm.views.report.plot_words import (
    BLOCKS,
    LINES,
    RIGHT_OFFSET,
    Points,
    block_name,
    blocks_reading,
    histogram_reading,
    histograms,
    known_blocks,
    line_plots,
    line_reading,
    profiles,
)

NUM_ERRORS = 2.0  # length of an error bar to each side
STYLES = {"train": Style("grey", "square", dashed=True), "eval": Style("c1")}
OTHER_SIDE = Style("c2", "diamond")
UNMARKED = line_sample(STYLES["train"], marked=False)


def panels(plots: Plots) -> str:
    """Return every plot that has numbers, as one group of panels; "" without any."""
    charts = [
        *(
            _profile(name, profiles(plots, name), lines)
            for name, lines in line_plots(plots).items()
        ),
        *([_blocks(part)] if (part := plots.coherence_blocks) and known_blocks(part) else []),
        *(draw_histogram(*item) for item in histograms(plots)),
    ]
    return tag("div", *charts, class_="panels") if charts else ""


def _panel(drawing: str, entries: Iterable[tuple[str, str]], reading: str) -> str:
    note = tag("p", escape(reading), class_="note")
    return tag("div", drawing, legend(*entries), note, class_="panel")


def _profile(name: str, sides: Mapping[str, Profile], lines: Mapping[str, Points]) -> str:
    """Draw one line per side."""
    title, x_title = LINES[name]
    all_series = [
        Series(
            _side(side, sides[side].windows),
            STYLES.get(side, OTHER_SIDE),
            [_point(x, y, error, f"{side}, {x}") for x, y, error in points],
        )
        for side, points in lines.items()
    ]
    places = sorted({point.x for series in all_series for point in series.points})
    margin = 0.0 if len(places) > 1 else 0.5
    x = Axis(places[0] - margin, places[-1] + margin, x_title, places)
    chart = Chart(x, _levels((p for series in all_series for p in series.points), "cosine"))
    guide = ""
    if name == "offset_sweep":
        middle, top = chart.at(RIGHT_OFFSET, chart.y.high)
        guide = chart.upright("rung", RIGHT_OFFSET)
        guide += words("the chunk before", middle, top - 6, "rung", anchor="middle")
    values = "; ".join(
        f"{side}: " + ", ".join(f"{x} {number(y)}" for x, y, _ in points)
        for side, points in lines.items()
    )
    curves = [chart.curve(series) for series in all_series]
    drawing = chart.draw(title, f", cosine by {x_title}. {values}.", guide, *curves)
    return _panel(drawing, (series.entry for series in all_series), line_reading(name, lines))


def _side(side: str, windows: int | None) -> str:
    return side if windows is None else f"{side}, {counted(windows, 'window')}"


def _point(x: float, y: float, error: float, name: str) -> Point:
    reach = NUM_ERRORS * error
    return Point(x, y, f"{name}: {number(y)}", ((x, y - reach), (x, y + reach)))


def _levels(points: Iterable[Point], title: str, limits: Sequence[float] = ()) -> Axis:
    """Return a y axis that holds all points with their bars, and zero."""
    ends = [end[1] for point in points for end in point.interval or ()]
    return Axis.around([0.0, 0.05, *ends, *limits], title)


def _blocks(part: Coherence) -> str:
    """Draw one mark per block of eval articles over the band of the train side."""
    blocks, train = known_blocks(part), part.train.near if part.train else None
    limits = [limit for limit in (part.low, part.high) if limit is not None]
    points = [_point(i, near, b.error or 0.0, block_name(b, part)) for i, b, near in blocks]
    last = blocks[-1][0]
    ticks = range(1, last + 1, math.ceil(last / 8))
    x = Axis(0.5, last + 0.5, "block of articles, by id", ticks)
    chart = Chart(x, _levels(points, "cosine above random", limits))
    layers, entries = [], [(line_sample(STYLES["eval"], lined=False), "block of eval articles")]
    if train is not None:
        layers.append(tag("g", chart.across(STYLES["train"].line, train), class_="grey"))
        entries.append((UNMARKED, f"train {number(train)}"))
    if len(limits) == 2:
        layers.insert(0, chart.band(*limits))
        entries.append((swatch("band"), "train ±20%"))
    marks = chart.dots(STYLES["eval"], *points)
    level = f" Train level {number(train)}." if train is not None else ""
    values = "; ".join(point.hint for point in points)
    drawing = chart.draw(BLOCKS, f". {values}.{level}", *layers, marks)
    return _panel(drawing, entries, blocks_reading(part))


def draw_histogram(title: str, part: Histogram) -> str:
    """Draw own targets as an area, those of other articles as a dashed outline."""
    edges, paired, shuffled = part.edges, part.paired, part.shuffled
    x = Axis(edges[0], edges[-1], "cosine", Axis.around([edges[0], edges[-1]]).ticks)
    y = Axis.around([0.0, 0.01, *(v or 0.0 for v in (*paired, *shuffled))], "share of windows")
    chart = Chart(x, replace(y, form=percent))
    area = tag("polygon", class_="area c1", points=chart.steps(edges, paired))
    outline = tag("polyline", class_="curve dashed grey", points=chart.steps(edges, shuffled))
    entries = (
        (swatch("area"), f"own target, mean {number(part.paired_mean)}"),
        (UNMARKED, f"target of another article, mean {number(part.shuffled_mean)}"),
    )
    means = f", histogram of cosines. {entries[0][1]}; {entries[1][1]}."
    return _panel(chart.draw(title, means, area, outline), entries, histogram_reading(part))
