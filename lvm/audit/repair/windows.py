"""Where every window really lies, and what its key, target and order therefore are.

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

from lvm.audit.blame import follow, keyed
from lvm.audit.keys import ALLOWED_SHARE
from lvm.audit.location import unit
from lvm.audit.material import Material, Side, or_none
from lvm.audit.repair.places import NEAR_ENOUGH, rows_at
from lvm.audit.repair.runs import NO_DIRECTION, NOT_IN_BANK, Runs, resolve

MOST = 0.5  # of the windows of a file, from which nothing of it is repaired
TRAIN_BLOCK = 16_384  # train windows that are placed at a time


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
    found = resolve(material, side, todo, spoilt[todo])
    trusted = side.keys is not None and (not told.any() or settled[told].mean() >= NEAR_ENOUGH)
    if trusted:  # the bank says nothing about these: their keys count as much as the others'
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
    whole = side is material.eval
    found = (
        or_none(keyed, material, side)
        if whole
        else or_none(follow, material, side, np.arange(len(side)))
    )
    if found is None:  # no keys
        return np.zeros(len(side), dtype=bool), np.zeros(len(side), dtype=bool)
    good = found.right[:, -1] & ~found.wrong.any(axis=1) & ~spoilt.any(axis=1)
    return good, (found.right | found.wrong).any(axis=1)


# --- the plan -------------------------------------------------------------------------------------


def _merged(
    material: Material, side: Side, kept: WindowPlan, todo: Int[np.ndarray, " n"], runs: Runs
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
        steps.append(f"keys of {len(plan.rows)} windows rewritten from the places of their vectors")
    elif plan.keys is not None and (moved := (plan.keys != stated).any(axis=1)).any():
        by = np.unique((plan.keys - stated)[moved], axis=0)
        steps.append(
            f"keys of {moved.sum()} windows moved by article {by[0, 0]:+d}, chunk {by[0, 1]:+d}"
            if len(by) == 1
            else f"keys of {moved.sum()} windows rewritten from the places of their contexts in "
            "the bank"
        )
    in_order = np.arange(plan.order.shape[1])
    counts: dict[str, np.ndarray] = {
        "targets replaced by the chunk that follows the contexts in the bank": plan.answered,
        "windows with their contexts reordered": (plan.order != in_order).any(axis=1),
        "zero contexts replaced from the bank": plan.refilled,
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


def plan_train(material: Material, side: Side) -> WindowPlan | None:
    """Say what becomes of every train window, block by block; None where the file is sound.

    The file has no keys to be held to, or they lead to their vectors: then nothing is touched.
    """
    found = or_none(keyed, material, side)
    if found is None or not found.worst_share < ALLOWED_SHARE or side.file is None:
        return None
    plans = []
    for start in range(0, len(side), TRAIN_BLOCK):
        part = slice(start, start + TRAIN_BLOCK)
        file = dataclasses.replace(
            side.file,
            contexts=side.file.contexts[part],
            targets=side.file.targets[part],
            truth_keys=side.keys[part] if side.keys is not None else None,
        )
        plan = plan_windows(material, dataclasses.replace(side, file=file), part=True)
        plans.append(dataclasses.replace(plan, rows=plan.rows + start))
    return _joined(plans, side)


def _joined(plans: list[WindowPlan], side: Side) -> WindowPlan:
    assert side.keys is not None
    dropped: Counter[str] = Counter()
    for plan in plans:
        dropped.update(dict(plan.dropped))
    joined = dataclasses.replace(
        plans[0],
        rows=np.concatenate([plan.rows for plan in plans]),
        keys=np.concatenate([plan.keys for plan in plans if plan.keys is not None]),
        order=np.concatenate([plan.order for plan in plans]),
        answered=np.concatenate([plan.answered for plan in plans]),
        refilled=np.concatenate([plan.refilled for plan in plans]),
        dropped=tuple(dropped.most_common()),
    )
    return dataclasses.replace(joined, steps=in_words(joined, side.keys[joined.rows]))
