"""A chart: two axes, and what can be drawn on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

from lvm.core.text import number
from lvm.views.report.charts.svg import Style, line_sample, marker, tag, words

WIDTH, HEIGHT = 456, 250  # in units of the drawing
IN_ROW = 0.6  # height of a value in its row, below the name
Place = tuple[float, float]  # values on both axes


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high`, some of them marked."""

    low: float
    high: float
    title: str = ""
    ticks: Sequence[float] = ()
    form: Callable[[float], str] = "{:g}".format  # of the ticks
    log: bool = False

    @classmethod
    def around(cls, values: Collection[float], title: str = "") -> Axis:
        """Return an axis with round ends that holds all values."""
        ticks = round_ticks(min(values), max(values))
        return cls(ticks[0], ticks[-1], title, ticks)

    def share(self, value: float) -> float:
        """Return the position of a value on the axis: 0 at `low`, 1 at `high`."""
        if self.log:
            value, low, high = math.log10(value), math.log10(self.low), math.log10(self.high)
        else:
            low, high = self.low, self.high
        return (value - low) / ((high - low) or 1.0)


def percent(share: float) -> str:
    """Return a share as the label of a tick."""
    return f"{100 * share:g}%"


def round_ticks(low: float, high: float) -> list[float]:
    """Return round values that enclose low and high, about five of them."""
    step = 10 ** math.floor(math.log10(max(high - low, 1e-9) / 4))
    step *= next(m for m in (1, 2, 2.5, 5, 10) if (high - low) / (step * m) <= 6)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


class Point(NamedTuple):
    """One value of a series, with the ends of its interval if it has one."""

    x: float
    y: float
    hint: str = ""  # tooltip
    interval: tuple[Place, Place] | None = None


class Series(NamedTuple):
    """Points that belong together."""

    name: str
    style: Style
    points: Sequence[Point]

    @property
    def entry(self) -> tuple[str, str]:
        """Its entry in a legend."""
        return line_sample(self.style), self.name


@dataclass(frozen=True)
class Chart:
    """The area between two axes; its methods take values and return markup."""

    x: Axis
    y: Axis
    height: int = HEIGHT
    left: int = 46
    right: int = 16
    top: int = 24
    bottom: int = 40
    x_grid: bool = False

    def at(self, x: float, y: float) -> Place:
        """Return the position of two values in the drawing."""
        width, height = WIDTH - self.left - self.right, self.height - self.top - self.bottom
        return self.left + width * self.x.share(x), self.top + height * (1 - self.y.share(y))

    def path(self, places: Iterable[Place]) -> str:
        """Return the points of a line."""
        return " ".join("{:.1f},{:.1f}".format(*self.at(*place)) for place in places)

    def line(self, kind: str, first: Place, last: Place) -> str:
        """Return a straight line."""
        (x1, y1), (x2, y2) = self.at(*first), self.at(*last)
        return tag("line", class_=kind, x1=x1, y1=y1, x2=x2, y2=y2)

    def across(self, kind: str, y: float) -> str:
        """Return a horizontal line through the whole chart."""
        return self.line(kind, (self.x.low, y), (self.x.high, y))

    def upright(self, kind: str, x: float) -> str:
        """Return a vertical line through the whole chart."""
        return self.line(kind, (x, self.y.low), (x, self.y.high))

    def dots(self, style: Style, *points: Point) -> str:
        """Return points with their intervals."""
        return tag("g", *(self._dot(style, point) for point in points), class_=style.colour)

    def _dot(self, style: Style, point: Point, size: float = 3.5) -> str:
        bar = self.line("whisker", *point.interval) if point.interval else ""
        mark = marker(style.marker, *self.at(point.x, point.y), size)
        return tag("g", tag("title", escape(point.hint)), bar, mark)

    def curve(self, series: Series, size: float = 3.5, end: float = 3.5) -> str:
        """Return the points on the axis, joined by a line; the last marker has its own size."""
        style, points = series.style, [p for p in series.points if p.x <= self.x.high]
        path = self.path((point.x, point.y) for point in points)
        line = tag("polyline", class_=style.line, points=path)
        marks = [self._dot(style, point, size) for point in points[:-1]]
        marks += [self._dot(style, point, end) for point in points[-1:]]
        return tag("g", line, *marks, class_=style.colour)

    def levels(self, levels: Iterable[tuple[str, str, float]]) -> str:
        """Return horizontal lines (kind, name, value), named on the right without overlap."""
        parts, above = [], math.inf
        for kind, name, value in sorted(levels, key=lambda level: level[2]):
            x, y = self.at(self.x.high, value)
            above = min(y + 4, above - 13)
            parts.append(self.across(kind, value))
            parts.append(words(f"{name} {number(value)}", x + 6, above, kind))
        return "".join(parts)

    def band(self, low: float, high: float) -> str:
        """Return an area between two heights."""
        (left, top), (right, bottom) = self.at(self.x.low, high), self.at(self.x.high, low)
        height = max(1.0, bottom - top)
        return tag("rect", class_="band", x=left, y=top, width=right - left, height=height)

    def steps(self, edges: Sequence[float], heights: Sequence[float | None]) -> str:
        """Return the outline of a histogram as the points of a line."""
        places = [(edges[0], 0.0)]
        for i, height in enumerate(heights):
            places += [(edges[i], height or 0.0), (edges[i + 1], height or 0.0)]
        return self.path([*places, (edges[-1], 0.0)])

    # --- rows: a y axis of names, Axis(num_rows, 0) -----------------------------------------------

    def row_name(self, row: int, name: str) -> str:
        """Return the name of a row, above its marks."""
        return words(name, 0, self.at(self.x.low, row)[1] + 11, "name")

    def bar(self, kind: str, row: int, value: float) -> str:
        """Return a horizontal bar with its number; a value below the axis has no length."""
        (left, y), (right, _) = (self.at(v, row + IN_ROW) for v in (self.x.low, max(0.0, value)))
        width = max(1.0, right - left)
        bar = tag("rect", class_=f"bar {kind}", x=left, y=y - 4.5, width=width, height=9, rx=2)
        return bar + words(number(value), right + 6, y + 4.5)

    # --- the whole ------------------------------------------------------------------------------

    def draw(self, title: str, values: str, *layers: str) -> str:
        """Return the drawing under its title; its text alternative is the title and the values."""
        svg = tag(
            "svg",
            *self._y_axis(),
            *self._x_axis(),
            *layers,
            viewBox=f"0 0 {WIDTH} {self.height}",
            role="img",
            aria_label=f"{title}{values}",
        )
        return tag("div", tag("p", escape(title), class_="plot-title"), svg, class_="plot")

    def _y_axis(self) -> Iterable[str]:
        for tick in self.y.ticks:
            yield self.across("grid", tick)
            x, y = self.at(self.x.low, tick)
            yield words(self.y.form(tick), x - 6, y + 4, anchor="end")
        if self.y.title:
            yield words(self.y.title, 0, 12)

    def _x_axis(self) -> Iterable[str]:
        for tick in (t for t in self.x.ticks if self.x.low <= t <= self.x.high):
            if self.x_grid:
                yield self.upright("grid", tick)
            x, y = self.at(tick, self.y.low)
            yield words(self.x.form(tick), x, y + 18, anchor="middle")
        if self.x.title:
            middle = (self.left + WIDTH - self.right) / 2
            yield words(self.x.title, middle, self.height - 4, anchor="middle")
