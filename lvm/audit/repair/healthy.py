"""What the healthy parts say of a broken one: the bank's lost vectors and its order of keys."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Int

from lvm.audit.blame import RIGHT, WrongBank, bank_overwritten, confirmed
from lvm.audit.followed import keyed
from lvm.audit.location import unit
from lvm.audit.material import Material, Side, or_none
from lvm.audit.repair.places import blind_rows
from lvm.data.rows import KeyIndex

MOST = 0.5  # of the windows: where more have no vector in the bank, they are of another run


def with_lost_vectors(material: Material) -> tuple[Material, Int[np.ndarray, " n"]]:
    """Return the material with lost rows of the bank taken from windows that hold their vectors.

    Lost are rows that are zero or NaN, and those for which all windows have another vector.

    Only from a side whose keys lead to their vectors. The second value: which rows were filled.
    """
    none = np.empty(0, dtype=np.int64)
    if material.bank is None:
        return material, none
    blind = blind_rows(material)
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
