"""Which window did a prediction read: its own, or one a few rows on?

No model is known here, so none is assumed: a linear map is fitted from the contexts of window
i + s to prediction i, for each shift s, and tried on articles that it was not fitted on. Whatever a
model does, its output follows the window that it read more closely than one that lacks the newest
chunk of it, or holds a newer one.
"""

from __future__ import annotations

from collections.abc import Iterator
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
