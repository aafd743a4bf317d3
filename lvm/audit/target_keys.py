"""Where the windows of a side are from, and which eval articles are copies of train articles.

The content of the bank says it, else the keys of the windows do.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from lvm.audit.blame import wrong_bank
from lvm.audit.coherence import sample_rows
from lvm.audit.followed import counted_off
from lvm.audit.lineage import Places
from lvm.audit.location import RoughIndex, centre_and_spread, find_rows, same_limit, unit
from lvm.audit.material import Material, Side, once
from lvm.audit.stated import mostly
from lvm.data.rows import take

QUICK_TRAIN = 100_000  # train windows that a quick audit compares


def target_keys(material: Material, side: Side) -> Places | None:
    """Return the key of each target as its content says, else as stated, and where that is known.

    A target whose vector the bank holds several times has no certain place and counts as unknown.
    Of the train side only a sample is followed in a quick audit.
    """
    if side.windows is not None:
        return material.pool.keys[side.windows.targets], np.ones(len(side), dtype=bool)
    quick = material.quick and side.name == "train"
    if side.name == "eval":
        return _keys_by_context(material, side)
    rows = sample_rows(material, side) if quick else np.arange(len(side))
    vectors = side.targets(rows) if quick else side.stored_targets
    keys, known = _placed(material, side, rows, vectors)
    if _speaks(material, side):
        known &= ~_foreign(material, side, rows, keys, known)
    return (keys, known) if known.any() else None


def _placed(
    material: Material,
    side: Side,
    rows: Int[np.ndarray, " m"],
    vectors: Float[np.ndarray, "m D"],
    ahead: int = 0,
) -> Places:
    """Return the keys of windows, so many chunks ahead of where their vectors lie, else stated."""
    stated = side.keys
    keys = np.zeros((len(rows), 2), np.int64) if stated is None else stated[rows].astype(np.int64)
    known = np.full(len(rows), stated is not None and not counted_off(stated))
    if _speaks(material, side):
        places = find_rows(material, side.stored(vectors))
        once = material.held_once(places)
        keys[once] = material.pool.keys[places[once]] + [0, ahead]
        if once.mean() > 0.5:  # content speaks: stated keys of the rest could be as wrong
            known = once
    return keys, known


def _speaks(material: Material, side: Side) -> bool:
    """Say whether the bank's keys tell where the vectors of a side are from."""
    if material.bank is None or side.width != material.bank.width:
        return False
    return wrong_bank(material) is None


def _foreign(
    material: Material,
    train: Side,
    rows: Int[np.ndarray, " m"],
    keys: Int[np.ndarray, "m 2"],
    known: Bool[np.ndarray, " m"],
) -> Bool[np.ndarray, " m"]:
    """Which train targets seem to be of an eval article, while their contexts are of another one.

    Such a target was overwritten: EVAL_UNPAIRED says so, and no eval text was trained on in order.
    """
    foreign = np.zeros(len(rows), dtype=bool)
    mine = _keys_by_context(material, material.eval) if material.eval is not None else None
    if mine is None or train.file is None:
        return foreign
    shared = np.flatnonzero(known & np.isin(keys[:, 0], mine[0][mine[1], 0]))
    last = train.stored(take(train.file.contexts, rows[shared])[:, -1])
    places = find_rows(material, last) if len(shared) else np.empty(0, np.int64)
    there = material.held_once(places)
    other = material.pool.keys[np.maximum(places, 0), 0] != keys[shared, 0]
    foreign[shared[there & other]] = True
    return foreign


def _keys_by_context(material: Material, side: Side) -> Places | None:
    """Return where eval windows lie by their last context: targets may have been overwritten."""
    rows = np.arange(len(side))
    keys, known = _placed(material, side, rows, side.contexts(rows)[:, -1], ahead=1)
    return (keys, known) if known.any() else None


@once
def copies_of_train(
    material: Material,
) -> tuple[Int[np.ndarray, " a"], Int[np.ndarray, " m"]]:
    """Return the eval articles that are copies of train text, and the eval windows that are.

    By their vectors, up to rounding: the same text in another batch, or on another machine, has
    other bits. An article is a copy when half its windows are; a heading that many articles share
    makes none. Nothing is looked for in a quick audit of many train windows, or where articles are
    not known.
    """
    nothing = np.empty(0, np.int64), np.empty(0, np.int64)
    train, eval_ = material.train, material.eval
    if train is None or eval_ is None or train.width != eval_.width:
        return nothing
    mine = target_keys(material, eval_)
    if mine is None or (material.quick and len(train) > QUICK_TRAIN):
        return nothing
    keys, known = mine
    last = eval_.contexts(np.arange(len(eval_)))[:, -1]  # a target may have been overwritten
    rows = RoughIndex(train.stored_targets).find(last)
    found = (rows >= 0) & _same_before(train, eval_, rows)
    copies = mostly(keys[known, 0], found[known])
    return copies, np.flatnonzero(found & known & np.isin(keys[:, 0], copies))


def _same_before(train: Side, eval_: Side, rows: Int[np.ndarray, " m"]) -> Bool[np.ndarray, " m"]:
    """Say where the train window of each row has the same chunk before its target as eval has.

    A train target that was overwritten with a chunk of an eval article is no copy of that article.
    """
    same = np.ones(len(rows), dtype=bool)
    if min(train.context_length, eval_.context_length) < 2:
        return same
    found = np.flatnonzero(rows >= 0)
    theirs = unit(train.contexts(rows[found])[:, -1])
    mine = unit(eval_.contexts(found)[:, -2])
    limit = same_limit(centre_and_spread(train.stored_targets)[1])
    same[found] = np.einsum("md,md->m", theirs, mine) >= limit
    return same
