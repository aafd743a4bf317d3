"""Is every prediction in the row of its window?

A mean over all rows hides a part that is broken: a model of which half the rows are mixed up looks
like a model half as good. So rows are looked at in their places. Whether the model is good is not
asked, and one that is merely bad, or bad on some articles, is not accused: its rows fit no other
window better than those of a sound part of the file do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from lvm.audit.check import About, check
from lvm.audit.coherence import Level
from lvm.audit.finding import Seen
from lvm.audit.given_away import answers_with_rows, leaked_rows
from lvm.audit.material import Material, where_found
from lvm.audit.rows_given import GivenRows, clear, given_rows, runs
from lvm.audit.shifts import Fit, Order, Shift, best_order, find_shift, known_orders, rolled

ASKED = 2048  # rows compared with every window
FOREIGN, AT_HOME = 0.25, 0.1  # share of other articles' windows that fit better than the own one
MIN_STRAY = 5  # rows
MIN_SOUND = 0.25  # of the rows: of rows that fit nothing, a tenth are at home by chance
NOT_COPIED = 0.2  # of sound rows, before they tell of a model that answers with rows of the bank
MIXED_SHARE = 0.02  # of rows mixed up, above which a shift of a part is one of their traces
NEAR = 3  # rows by which a block may be misplaced: neighbours are alike
AS_WELL = 0.5  # of what sound rows have with their own window, above the best of the others
NAMED_ORDER = 0.9  # of what an unnamed order explains
BLOCKS = 64  # of the file, in which a row of stray predictions is looked for elsewhere
ALLOWED = "every prediction in the row of its own window"
REMEDY = "regenerate the predictions, row i for window i of the eval side: "


@check(
    "PREDICTIONS_MISALIGNED",
    "is every prediction in the row of its window?",
    About(blocks=True, cause=170, thorough=True),
)
def predictions_misaligned(material: Material) -> Iterator[Seen]:
    """Report rows that belong to other windows: a shift, a known order, or rows mixed up."""
    given = given_rows(material)
    # A model was run here, or its rows are the targets, and so those of any window that holds them.
    if given is None or leaked_rows(given).mean() > 0.5:
        return
    shift = find_shift(given)
    mixed = [] if shift and shift.whole else _reordered_or_mixed(material, given)
    if mixed and (shift is None or mixed[0].where["count"] > MIXED_SHARE * given.total):
        yield mixed[0]
    elif shift is not None:
        yield _shifted(given, shift)


def _reordered_or_mixed(material: Material, given: GivenRows) -> list[Seen]:
    stray = find_stray(material, given)
    if stray is None:
        return []
    # An order that has a name, unless one read off the rows themselves says clearly more.
    known, own = best_order(given, known_orders(given.total)), best_order(given, stray.orders)
    fit = own if known is None or (own and known.score < NAMED_ORDER * own.score) else known
    if fit is not None:
        return [_reordered(given, fit)]
    return [_mixed(given, stray)] if stray.found else []


# --- rows that fit the windows of others ----------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Stray:
    """Rows that fit windows of other articles better than their own, as a sound row fits its own.

    `gap` is how much better the best of other articles fits a stray row than a sound one, and
    `full` what it would be if every stray row were at home there.
    """

    asked: Int[np.ndarray, " q"]  # places that were looked at
    stray: Bool[np.ndarray, " q"]
    gap: Level | None
    full: float
    orders: list[Order]
    blocks: list[tuple[int, int, int]]  # first and last row, and the window of the first

    @property
    def found(self) -> bool:
        """Whether the stray rows are at home elsewhere; a bad model's are at home nowhere."""
        gap = self.gap
        return gap is not None and clear(gap) and gap.value >= AS_WELL * self.full > 0


