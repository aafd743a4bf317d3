"""Where values lie on an axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


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
    def around(cls, values: Iterable[float], title: str = "") -> Axis:
        """Return an axis with round ends that holds all values."""
        known = list(values)
        ticks = round_ticks(min(known), max(known))
        return cls(ticks[0], ticks[-1], title, ticks)

    def share(self, value: float) -> float:
        """Return how far along the axis a value lies: 0 at `low`, 1 at `high`."""
        if self.log:
            value, low, high = math.log10(value), math.log10(self.low), math.log10(self.high)
        else:
            low, high = self.low, self.high
        return (value - low) / ((high - low) or 1.0)


def round_ticks(low: float, high: float) -> list[float]:
    """Return round values that enclose low and high, about five of them."""
    step = 10 ** math.floor(math.log10(max(high - low, 1e-9) / 4))
    step *= next(m for m in (1, 2, 2.5, 5, 10) if (high - low) / (step * m) <= 6)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]
