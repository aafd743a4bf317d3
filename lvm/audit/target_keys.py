"""Where the windows of a side are from: as the content of the bank says, else as their keys say."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from lvm.audit.ancestors import Places
from lvm.audit.blame import wrong_bank
from lvm.audit.coherence import sample_rows
from lvm.audit.followed import counted_off
from lvm.audit.location import find_rows
from lvm.audit.material import Material, Side
from lvm.data.rows import take


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