def find_stray(material: Material, given: GivenRows) -> Stray | None:
    """Hold up to 2,048 rows against all windows; None where all but a few are at home."""
    size = len(given.rows)
    asked = np.linspace(0, size - 1, min(ASKED, size)).astype(int)
    own, best, better = _ranks(given, asked)
    stray, sound = better > FOREIGN, better <= AT_HOME
    repeated = np.zeros(size, dtype=bool)
    repeated[1:] = (given.predictions[1:] == given.predictions[:-1]).all(axis=1)
    stray &= ~repeated[asked]
    if stray.sum() < MIN_STRAY:
        return None
    gap, full = None, 0.0
    if sound.mean() >= MIN_SOUND and not answers_with_rows(
        material, given, asked[sound], NOT_COPIED
    ):
        usual = float(best[sound].mean())
        gap = given.of(best[stray] - usual, asked[stray])
        full = float(np.maximum(own - best, 0)[sound].mean())
    blocks = _blocks(given, asked[stray])
    return Stray(asked, stray, gap, full, _orders(given.total, blocks), blocks)


def _orders(total: int, blocks: list[tuple[int, int, int]]) -> list[Order]:
    """Return the orders that displaced blocks suggest: all rows shifted alike, or parts swapped."""
    moves = sorted({window - first for first, _, window in blocks})
    orders = [rolled(total, by + near) for by in moves for near in range(-NEAR, NEAR + 1)]
    if len(moves) > 1:
        windows = np.arange(total)
        for first, last, window in blocks:
            windows[first : last + 1] = window + np.arange(last - first + 1)
        orders.append(Order("parts of the file are in a different order", windows))
    return orders


def _ranks(
    given: GivenRows, asked: Int[np.ndarray, " q"]
) -> tuple[Float[np.ndarray, " q"], Float[np.ndarray, " q"], Float[np.ndarray, " q"]]:
    """Return how each row fits its own window, the best of other articles, and its rank there.

    The rank is the share of other articles' windows that fit better, 0 for a row at home.
    """
    own, best, better = (np.empty(len(asked)) for _ in range(3))
    for start in range(0, len(asked), 256):
        part = slice(start, start + 256)
        rows = asked[part]
        scores = given.scores(rows)
        own[part] = scores[np.arange(len(rows)), rows]
        scores[given.articles[rows][:, None] == given.articles[None, :]] = -np.inf
        best[part] = scores.max(axis=1)
        others = np.maximum(np.isfinite(scores).sum(axis=1), 1)
        better[part] = (scores > own[part, None]).sum(axis=1) / others
    return own, best, better


