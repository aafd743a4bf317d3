"""Where contexts lie in the bank, and what healthy parts say of its lost vectors and its keys."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Int

from lvm.audit.blame import RIGHT, WrongBank, bank_overwritten, confirmed, keyed
from lvm.audit.location import NUM_COPIES, SEARCHED, locate, nearest, same_from, unit
from lvm.audit.material import Material, Side, or_none
from lvm.audit.vectors import spoilt_rows
from lvm.data.rows import KeyIndex

NEAR_ENOUGH = 0.5  # of the probed vectors, from which the rest is searched too
ONE_STEP = 0.9  # of the probed keys that are off alike, from which all are tried with that step
QUERIES = 4096  # vectors per pass over the bank
MOST = 0.5  # of the windows: where more have no vector in the bank, they are of another run


def find_contexts(
    material: Material, side: Side, rows: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, "n T 2"], Bool[np.ndarray, "n T"]]:
    """Return the bank's keys of all contexts: by their bits, else by search for the last one."""
    located = locate(material, side, rows)
    keys, found = located.keys[:, :-1].astype(np.int64), located.found[:, :-1].copy()
    lost = np.flatnonzero(~found[:, -1])
    guess = _guess(material, side, rows[lost]) if len(lost) else None
    if guess is None or side.file is None:
        return keys, found
    stated = np.zeros((len(side), 2), dtype=np.int64)
    stated[rows[lost]] = guess
    guessed = dataclasses.replace(side, file=dataclasses.replace(side.file, truth_keys=stated))
    again = locate(material, guessed, rows[lost])
    keys[lost], found[lost] = again.keys[:, :-1], again.found[:, :-1]
    return keys, found


def _guess(
    material: Material, side: Side, rows: Int[np.ndarray, " n"]
) -> Int[np.ndarray, "n 2"] | None:
    """Return a key per window to look at, from the bank rows nearest to the last contexts.

    None where the last contexts of a probe have no equal: the file is of another space then.
    """
    last = unit(side.contexts(rows)[:, -1])
    usable = np.flatnonzero(np.isfinite(last).all(axis=1))
    if len(usable) == 0:
        return None
    probe = usable[np.linspace(0, len(usable) - 1, min(SEARCHED, len(usable))).astype(int)]
    found, cosine = nearest(material.pool, last[probe])
    near = np.asarray(cosine >= same_from(material))
    if near.mean() < NEAR_ENOUGH:
        return None
    if side.keys is not None:
        step = material.pool.keys[found[near]] + [0, 1] - side.keys[rows[probe[near]]].astype(int)
        steps, counts = np.unique(step, axis=0, return_counts=True)
        if counts.max() >= ONE_STEP * near.sum():
            return np.asarray(side.keys[rows] + steps[counts.argmax()])
    guess = np.zeros((len(rows), 2), dtype=np.int64)
    for start in range(0, len(usable), QUERIES):
        part = usable[start : start + QUERIES]
        guess[part] = material.pool.keys[nearest(material.pool, last[part])[0]] + [0, 1]
    return guess


def rows_at(material: Material, keys: Int[np.ndarray, "n 2"]) -> Int[np.ndarray, " n"]:
    """Return for each key its first bank row with a direction, -1 where there is none."""
    best = np.full(len(keys), -1)
    for copy in range(min(NUM_COPIES, material.by_key.most_copies)):
        row = material.by_key.find(keys, copy)
        best = np.where((best < 0) & has_direction(material, row), row, best)
    return best


def has_direction(material: Material, rows: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Say which bank rows are there (not -1) and neither zero nor NaN."""
    return np.asarray((rows >= 0) & ~np.isin(rows, spoilt_rows(material, "bank")))


def with_lost_vectors(material: Material) -> tuple[Material, Int[np.ndarray, " n"]]:
    """Return the material with lost rows of the bank taken from windows that hold their vectors.

    Lost are rows that are zero or NaN, and those for which all windows have another vector.

    Only from a side whose keys lead to their vectors. The second value: which rows were filled.
    """
    none = np.empty(0, dtype=np.int64)
    if material.bank is None:
        return material, none
    blind = spoilt_rows(material, "bank")
    sides = [side for side in material.sides if _is_sound(material, side)]
    other = [_overwritten(material, side) for side in sides]
    blind = np.unique(np.concatenate([blind, *other]))
    blind = blind[blind < len(material.bank.pool_rows)]
    if not sides or len(blind) == 0:
        return material, none
    vectors, filled = np.array(material.bank.vectors), np.zeros(len(blind), dtype=bool)
    for side in sides:
        _fill(material, side, vectors, blind, filled)
    if not filled.any():
        return material, none
    bank = dataclasses.replace(material.bank, vectors=vectors)
    return dataclasses.replace(material, bank=bank), blind[filled]


def _is_sound(material: Material, side: Side) -> bool:
    if side.file is None or side.keys is None:
        return False
    found = or_none(keyed, material, side)
    return found is not None and found.worst_share >= RIGHT


def _overwritten(material: Material, side: Side) -> Int[np.ndarray, " n"]:
    """Return the bank rows that hold another vector than the windows with their key."""
    assert side.keys is not None
    found = keyed(material, side)
    lost = found.rows[~found.right[:, -1] & ~found.wrong[:, -1]]
    few = (1 - RIGHT) * len(found.rows) < len(lost) < MOST * len(found.rows)
    if not few or not bank_overwritten(material, side, lost):
        return np.empty(0, dtype=np.int64)
    rows = material.by_key.find(side.keys[lost])
    said = confirmed(material, side, lost)
    return np.unique(rows[(rows >= 0) & (said != 0)])


def _fill(
    material: Material,
    side: Side,
    vectors: np.ndarray,
    blind: Int[np.ndarray, " n"],
    filled: Bool[np.ndarray, " n"],
) -> None:
    """Write the vectors of blind rows that windows of a side have, as target or as context."""
    assert side.keys is not None
    windows, wanted = KeyIndex(side.keys), material.pool.keys[blind].astype(np.int64)
    for ahead in range(side.context_length + 1):
        todo = np.flatnonzero(~filled)
        row = windows.find(wanted[todo] + [0, ahead * material.by_key.unit])
        todo, row = todo[row >= 0], row[row >= 0]
        if len(todo) == 0:
            continue
        found = side.targets(row) if ahead == 0 else side.contexts(row)[:, -ahead]
        good = np.isfinite(unit(found)).all(axis=1)
        vectors[blind[todo[good]]] = found[good]
        filled[todo[good]] = True


def with_keys_moved(material: Material, wrong: WrongBank) -> Material | None:
    """Return the material with the bank's keys moved by the rows that they are off; None if not so.

    Both window files must then find their vectors at their keys.
    """
    if wrong.rows_off == 0 or material.bank is None:
        return None
    size = len(material.bank.pool_rows)
    keys = np.array(material.bank.keys)
    keys[:size] = np.roll(keys[:size], wrong.rows_off, axis=0)
    moved = dataclasses.replace(material, bank=dataclasses.replace(material.bank, keys=keys))
    return moved if all(_is_sound(moved, side) for side in moved.sides) else None
