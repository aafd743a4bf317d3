"""Which rows of the bank stay: one per chunk, with a direction; and whether they are scaled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from lvm.audit.bank import DUPLICATES_WARN
from lvm.audit.keys import UNIQUE_SHARE
from lvm.audit.location import same_from, unit
from lvm.audit.material import Material
from lvm.audit.repeated import repeats
from lvm.audit.vectors import scans, spoilt_rows
from lvm.data.rows import key_codes, take

PAIRS = 4096  # rows compared at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class BankPlan:
    """The rows that stay, and whether they are scaled to length 1."""

    rows: Int[np.ndarray, " n"]
    scale: bool
    split: Mapping[str, Sequence[int]] | None = None  # to be stated, where articles were taken out
    note: str = ""  # what could not be done at all
    steps: tuple[str, ...] = ()
    dropped: tuple[tuple[str, int], ...] = ()


def plan_bank(
    material: Material, used: Int[np.ndarray, " a"], copied: Int[np.ndarray, " c"]
) -> BankPlan | None:
    """Say which rows of the bank stay; None without a bank.

    `used` are the articles that windows of the given files lie in. Of equal vectors the first
    stays; so do those of used articles under keys of their own, because a window points there:
    without them it would no longer be a run of one article. `copied` are held-out articles that
    repeat train articles: they go.
    """
    if material.bank is None:
        return None
    bank, size = material.bank, len(material.bank.pool_rows)
    stays = np.ones(size, dtype=bool)
    blind = spoilt_rows(material, "bank")
    stays[blind[blind < size]] = False
    num_blind = int((~stays).sum())
    copy, again = _copies(material, size, stays)
    needed = np.isin(bank.articles[:size], used)
    stays &= ~again & (~copy | needed)
    merged, kept = size - num_blind - int(stays.sum()), int((copy & ~again & needed).sum())
    steps = [f"{merged} repeated bank rows merged"] if merged else []
    if merged and kept:
        steps.append(f"{kept} repeated rows kept, because windows refer to their keys")
    leaked = stays & np.isin(bank.articles[:size], copied)
    if leaked.any():
        stays &= ~leaked
        steps.append(
            f"{len(copied)} held-out articles removed as copies of train articles "
            f"({leaked.sum()} rows)"
        )
    scale = is_off(material, "bank")
    if scale:
        steps.append("bank rows scaled to length 1")
    dropped = (("bank rows that are zero or not finite", num_blind),) if num_blind else ()
    return BankPlan(
        rows=np.flatnonzero(stays),
        scale=scale,
        steps=tuple(steps),
        dropped=dropped,
        split=_split_without(material, copied) if leaked.any() else None,
    )


def _split_without(
    material: Material, copied: Int[np.ndarray, " c"]
) -> Mapping[str, Sequence[int]] | None:
    """Return the split but for some articles: a new one by hash could part other copies."""
    if material.dataset is None:
        return None
    return {
        name: np.setdiff1d(material.dataset.split(name).articles, copied).tolist()
        for name in ("train", "dev", "test")
    }


def is_off(material: Material, name: str) -> bool:
    """Say whether the lengths of an input's vectors are off 1, as UNNORMALISED does."""
    return any(scan.is_off for scan in scans(material) if scan.input == name)


def _copies(
    material: Material, size: int, usable: Bool[np.ndarray, " n"]
) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Return which rows repeat an earlier vector, and which repeat one under the same key.

    Neither where the bank repeats itself no more than the audit allows.
    """
    rows = np.flatnonzero(usable)
    groups, codes = material.content.group[rows], key_codes(material.pool.keys[rows])
    copy, same = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    if len(rows) == 0:
        return copy, same
    copy[rows] = repeats(groups)
    _, place = np.unique(codes, return_inverse=True)
    same[rows] = repeats(place.ravel() * np.int64(len(material.pool)) + groups)
    unique = place.max() + 1
    if copy[rows].mean() <= DUPLICATES_WARN and unique >= UNIQUE_SHARE * len(rows):
        return np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    return copy, same | _embedded_again(material, rows, codes, same)


def _embedded_again(
    material: Material,
    rows: Int[np.ndarray, " n"],
    codes: Int[np.ndarray, " n"],
    known: Bool[np.ndarray, " N"],
) -> Bool[np.ndarray, " N"]:
    """Which rows have the key of an earlier one and its vector, up to rounding."""
    found, bank = np.zeros_like(known), material.pool
    again = rows[repeats(codes) & ~known[rows]]
    first = material.by_key.find(bank.keys[again])
    for start in range(0, len(again), PAIRS):
        part = slice(start, start + PAIRS)
        one, other = (unit(take(bank.vectors, which[part])) for which in (again, first))
        found[again[part]] = np.einsum("nd,nd->n", one, other) >= same_from(material)
    return found
