"""Which run of the bank the contexts of a window are, and so what its key and target are."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from lvm.audit.location import best_by_key, same_from
from lvm.audit.material import Material, Side
from lvm.audit.repair.places import find_contexts, rows_at

NOT_IN_BANK = "contexts are not in the bank"
NOT_A_RUN = "contexts are not consecutive chunks of one article"
NO_NEXT = "the chunk that follows the contexts is not in the bank"
NO_DIRECTION = "a vector is zero or not finite, and the bank has no copy of it"


@dataclass(frozen=True, kw_only=True, eq=False)
class Runs:
    """For n windows: the key of what follows, the order of contexts, or why there is none."""

    keys: Int[np.ndarray, "n 2"]
    order: Int[np.ndarray, "n T"]
    answered: Bool[np.ndarray, " n"]
    refilled: Bool[np.ndarray, "n T"]
    why: np.ndarray  # [n] text, empty where the window can be repaired

    def select(self, chosen: Bool[np.ndarray, " n"]) -> Runs:
        """Return some of them."""
        return Runs(**{f.name: getattr(self, f.name)[chosen] for f in dataclasses.fields(self)})


def resolve(
    material: Material, side: Side, rows: Int[np.ndarray, " n"], spoilt: Bool[np.ndarray, "n S"]
) -> Runs:
    """Place windows by their contexts, else by their target."""
    keys, found = find_contexts(material, side, rows)
    found &= ~spoilt[:, :-1]  # a NaN row has the bits of the bank's NaN row, and no place
    runs = _by_order(material, keys, found, _runs(keys, found, material.by_key.unit))
    runs = _fill(material, runs, found, spoilt)
    runs = _with_target(material, side, rows, runs)
    return _by_target(material, side, rows, runs, found, spoilt)


def _runs(keys: Int[np.ndarray, "n T 2"], found: Bool[np.ndarray, "n T"], unit: int) -> Runs:
    """Find windows whose contexts are consecutive chunks of one article, in whatever order."""
    n, t = found.shape
    in_file = np.tile(np.arange(t), (n, 1))
    by_chunk = np.argsort(keys[:, :, 1], axis=1, kind="stable")
    order = np.where(found.all(axis=1, keepdims=True), by_chunk, in_file)
    sorted_found = np.take_along_axis(found, order, axis=1)
    article = np.take_along_axis(keys[:, :, 0], order, axis=1)
    start = np.take_along_axis(keys[:, :, 1], order, axis=1) - unit * np.arange(t)
    anchor = t - 1 - sorted_found[:, ::-1].argmax(axis=1)
    at = (np.arange(n), anchor)
    agree = ~sorted_found | ((article == article[at][:, None]) & (start == start[at][:, None]))
    why = np.where(2 * found.sum(axis=1) >= t, "", NOT_IN_BANK).astype(object)
    why[found.any(axis=1) & ~agree.all(axis=1)] = NOT_A_RUN
    return Runs(
        keys=np.column_stack([article[at], start[at] + unit * t]),
        order=order,
        answered=np.zeros(n, dtype=bool),
        refilled=np.zeros((n, t), dtype=bool),
        why=why,
    )


def _by_order(
    material: Material, keys: Int[np.ndarray, "n T 2"], found: Bool[np.ndarray, "n T"], runs: Runs
) -> Runs:
    """Accept contexts that follow each other in the bank, with numbers missing between them.

    They show that the windows were cut after those chunks had been left out.
    """
    index, t = material.by_key, found.shape[1]
    gaps = np.flatnonzero(found.all(axis=1) & (runs.why == NOT_A_RUN))
    ranks = np.sort(index.ranks(keys[gaps].reshape(-1, 2)).reshape(-1, t), axis=1)
    one = (keys[gaps, :, 0] == keys[gaps, :1, 0]).all(axis=1)
    gaps = gaps[one & (np.diff(ranks, axis=1) == 1).all(axis=1)]
    newest = keys[gaps, runs.order[gaps, -1]]
    row = index.step(newest, 1)
    chosen, why = runs.keys.copy(), runs.why.copy()
    chosen[gaps[row >= 0]], why[gaps[row >= 0]] = material.pool.keys[row[row >= 0]], ""
    why[gaps[row < 0]] = NO_NEXT
    return dataclasses.replace(runs, keys=chosen, why=why)


def _fill(
    material: Material, runs: Runs, found: Bool[np.ndarray, "n T"], spoilt: Bool[np.ndarray, "n S"]
) -> Runs:
    """Take contexts without direction from the bank; another vector at their key breaks the run."""
    refilled, why = runs.refilled.copy(), runs.why.copy()
    t = found.shape[1]
    for slot in range(t):
        lost = np.flatnonzero(~found[:, slot] & (why == ""))
        there = rows_at(material, runs.keys[lost] + [0, (slot - t) * material.by_key.unit])
        empty = spoilt[lost, slot]
        refilled[lost[empty & (there >= 0)], slot] = True
        why[lost[empty & (there < 0)]] = NO_DIRECTION
        why[lost[~empty & (there >= 0)]] = NOT_A_RUN
    return dataclasses.replace(runs, refilled=refilled, why=why)


def _with_target(material: Material, side: Side, rows: Int[np.ndarray, " n"], runs: Runs) -> Runs:
    """Say where the bank's next chunk replaces the target, and where there is none.

    Where its number is missing, a target that is the chunk after the gap is right.
    """
    bank, index, limit = material.pool, material.by_key, same_from(material)
    keys, why, targets = runs.keys.copy(), runs.why.copy(), side.targets(rows)
    gone = np.flatnonzero((why == "") & (rows_at(material, keys) < 0))
    row, cosine = best_by_key(bank, index, keys[gone], targets[gone], 1)
    after = cosine >= limit
    keys[gone[after]], why[gone[~after]] = bank.keys[row[after]], NO_NEXT
    _, cosine = best_by_key(bank, index, keys, targets)
    other = ~(cosine >= limit)
    return dataclasses.replace(runs, keys=keys, answered=(why == "") & other, why=why)


def _by_target(
    material: Material,
    side: Side,
    rows: Int[np.ndarray, " n"],
    runs: Runs,
    found: Bool[np.ndarray, "n T"],
    spoilt: Bool[np.ndarray, "n S"],
) -> Runs:
    """Key windows by the row that equals their target, where no context is in the bank."""
    lost = np.flatnonzero(~found.any(axis=1) & ~spoilt.any(axis=1))
    if len(lost) == 0:
        return runs
    place = material.content.find(side.stored(side.targets(rows[lost])))
    once = material.held_once(place)
    keys, why, answered = runs.keys.copy(), runs.why.copy(), runs.answered.copy()
    keys[lost[once]] = material.pool.keys[place[once]]
    why[lost[once]], answered[lost[once]] = "", False
    return dataclasses.replace(runs, keys=keys, why=why, answered=answered)
