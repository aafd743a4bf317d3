"""Charts of a sweep: the metric along each key, and every arm as a line through its values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from lvm.core.config.steps import LIST, Value, short_names
from lvm.core.metrics import METRICS
from lvm.core.text import number, title_of
from lvm.triage.importance import Swept, SweptArm
from lvm.views.report.charts.chart import Axis, Chart, Point
from lvm.views.report.charts.svg import Style, line_sample, tag, wide, words

BEST, OTHER = Style("c1"), Style("grey", "square")
BEST_SHARE = 4  # one arm in this many is among the best
NAMES = 48  # height below the axes for their ends and names
WORD_LENGTH = 14  # letters of a value at an axis
WIDE_RANGE = 20  # a list whose ends differ by this factor is drawn on a log scale


@dataclass(frozen=True)
class Scale:
    """The positions of a key's values on an axis."""

    axis: Axis
    words: Sequence[Value] = ()  # of a key whose values are not numbers

    def place(self, value: Value) -> float:
        """Return the position of a value on the axis."""
        if self.words:
            return float(self.words.index(value))
        assert isinstance(value, int | float)
        return float(value)


def slices(found: Swept, keys: Sequence[str], arms: Sequence[SweptArm]) -> str:
    """Return a panel per key: the metric of every arm over its value of the key."""
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
    """Return one axis per key and one for the metric, with a line per arm; the best on top."""
    metric = METRICS.get(found.sweep.metric)
    names = [*short_names(keys).values(), metric.title]
    scales = [scale_of(found, key) for key in keys]
    scales.append(Scale(Axis.around([arm.value for arm in arms])))
    chart = Chart(Axis(0, len(keys)), Axis(0, 1), left=46, right=46, bottom=NAMES)
    sign = 1 if metric.higher_is_better else -1
    ranked = sorted(arms, key=lambda arm: sign * arm.value)
    num_others = len(arms) - max(1, len(arms) // BEST_SHARE)
    axes = [
        _upright(chart, at, name, scale)
        for at, (name, scale) in enumerate(zip(names, scales, strict=True))
    ]
    lines = [_line(chart, arm, keys, scales) for arm in ranked]
    drawn = [(OTHER, lines[:num_others]), (BEST, lines[num_others:])]
    layers = [tag("g", *some, class_=style.colour) for style, some in drawn if some]
    drawing = chart.draw(f"Every arm through its keys to {metric.title}", ".", *axes, *layers)
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


def _line(chart: Chart, arm: SweptArm, keys: Sequence[str], scales: Sequence[Scale]) -> str:
    values = [*(arm.changes[key] for key in keys), arm.value]
    shares = [s.axis.share(s.place(value)) for s, value in zip(scales, values, strict=True)]
    hint = tag("title", f"{escape(arm.name)}: {number(arm.value)}")
    line = tag("polyline", class_="curve", points=chart.path(enumerate(shares)))
    return tag("g", hint, line)


def _upright(chart: Chart, at: int, name: str, scale: Scale) -> str:
    """Return an upright axis with its name below it, and its words or its two ends."""
    axis, (x, bottom) = scale.axis, chart.at(at, 0)
    texts = [words(name, x, bottom + 34, "name", anchor="middle")]
    if scale.words:
        for tick in axis.ticks:
            texts.append(words(axis.form(tick), x + 5, chart.at(at, axis.share(tick))[1] - 4))
    else:
        texts.append(words(axis.form(axis.low), x, bottom + 15, anchor="middle"))
        texts.append(words(axis.form(axis.high), x, chart.at(at, 1)[1] - 6, anchor="middle"))
    return chart.upright("grid", at) + "".join(texts)


def _decades(low: float, high: float) -> list[float]:
    """Return both ends of a logarithmic range and the powers of ten between them."""
    first, last = math.ceil(math.log10(low) + 0.2), math.floor(math.log10(high) - 0.2)
    return [low, *(10.0**power for power in range(first, last + 1)), high]


def _round(low: float, high: float) -> list[float]:
    middle = float(f"{(low + high) / 2:.3g}")
    return [low, *([middle] if low < middle < high else []), high]