def _blocks(given: GivenRows, stray: Int[np.ndarray, " k"]) -> list[tuple[int, int, int]]:
    """Return stretches of stray rows that lie, in the same order, at another place of the file.

    A stretch is believed where two blocks in a row say the same, and only if most blocks do.
    """
    size = len(given.rows)
    length = max(16, size // BLOCKS)
    if given.total != size or size < 4 * length:
        return []
    starts = np.arange(0, size - length + 1, length)
    counts = np.histogram(stray, [*starts, size])[0]
    most = max(int(counts.max()) // 2, 1)
    chosen = [int(start) for start, count in zip(starts, counts, strict=True) if count >= most]
    moves = {start: _best_place(given, start, length) - start for start in chosen}
    moves = {start: move for start, move in moves.items() if abs(move) >= length}
    agreed = [
        start
        for start in moves
        if moves[start] in (moves.get(start - length), moves.get(start + length))
    ]
    if 2 * len(agreed) < len(moves):
        return []
    found: list[tuple[int, int, int]] = []
    for start in agreed:
        last, move = start + length - 1, moves[start]
        if found and found[-1][1] == start - 1 and found[-1][2] - found[-1][0] == move:
            found[-1] = (found[-1][0], last, found[-1][2])
        else:
            found.append((start, last, start + move))
    return found


def _best_place(given: GivenRows, start: int, length: int) -> int:
    """Return where a block of rows fits best as a whole: its sums along the diagonals."""
    scores = given.scores(np.arange(start, start + length))
    size = scores.shape[1]
    # Each row one place further right than the next, so that diagonals are in columns.
    slanted = np.pad(scores[::-1], ((0, 0), (0, length))).ravel()[: length * (size + length - 1)]
    sums = slanted.reshape(length, size + length - 1).sum(axis=0)[length - 1 : size]
    return int(sums.argmax())


# --- findings -------------------------------------------------------------------------------------


def _shifted(given: GivenRows, shift: Shift) -> Seen:
    by = f"i {'+' if shift.by > 0 else '-'} {abs(shift.by)}"
    where = "row i" if shift.whole else f"row i, from row {shift.first} to {shift.last},"
    unit = "row" if abs(shift.by) == 1 else "rows"
    return Seen(
        seen=f"{where} holds the prediction for window {by}: the contexts of that window explain "
        f"{shift.other:.0%} of the variance of the predictions, those of window i "
        f"{shift.own:.0%}",
        allowed=ALLOWED,
        where=where_found(
            "predictions",
            count=shift.last - shift.first + 1,
            of=given.total,
            blocks=[(shift.first, shift.last)],
        ),
        meaning=f"Predictions are off by {abs(shift.by)} {unit}, so each is compared with the "
        "target of another window.",
        next=REMEDY + "look for a row that is skipped or written twice, and for targets cut one "
        "chunk too late",
        values={
            "by": float(shift.by),
            "gain": shift.gain.value,
            "gain_error": shift.gain.error,
            "own": shift.own,
            "other": shift.other,
        },
    )


def _reordered(given: GivenRows, fit: Fit) -> Seen:
    moved = [piece for piece in fit.order.pieces if piece[0] != piece[2]]
    long = [(a, b, w) for a, b, w in moved if b > a][:3] or moved[:3]
    pieces = "; ".join(
        f"rows {a} to {b} hold those of windows {w} to {w + b - a}" for a, b, w in long
    )
    blocks = [(a, b) for a, b, _ in moved]
    return Seen(
        seen=f"{fit.order.words}: {pieces}. The rows that moved resemble those windows by "
        f"{fit.gain.value:.3f} more than their own (cosine, {fit.gain.below(2):.3f} to "
        f"{fit.gain.above(2):.3f})",
        allowed=ALLOWED,
        where=where_found("predictions", count=fit.moved, of=given.total, blocks=blocks),
        meaning="The predictions are not in the order of the windows, so most are compared with "
        "the target of another window.",
        next=REMEDY + "join the parts by number, not by name or by worker",
        values={"gain": fit.gain.value, "gain_error": fit.gain.error, "there": fit.there},
    )


def _mixed(given: GivenRows, stray: Stray) -> Seen:
    assert stray.gap is not None  # as it is found
    rows = given.rows[stray.asked[stray.stray]]
    share = len(rows) / len(stray.asked)
    # A row that lies anywhere fits its own window better than a quarter of the others by chance.
    estimate = min(1.0, share / (1 - FOREIGN))
    named = "; ".join(
        f"rows {a} to {b} fit windows {w} to {w + b - a}" for a, b, w in stray.blocks[:3]
    )
    where = f" ({named})" if named else f" (between rows {rows[0]} and {rows[-1]})"
    return Seen(
        seen=f"about {estimate:.0%} of the rows{where} belong to other windows: they resemble some "
        f"window of another article by {stray.gap.value:.3f} more than the other rows do, and "
        "their own window no more than any other",
        allowed=ALLOWED,
        where=where_found(
            "predictions",
            count=round(estimate * given.total),
            of=given.total,
            rows=rows,
            blocks=[(a, b) for a, b, _ in stray.blocks] or _dense(given, stray),
        ),
        meaning="Some predictions are compared with the targets of other windows, so the mean over "
        "all rows says nothing about the model.",
        next=REMEDY + "do not shuffle the windows when predicting (shuffle=False), and sort by "
        "window before saving",
        values={
            "share": estimate,
            "gap": stray.gap.value,
            "gap_error": stray.gap.error,
            "full": stray.full,
        },
    )


def _dense(given: GivenRows, stray: Stray) -> list[tuple[int, int]]:
    """Return the stretches of the file in which stray rows are the rule, as first and last row."""
    if len(stray.asked) < 32:
        return []
    share = np.convolve(stray.stray, np.ones(16) / 16, mode="same")
    rows = given.rows[stray.asked]
    return [(int(rows[a]), int(rows[b])) for a, b in runs(share > 0.25)]
