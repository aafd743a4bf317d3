"""The chart layer: where values lie, what is drawn for them, and that nothing escapes unescaped."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from lvm.views.report.charts.chart import Axis, Chart, Point, Series, round_ticks
from lvm.views.report.charts.svg import (
    MARKERS,
    NUM_COLOURS,
    Style,
    legend,
    style_of,
    swatch,
    tag,
    words,
)

CHART = Chart(Axis(0, 10, "epoch", (0, 5, 10)), Axis(0.0, 1.0, "cosine", (0.0, 0.5, 1.0)))


def parsed(*parts: str) -> ElementTree.Element:
    return ElementTree.fromstring(tag("g", *parts))


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.1), (-0.03, 0.56), (0.0, 1.0), (0.0, 1e-6)])
def test_ticks_enclose_the_values(low, high) -> None:
    ticks = round_ticks(low, high)
    assert ticks[0] <= low + 1e-9
    assert ticks[-1] >= high - 1e-9
    assert 2 <= len(ticks) <= 9
    assert len(set(ticks)) == len(ticks)


@pytest.mark.parametrize("log", [False, True])
def test_an_axis_of_one_value_can_be_drawn(log) -> None:
    assert Axis(1, 1, log=log).share(1) == 0.0


def test_decades_of_a_log_axis_are_equally_far_apart() -> None:
    axis = Axis(1, 1000, log=True)
    assert [axis.share(k) for k in (1, 10, 100, 1000)] == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_the_ends_of_both_axes_are_the_corners_of_the_chart() -> None:
    left, bottom = CHART.at(0, 0.0)
    right, top = CHART.at(10, 1.0)
    assert (left, top) == (CHART.left, CHART.top)
    assert bottom == CHART.height - CHART.bottom
    assert left < right < 456


def test_rows_run_downwards() -> None:
    rows = Chart(Axis(0, 1), Axis(3, 0))
    assert [rows.at(0, row)[1] for row in range(4)] == sorted(
        rows.at(0, row)[1] for row in range(4)
    )
    bars = parsed(rows.bar("model", 0, 0.5), rows.bar("model", 1, -0.5), rows.bar("model", 2, 1.0))
    widths = [float(bar.get("width")) for bar in bars.iter("rect")]
    assert widths[1] == 1.0  # a value below zero has a number and no length
    assert widths[2] == pytest.approx(2 * widths[0], abs=0.2)
    assert [text.text for text in bars.iter("text")] == ["0.500", "-0.500", "1.000"]


def test_what_comes_from_outside_is_escaped() -> None:
    evil = '"><script>&'
    drawn = CHART.draw(evil, evil, words(evil, 0, 0), CHART.levels([("rung", evil, 0.5)]))
    drawn += CHART.dots(Style("c1"), Point(1, 0.5, evil)) + CHART.row_name(0, evil)
    drawn += legend((swatch("model"), evil))
    assert "<script" not in drawn
    assert evil in "".join(parsed(drawn).itertext())
    assert next(parsed(drawn).iter("svg")).get("aria-label") == evil + evil


def test_a_drawing_is_an_image_with_words_and_both_axes() -> None:
    svg = next(parsed(CHART.draw("A title", ", said aloud.")).iter("svg"))
    assert (svg.get("role"), svg.get("aria-label")) == ("img", "A title, said aloud.")
    texts = [text.text for text in svg.iter("text")]
    assert texts == ["0", "0.5", "1", "cosine", "0", "5", "10", "epoch"]
    assert len(list(svg.iter("line"))) == 3  # the grid of the y axis


def test_a_tick_outside_the_axis_is_not_drawn() -> None:
    chart = Chart(Axis(0.1, 0.9, ticks=(0.0, 0.5, 1.0)), CHART.y)
    texts = [text.text for text in parsed(chart.draw("", "")).iter("text")]
    assert texts == ["0", "0.5", "1", "cosine", "0.5"]


def test_a_curve_has_a_marker_per_point_and_a_larger_one_at_its_end() -> None:
    points = [Point(x, x / 10, f"epoch {x}") for x in range(4)]
    curve = parsed(CHART.curve(Series("one", Style("c1"), points), size=2.5, end=4.5))
    assert [mark.get("r") for mark in curve.iter("circle")] == ["2.5", "2.5", "2.5", "4.5"]
    assert [title.text for title in curve.iter("title")] == [point.hint for point in points]
    assert next(curve.iter("polyline")).get("points") == CHART.path((p.x, p.y) for p in points)


def test_a_point_beyond_the_axis_is_not_drawn() -> None:
    points = [Point(5, 0.5, "on it"), Point(50, 0.5, "beyond")]
    curve = parsed(CHART.curve(Series("one", Style("c1"), points)))
    assert [title.text for title in curve.iter("title")] == ["on it"]
    assert len(next(curve.iter("polyline")).get("points").split()) == 1


def test_the_interval_of_a_point_is_a_bar_through_it() -> None:
    point = Point(5, 0.5, "", ((5, 0.4), (5, 0.6)))
    (bar,) = parsed(CHART.dots(Style("c1"), point)).iter("line")
    x, y = CHART.at(5, 0.5)
    assert float(bar.get("x1")) == float(bar.get("x2")) == pytest.approx(x, abs=0.06)
    assert float(bar.get("y2")) < y < float(bar.get("y1"))


def test_names_of_levels_that_meet_are_pushed_apart() -> None:
    levels = [("rung", name, 0.5 + i / 1000) for i, name in enumerate(("low", "middle", "high"))]
    texts = {text.text.split()[0]: text for text in parsed(CHART.levels(levels)).iter("text")}
    heights = [float(texts[name].get("y")) for name in ("high", "middle", "low")]
    assert heights[1] - heights[0] >= 12.9
    assert heights[2] - heights[1] >= 12.9


def test_the_outline_of_a_histogram_begins_and_ends_on_the_axis() -> None:
    points = CHART.steps([0, 5, 10], [0.5, None]).split()
    ground = f"{CHART.at(0, 0.0)[1]:.1f}"
    assert points[0].endswith(f",{ground}")
    assert points[-1].endswith(f",{ground}")
    assert len(points) == 6


def test_styles_differ_in_marker_as_well_as_in_colour() -> None:
    styles = [style_of(place) for place in range(NUM_COLOURS * len(MARKERS))]
    assert len({(style.colour, style.marker) for style in styles}) == len(styles)
    assert style_of(3, grey=True).colour == "grey"


def test_attributes_are_named_as_in_svg() -> None:
    assert tag("rect", class_="bar", x=1, y=2.04) == '<rect class="bar" x="1" y="2.0"/>'
    assert tag("text", "a", text_anchor="end", class_="") == '<text text-anchor="end">a</text>'
    assert re.fullmatch(r'<span class="swatch band"></span>', swatch("band"))
