"""Orders in which the rows of a file of predictions are known to end up, and how well one fits.

An order says for every row of the file which window its prediction was made for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from lvm.audit.coherence import Level
from lvm.audit.rows_given import GivenRows, clear

MOST_SHARDS, MOST_RANKS = 256, 64
SHARD_SIZES = (50, 64, 100, 128, 200, 250, 256, 500, 512, 1000, 1024, 2000, 2048, 4096, 5000, 10000)
SCREENED, SCREEN_ERRORS = 512, 2.0  # rows on which an order is tried first
SHARE = 0.5  # of what the moved rows have with their windows, that they have not with their own


@dataclass(frozen=True, eq=False)
class Order:
    """One way to mix up rows: `windows[i]` is the window whose prediction stands in row i."""

    words: str
    windows: Int[np.ndarray, " M"]

    @property
    def pieces(self) -> list[tuple[int, int, int]]:
        """Stretches of rows that moved together, (first row, last row, window of the first)."""
        ends = np.flatnonzero(np.diff(self.windows) != 1)
        starts = np.concatenate([[0], ends + 1])
        lasts = np.concatenate([ends, [len(self.windows) - 1]])
        return [(int(a), int(b), int(self.windows[a])) for a, b in zip(starts, lasts, strict=True)]


@dataclass(frozen=True, eq=False)
class Fit:
    """An order, and what rows have with the windows that it names beyond those of their place."""

    order: Order
    gain: Level
    there: float  # with the named windows, beyond those of another article
    moved: int  # rows of the file that stand elsewhere

    @property
    def score(self) -> float:
        """What the order explains in all."""
        return self.gain.value * self.moved


def known_orders(total: int) -> Iterator[Order]:
    """Yield the orders that joining the parts of M predictions brings about."""
    rows = np.arange(total)
    seen: set[bytes] = set()
    sizes = {-(-total // count) for count in range(11, MOST_SHARDS + 1)} | set(SHARD_SIZES)
    for size in sorted(size for size in sizes if total / size > 10):
        parts = [rows[start : start + size] for start in range(0, total, size)]
        yield from _by_name(parts, seen)
    for count in range(11, min(MOST_SHARDS, total // 2) + 1):
        yield from _by_name(np.array_split(rows, count), seen)
    for ranks in range(2, min(MOST_RANKS, total // 2) + 1):
        dealt = np.concatenate([rows[rank::ranks] for rank in range(ranks)])
        yield Order(f"rows distributed over {ranks} workers and joined worker by worker", dealt)
        yield Order(f"{ranks} parts joined row by row in turn", np.argsort(dealt))
    yield Order("rows in reverse order", rows[::-1].copy())


def _by_name(parts: list[np.ndarray], seen: set[bytes]) -> Iterator[Order]:
    """Yield parts in the order of their names, 0, 1, 10, 11, ..., unless it was seen before."""
    names = sorted(range(len(parts)), key=str)
    windows = np.concatenate([parts[name] for name in names])
    mark = windows.tobytes()
    if names != sorted(names) and mark not in seen:
        seen.add(mark)
        yield Order(
            f"{len(parts)} shards joined in the order of their names (0, 1, 10, ...)", windows
        )


def rolled(total: int, by: int) -> Order:
    """Return the order in which row i holds the prediction of window i + `by`, around the end."""
    words = f"rows shifted by {abs(by)}, row i holding that of window i {'+-'[by < 0]} {abs(by)}"
    return Order(words, (np.arange(total) + by) % total)


def best_order(given: GivenRows, orders: Iterable[Order]) -> Fit | None:
    """Return the order that explains the rows far better than their places do, or None.

    Only rows whose two windows are of two articles count: within an article a prediction may well
    resemble another window more than its own.
    """
    fits = []
    for order in orders:
        rough = _fit(given, order, SCREENED)
        fit = rough and rough.gain.z > SCREEN_ERRORS and _fit(given, order, len(given.rows))
        if fit and clear(fit.gain) and fit.gain.value >= SHARE * fit.there > 0:
            fits.append(fit)
    return max(fits, key=lambda fit: fit.score, default=None)


def _fit(given: GivenRows, order: Order, most: int) -> Fit | None:
    """Return how well an order fits up to `most` rows, by the channel that tells it best.

    None where it moves next to nothing, or the other channel contradicts it.
    """
    there = given.at(order.windows[given.rows])
    moved = np.flatnonzero(there >= 0)
    moved = moved[given.articles[there[moved]] != given.articles[moved]]
    if len(moved) < max(10, len(given.rows) // 100):
        return None
    moved = moved[np.linspace(0, len(moved) - 1, min(most, len(moved))).astype(int)]
    if len(np.unique(given.articles[moved])) < 3:
        return None
    named = given.fits(moved, there[moved])
    gains = [given.of(gain, moved) for gain in named - given.own_fits[:, moved]]
    if any(gain.above(3) < 0 for gain in gains):  # say: the eval side is what moved
        return None
    best = max(range(len(gains)), key=lambda channel: gains[channel].z)
    return Fit(
        order,
        gains[best],
        float((named - given.fits_by_chance[:, moved])[best].mean()),
        int((order.windows != np.arange(given.total)).sum()),
    )
