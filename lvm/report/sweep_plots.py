"""Pictures of a sweep: the metric along each key, and every arm as a line through its values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from lvm.config.steps import LIST, Value
from lvm.metrics import METRICS
from lvm.report.charts.chart import Axis, Chart, Point
from lvm.report.charts.svg import Style, line_sample, tag, wide, words
from lvm.text import number, title_of
from lvm.triage.importance import Swept, SweptArm

BEST, OTHER = Style("c1"), Style("grey", "square")
BEST_SHARE = 4  # one arm in so many is among the best
WORD_LENGTH = 14  # letters of a value at an axis
WIDE_RANGE = 20  # a list whose ends lie so far apart is drawn on a log scale


@dataclass(frozen=True)
class Scale:
    """Where the values of a key lie along an axis."""

    axis: Axis
    words: Sequence[Value] = ()  # of a key whose values are no numbers

    def place(self, value: Value) -> float:
        """Return the value as the axis has it."""
        if self.words:
            return float(self.words.index(value))
        assert isinstance(value, int | float)
        return float(value)


def slices(found: Swept, keys: Sequence[str], arms: Sequence[SweptArm]) -> str:
    """Return a panel per key: what every arm reached over its value of the key."""
    y = Axis.around([arm.value for arm in arms], title_of(found.sweep.metric))
    panels = []
    for key in keys:
        scale = scale_of(found, key)
        chart = Chart(scale.axis, y)
        points = [
            Point(scale.place(a.changes[key]), a.value, f"{a.name}: {number(a.value)}")
            for a in arms
        ]
        title = f"{y.title} over {key}"
        panels.append(chart.draw(title, f", {len(arms)} arms.", chart.dots(BEST, *points)))
    return tag("div", *panels, class_="panels")


def parallel(found: Swept, keys: Sequence[str], arms: Sequence[SweptArm]) -> str:
    """Return one axis per key and one of the metric, with a line per arm; the best on top."""
    metric = found.sweep.metric
    scales = [scale_of(found, key) for key in keys]
    last = Axis.around([arm.value for arm in arms], title_of(metric))
    names = [*(_short(key) for key in keys), last.title]
    x = Axis(0, len(keys), "", range(len(names)), form=lambda place: names[int(place)])
    chart = Chart(x, Axis(0, 1), left=46, right=46)
    sign = 1 if METRICS.get(metric).higher_is_better else -1
    ranked = sorted(arms, key=lambda arm: sign * arm.value)
    num_best = max(1, len(arms) // BEST_SHARE)
    lines = [_line(chart, arm, keys, scales, last) for arm in ranked]
    layers = [
        *(
            chart.upright("grid", place) + _ends(chart, place, axis)
            for place, axis in enumerate([*(scale.axis for scale in scales), last])
        ),
        tag("g", *lines[:-num_best], class_=OTHER.colour) if lines[:-num_best] else "",
        tag("g", *lines[-num_best:], class_=BEST.colour),
    ]
    drawing = chart.draw(f"Every arm through its keys to {last.title}", ".", *layers)
    entries = [(line_sample(BEST, marked=False), "the best quarter of the arms")]
    return wide(drawing, *entries, (line_sample(OTHER, marked=False), "the others"))


def scale_of(found: Swept, key: str) -> Scale:
    """Return the scale of a key: by its bounds, or over the numbers or words of its list."""
    values = found.sweep.keys[key]
    if values.kind != LIST:
        log = values.kind == "log_uniform"
        ticks = _decades(values.low, values.high) if log else _round(values.low, values.high)
        return Scale(Axis(values.low, values.high, key, ticks, log=log))
    listed = values.values
    numbers = [v for v in listed if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) == len(listed) > 1:
        low, high = min(numbers), max(numbers)
        log = low > 0 and high / low >= WIDE_RANGE
        return Scale(Axis(low, high, key, sorted(numbers), log=log))
    texts = [str(value)[:WORD_LENGTH] for value in listed]
    axis = Axis(-0.5, len(listed) - 0.5, key, range(len(listed)), form=lambda i: texts[int(i)])
    return Scale(axis, listed)


def _line(
    chart: Chart, arm: SweptArm, keys: Sequence[str], scales: Sequence[Scale], last: Axis
) -> str:
    shares = [s.axis.share(s.place(arm.changes[k])) for k, s in zip(keys, scales, strict=True)]
    path = chart.path(enumerate([*shares, last.share(arm.value)]))
    hint = tag("title", f"{escape(arm.name)}: {number(arm.value)}")
    return tag("g", hint, tag("polyline", class_="curve", points=path))


def _ends(chart: Chart, place: int, axis: Axis) -> str:
    """Return the lowest and the highest value of an upright axis."""
    x, top = chart.at(place, 1)
    bottom = chart.at(place, 0)[1]
    low, high = (axis.form(axis.ticks[i]) if axis.ticks else "" for i in (0, -1))
    return words(high, x, top - 6, anchor="middle") + words(low, x, bottom - 4, anchor="middle")


def _short(key: str) -> str:
    return key.rpartition(".")[2]


def _decades(low: float, high: float) -> list[float]:
    """Return both ends of a logarithmic range and the powers of ten between them."""
    first, last = math.ceil(math.log10(low) + 0.2), math.floor(math.log10(high) - 0.2)
    return [low, *(10.0**power for power in range(first, last + 1)), high]


def _round(low: float, high: float) -> list[float]:
    middle = float(f"{(low + high) / 2:.3g}")
    return [low, *([middle] if low < middle < high else []), high]
