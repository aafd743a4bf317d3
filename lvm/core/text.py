"""Values as text for people."""

from __future__ import annotations

import math
from typing import Protocol

from lvm.core.metrics import METRICS
from lvm.core.records import GateResult

NONE = "–"  # a value that does not exist


def number(value: float | None, digits: int = 3, *, sign: bool = False) -> str:
    """Return a rounded number, or a dash for a value that does not exist."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:+,.{digits}f}" if sign else f"{value:,.{digits}f}"


class Interval(Protocol):
    """A value between two limits."""

    @property
    def value(self) -> float:
        """What was found."""

    @property
    def lower(self) -> float:
        """The lower limit."""

    @property
    def upper(self) -> float:
        """The upper limit."""


def interval(estimate: Interval | None, *, sign: bool = True) -> str:
    """Return a value with its interval, or a dash for an estimate that does not exist."""
    if estimate is None:
        return NONE
    limits = (estimate.value, estimate.lower, estimate.upper)
    value, low, high = (number(limit, sign=sign) for limit in limits)
    return f"{value} [{low}, {high}]"


def estimate(gate: GateResult) -> str:
    """Return value and interval of a gate, with signs where the value is a difference."""
    return interval(gate.estimate, sign=gate.gate != "stage")


def title_of(metric: str) -> str:
    """Return how a metric is written in a heading."""
    return METRICS.get(metric).title if metric in METRICS.names() else metric


def seconds(value: float) -> str:
    """Return seconds, with minutes when there are many."""
    minutes, rest = divmod(round(value), 60)
    return f"{value:,.1f} s" + (f" ({minutes} min {rest} s)" if minutes >= 2 else "")


def counted(count: int, word: str) -> str:
    """Return a count with its word, plural where it needs one."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def one_line(text: str) -> str:
    """Return text with every run of white space as one space."""
    return " ".join(text.split())
