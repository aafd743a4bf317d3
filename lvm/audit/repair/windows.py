"""Where every eval window really lies, and what its key, target and order therefore are.

The contexts are what is real: keys were made up and targets overwritten in files that failed, the
contexts never were. A window whose contexts are one run of an article, c .. c+T-1, has the key
(article, c+T) and the vector that the bank holds there as its target.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from lvm.audit.finding import NotEvaluable
from lvm.audit.followed import follow, keyed
from lvm.audit.keys import ALLOWED_SHARE
from lvm.audit.location import best_by_key, same_from, unit
from lvm.audit.material import Material, Side
from lvm.audit.repair.places import NEAR_ENOUGH, find_contexts, rows_at

MOST = 0.5  # of the windows of a file, from which nothing of it is repaired
NOT_IN_BANK = "contexts are not in the bank"
NOT_A_RUN = "contexts are not consecutive chunks of one article"
NO_NEXT = "the chunk that follows the contexts is not in the bank"
NO_DIRECTION = "a vector is zero or not finite, and the bank does not say what it was"


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowPlan:
    """The windows that stay, with key, order of contexts, and what is taken from the bank."""

    rows: Int[np.ndarray, " k"]  # of the file
    keys: Int[np.ndarray, "k 2"] | None
    order: Int[np.ndarray, "k T"]  # place in the file's row of each context, oldest first
    answered: Bool[np.ndarray, " k"]  # the target comes from the bank
    refilled: Bool[np.ndarray, "k T"]  # so does this context, which had no direction
    steps: tuple[str, ...] = ()
    dropped: tuple[tuple[str, int], ...] = ()
    note: str = ""  # what could not be done at all

    def select(self, chosen: Bool[np.ndarray, " k"]) -> WindowPlan:
        """Return the plan for some of its windows."""
        keys = None if self.keys is None else self.keys[chosen]
        return dataclasses.replace(
            self,
            rows=self.rows[chosen],
            keys=keys,
            order=self.order[chosen],
            answered=self.answered[chosen],
            refilled=self.refilled[chosen],
        )


def plan_windows(material: Material, side: Side, *, part: bool = False) -> WindowPlan:
    """Say for every window of a file what becomes of it.

    Files with at most 1 % of misplaced windows are left as they are: the audit allows as many. A
    `part` of a file is judged with the whole of it, by the caller.
    """
    kept = as_they_are(side)
    spoilt = _without_direction(side)
    if material.bank is None or material.bank.width != side.width:
        return _without_bank(kept, spoilt)
    settled, told = _settled(material, side, spoilt)
    todo = np.flatnonzero(~settled)
    if len(todo) == 0:
        return kept
    found = _resolve(material, side, todo, spoilt[todo])
    trusted = side.keys is not None and (not told.any() or settled[told].mean() >= NEAR_ENOUGH)
    if trusted:  # the bank says nothing about these: their keys stand as well as the others'
        untold = (found.why == NOT_IN_BANK) & ~spoilt[todo].any(axis=1) & ~told[todo]
        todo, found = todo[~untold], found.select(~untold)
    misplaced = part or len(todo) > (1 - ALLOWED_SHARE) * len(side) or spoilt.any()
    if len(todo) == 0 or not (misplaced or side.keys is None):
        return kept
    return _merged(material, side, kept, todo, found)


def as_they_are(side: Side) -> WindowPlan:
    """Return the plan that changes nothing."""
    m, t = len(side), side.context_length
    return WindowPlan(
        rows=np.arange(m),
        keys=None if side.keys is None else side.keys.astype(np.int64),
        order=np.tile(np.arange(t), (m, 1)),
        answered=np.zeros(m, dtype=bool),
        refilled=np.zeros((m, t), dtype=bool),
    )


def _without_direction(side: Side) -> Bool[np.ndarray, "M S"]:
    """Which vectors of the windows are zero or not finite; T contexts, then the target."""
    rows = np.arange(len(side))
    parts = [side.contexts(rows), side.targets(rows)]
    return np.column_stack([~np.isfinite(unit(part)).all(axis=-1) for part in parts])


def _without_bank(kept: WindowPlan, spoilt: Bool[np.ndarray, "M S"]) -> WindowPlan:
    bad = np.asarray(spoilt.any(axis=1))
    if not bad.any():
        return kept
    return dataclasses.replace(kept.select(~bad), dropped=((NO_DIRECTION, int(bad.sum())),))


def _settled(
    material: Material, side: Side, spoilt: Bool[np.ndarray, "M S"]
) -> tuple[Bool[np.ndarray, " M"], Bool[np.ndarray, " M"]]:
    """Return which windows are where their keys say, and of which the bank can say anything."""
    try:
        found = (
            keyed(material, side)
            if side is material.eval
            else follow(material, side, np.arange(len(side)))
        )
    except NotEvaluable:  # no keys
        return np.zeros(len(side), dtype=bool), np.zeros(len(side), dtype=bool)
    good = found.right[:, -1] & ~found.wrong.any(axis=1) & ~spoilt.any(axis=1)
    return good, (found.right | found.wrong).any(axis=1)


# --- places ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class _Runs:
    """For n windows: the key of what follows, the order of contexts, or why there is none."""

    keys: Int[np.ndarray, "n 2"]
    order: Int[np.ndarray, "n T"]
    answered: Bool[np.ndarray, " n"]
    refilled: Bool[np.ndarray, "n T"]
    why: np.ndarray  # [n] text, empty where the window can be repaired

    def select(self, chosen: Bool[np.ndarray, " n"]) -> _Runs:
        return _Runs(**{f.name: getattr(self, f.name)[chosen] for f in dataclasses.fields(self)})


def _resolve(
    material: Material, side: Side, rows: Int[np.ndarray, " n"], spoilt: Bool[np.ndarray, "n S"]
) -> _Runs:
    """Place windows by their contexts, else by their target."""
    keys, found = find_contexts(material, side, rows)
    found &= ~spoilt[:, :-1]  # a NaN row has the bits of the bank's NaN row, and no place
    runs = _by_order(material, keys, found, _runs(keys, found, material.by_key.unit))
    runs = _fill(material, runs, found, spoilt)
    runs = _with_target(material, side, rows, runs)
    return _by_target(material, side, rows, runs, found, spoilt)


def _runs(keys: Int[np.ndarray, "n T 2"], found: Bool[np.ndarray, "n T"], unit: int) -> _Runs:
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
    return _Runs(
        keys=np.column_stack([article[at], start[at] + unit * t]),
        order=order,
        answered=np.zeros(n, dtype=bool),
        refilled=np.zeros((n, t), dtype=bool),
        why=why,
    )


def _by_order(
    material: Material, keys: Int[np.ndarray, "n T 2"], found: Bool[np.ndarray, "n T"], runs: _Runs
) -> _Runs:
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
    material: Material, runs: _Runs, found: Bool[np.ndarray, "n T"], spoilt: Bool[np.ndarray, "n S"]
) -> _Runs:
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


def _with_target(material: Material, side: Side, rows: Int[np.ndarray, " n"], runs: _Runs) -> _Runs:
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
    runs: _Runs,
    found: Bool[np.ndarray, "n T"],
    spoilt: Bool[np.ndarray, "n S"],
) -> _Runs:
    """Key windows by the row that equals their target, where no context is in the bank."""
    lost = np.flatnonzero(~found.any(axis=1) & ~spoilt.any(axis=1))
    if len(lost) == 0:
        return runs
    place = material.content.find(side.stored(side.targets(rows[lost])))
    once = (place >= 0) & (material.content.copies[np.maximum(place, 0)] == 1)
    keys, why, answered = runs.keys.copy(), runs.why.copy(), runs.answered.copy()
    keys[lost[once]] = material.pool.keys[place[once]]
    why[lost[once]], answered[lost[once]] = "", False
    return dataclasses.replace(runs, keys=keys, why=why, answered=answered)


# --- the plan -------------------------------------------------------------------------------------


def _merged(
    material: Material, side: Side, kept: WindowPlan, todo: Int[np.ndarray, " n"], runs: _Runs
) -> WindowPlan:
    """Put what was found for some windows among those that stay as they are."""
    good = runs.why == ""
    dropped = Counter(runs.why[~good].tolist())
    # With most contexts in no row of the bank, the file is of another run: what to keep of it is
    # not for a repair to say.
    strange = dropped[NOT_IN_BANK] > MOST * len(side)
    if strange or good.sum() + len(side) - len(todo) == 0:
        reasons = "; ".join(f"{count} windows: {why}" for why, count in dropped.most_common())
        return dataclasses.replace(kept, note=f"{side.source} could not be repaired ({reasons})")
    stated = np.zeros((len(side), 2), np.int64) if kept.keys is None else kept.keys
    keys, order = stated.copy(), kept.order.copy()
    answered, refilled = kept.answered.copy(), kept.refilled.copy()
    keys[todo], order[todo] = runs.keys, runs.order
    answered[todo], refilled[todo] = runs.answered, runs.refilled
    stays = np.ones(len(side), dtype=bool)
    stays[todo[~good]] = False
    plan = WindowPlan(
        rows=kept.rows,
        keys=keys,
        order=order,
        answered=answered,
        refilled=refilled,
        dropped=tuple(dropped.most_common()),
    ).select(stays)
    return dataclasses.replace(
        plan, steps=in_words(plan, None if kept.keys is None else stated[stays])
    )


def in_words(plan: WindowPlan, stated: Int[np.ndarray, "k 2"] | None) -> tuple[str, ...]:
    """Return what a plan does, in words."""
    steps = []
    if stated is None:
        steps.append(f"keys of {len(plan.rows)} windows written from where their vectors lie")
    elif plan.keys is not None and (moved := (plan.keys != stated).any(axis=1)).any():
        by = np.unique((plan.keys - stated)[moved], axis=0)
        steps.append(
            f"keys of {moved.sum()} windows moved by article {by[0, 0]:+d}, chunk {by[0, 1]:+d}"
            if len(by) == 1
            else f"keys of {moved.sum()} windows written from where their contexts lie in the bank"
        )
    in_order = np.arange(plan.order.shape[1])
    counts: dict[str, np.ndarray] = {
        "targets replaced by the chunk that follows the contexts in the bank": plan.answered,
        "windows with their contexts put back in order": (plan.order != in_order).any(axis=1),
        "contexts without direction taken from the bank": plan.refilled,
    }
    return (*steps, *(f"{np.sum(c)} {what}" for what, c in counts.items() if c.any()))


def composed(
    material: Material, file_contexts: np.ndarray, plan: WindowPlan, part: slice
) -> Float[np.ndarray, "k T D"]:
    """Return contexts of a part of the plan as they are to be: in order, gaps filled."""
    order = plan.order[part]
    contexts = np.array(file_contexts[plan.rows[part]])
    contexts = np.take_along_axis(contexts, order[:, :, None], axis=1)
    window, slot = np.nonzero(plan.refilled[part])
    if len(window) and plan.keys is not None:
        wanted = plan.keys[part][window].copy()
        wanted[:, 1] += (slot - order.shape[1]) * material.by_key.unit
        contexts[window, slot] = material.pool.rows(rows_at(material, wanted))
    return contexts
