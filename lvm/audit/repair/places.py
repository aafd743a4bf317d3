"""Where contexts lie in the bank, and which rows of the bank a key leads to."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Int

from lvm.audit.location import NUM_COPIES, SEARCHED, locate, nearest, same_from, unit
from lvm.audit.material import Material, Side
from lvm.audit.scan import scans

NEAR_ENOUGH = 0.5  # of the probed vectors, from which the rest is searched too
ONE_STEP = 0.9  # of the probed keys that are off alike, from which all are tried with that step
QUERIES = 4096  # vectors per pass over the bank


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
    return np.asarray((rows >= 0) & ~np.isin(rows, blind_rows(material)))


def blind_rows(material: Material) -> Int[np.ndarray, " n"]:
    """Return the bank rows that are zero or not finite."""
    found = [s for s in scans(material) if s.input == "bank"]
    return np.concatenate([np.concatenate([s.nonfinite, s.zero]) for s in found]).astype(np.int64)
