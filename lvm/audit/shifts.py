"""Which window did a prediction read: its own, one a few rows on, or one by an order with a name?

No model is known here, so none is assumed: a linear map is fitted from the contexts of window
i + s to prediction i, for each shift s, and tried on articles that it was not fitted on. Whatever a
model does, its output follows the window that it read more closely than one that lacks the newest
chunk of it, or holds a newer one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from lvm.audit.coherence import Level
from lvm.audit.rows_given import GivenRows, clear

SHIFTS = (-1, 1, -2, 2, -3, 3, -4, 4)
OF_A_PART = SHIFTS[:4]  # what a row that was skipped or written twice does to the rows behind it
COLUMNS = 160  # of the contexts that a map reads: their largest axes, as many in every slot
AXES = 32  # of predictions and targets
PENALTY = 0.01  # of the mean diagonal
MIN_ROWS, MIN_ARTICLES = 150, 6  # of a part of the file that is looked at alone
CLEARLY = 0.9  # of what the own window leaves unexplained: less is a better account
AHEAD = 0.8  # likewise for a window further on, which holds more of what the target shares
NO_WORSE = 1.02
FOLLOWS = (0.2, 0.3)  # explained share from which an account says anything; where two are equal
MOST_SHARDS, MOST_RANKS = 256, 64
SHARD_SIZES = (50, 64, 100, 128, 200, 250, 256, 500, 512, 1000, 1024, 2000, 2048, 4096, 5000, 10000)
SCREENED, SCREEN_ERRORS = 512, 2.0  # rows on which an order is tried first
SHARE = 0.5  # of what the moved rows have with their windows, that they have not with their own


@dataclass(frozen=True, eq=False)
class Shift:
    """Predictions of rows `first` to `last` belong to the windows `by` rows on."""

    by: int
    first: int
    last: int
    whole: bool  # whether that is all of the file
    gain: Level  # unexplained by the own window less unexplained by that one
    own: float  # explained shares of the predictions' spread
    other: float


def find_shift(given: GivenRows) -> Shift | None:
    """Return the shift of the whole file, else of its largest part that has one, or None."""
    reading = _Reading(given)
    for part in _parts(given):
        shifts = SHIFTS if part.all() else OF_A_PART
        found = [shift for by in shifts if (shift := reading.shift(by, part)) is not None]
        if found:
            least = 1 - max(shift.other for shift in found)
            alike = [shift for shift in found if 1 - shift.other <= 1.05 * least + 1e-3]
            return min(alike, key=lambda shift: abs(shift.by))
    return None


def _parts(given: GivenRows) -> Iterator[Bool[np.ndarray, " m"]]:
    """Yield the whole file, its halves, quarters and eighths, the latter from the end."""
    place = np.arange(len(given.rows))
    for count in (1, 2, 4, 8):
        for number in reversed(range(count)):
            part = place * count // len(place) == number
            if part.sum() < MIN_ROWS or len(np.unique(given.articles[part])) < MIN_ARTICLES:
                continue
            yield part


class _Reading:
    """Predictions, contexts and targets in few numbers, and what explains the former."""

    def __init__(self, given: GivenRows) -> None:
        self.given = given
        slots = given.contexts.shape[1]
        chunks = given.contexts.reshape(-1, given.contexts.shape[2])
        mean = chunks.mean(axis=0)
        axes = _axes(chunks - mean, AXES)
        self.contexts = ((given.contexts - mean) @ axes[:, : max(1, COLUMNS // slots)]).reshape(
            len(given.rows), -1
        )
        self.targets = (given.targets - mean) @ axes
        apart = given.predictions - given.predictions.mean(axis=0)
        self.predictions = apart @ _axes(apart, AXES)
        spread = float((self.predictions.astype(np.float64) ** 2).sum(axis=1).mean())
        self.predictions = self.predictions / max(spread, 1e-24) ** 0.5

    def shift(self, by: int, part: Bool[np.ndarray, " m"]) -> Shift | None:
        """Return the shift where rows of a part follow the windows `by` rows on, or None."""
        given = self.given
        there = given.at(given.rows + by)
        same = (there >= 0) & (given.articles[there] == given.articles)
        rows = np.flatnonzero(same & part)
        if len(rows) < MIN_ROWS // 2 or len(np.unique(given.articles[rows])) < MIN_ARTICLES:
            return None
        there = there[rows]
        spread = self._spread(rows)
        if spread < 1e-6:
            return None
        own = self._left(self.contexts[rows], rows) / spread
        other = self._left(self.contexts[there], rows) / spread
        gain = given.of(own - other, rows)
        if not self._is_read(by, rows, there, own, other, gain):
            return None
        first, last = int(given.rows[part][0]), int(given.rows[part][-1])
        return Shift(by, first, last, bool(part.all()), gain, 1 - own.mean(), 1 - other.mean())

    def _is_read(
        self,
        by: int,
        rows: Int[np.ndarray, " k"],
        there: Int[np.ndarray, " k"],
        own: Float[np.ndarray, " k"],
        other: Float[np.ndarray, " k"],
        gain: Level,
    ) -> bool:
        """Whether the shifted window is the one that was read.

        A better account of it is proof, but for one thing: a window further on holds the target,
        and what a good model says resembles the target. So it must tell more than the target does.
        Where both accounts are equal (a model that reads one chunk, which both windows hold), that
        the prediction resembles the other window's target more decides. It cannot be copied from
        there: the shifted window ends before that target, or lies ahead.
        """
        explained = 1 - float(other.mean())
        better = clear(gain) and other.mean() < CLEARLY * own.mean()
        if better and explained >= FOLLOWS[0]:
            if by < 0:
                return True
            alone = self._left(self.targets[rows], rows) / self._spread(rows)
            more = self.given.of(alone - other, rows)
            best = min(own.mean(), alone.mean())
            if clear(more) and other.mean() < AHEAD * best:
                return True
        no_worse = gain.above(3) > 0 and other.mean() <= NO_WORSE * own.mean()
        if by < 0 and explained < FOLLOWS[1]:
            return False  # a noisy copy of the last context is explained by nothing
        predictions, targets, _ = self.given.parts
        nearer = np.einsum("kd,kd->k", predictions[rows], targets[there] - targets[rows])
        return no_worse and clear(self.given.of(nearer.astype(np.float64), rows))

    def _spread(self, rows: Int[np.ndarray, " k"]) -> float:
        values = self.predictions[rows].astype(np.float64)
        return float(((values - values.mean(axis=0)) ** 2).sum(axis=1).mean())

    def _left(
        self, columns: Float[np.ndarray, "k C"], rows: Int[np.ndarray, " k"]
    ) -> Float[np.ndarray, " k"]:
        """Return the squared length of each prediction that a map of the columns leaves over.

        It is fitted on every other article and tried on the rest, and the other way round.
        """
        table = np.column_stack([columns, np.ones(len(columns))]).astype(np.float64)
        wanted = self.predictions[rows].astype(np.float64)
        articles = self.given.articles[rows]
        even = np.isin(articles, np.unique(articles)[::2])
        left = np.empty(len(rows))
        for tried in (even, ~even):
            fitted = table[~tried]
            normal = fitted.T @ fitted
            normal += PENALTY * np.trace(normal) / len(normal) * np.eye(len(normal))
            weights = np.linalg.solve(normal, fitted.T @ wanted[~tried])
            left[tried] = ((wanted[tried] - table[tried] @ weights) ** 2).sum(axis=1)
        return left


def _axes(rows: Float[np.ndarray, "m D"], count: int) -> Float[np.ndarray, "D k"]:
    """Return the largest principal axes of centred rows."""
    _, axes = np.linalg.eigh(rows.T @ rows)
    return np.asarray(axes[:, ::-1][:, :count])


@dataclass(frozen=True, eq=False)
class Order:
    """One way to mix up rows: `windows[i]` is the window whose prediction is in row i."""

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
    moved: int  # rows of the file that are elsewhere

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
