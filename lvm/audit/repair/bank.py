"""Which rows of the bank stay, and which windows, so that no article is on both sides."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from lvm.audit.bank import DUPLICATES_WARN
from lvm.audit.counts import repeats
from lvm.audit.keys import UNIQUE_SHARE
from lvm.audit.location import same_from, unit
from lvm.audit.material import Material, Side
from lvm.audit.repair.windows import WindowPlan
from lvm.audit.target_keys import copies_of_train, target_keys
from lvm.audit.vectors import scans, spoilt_rows
from lvm.data.rows import blocks, key_codes, take
from lvm.data.windows import MIN_ARTICLES, ranked_articles

PAIRS = 4096  # rows compared at a time
MIN_SHARE = 0.3  # of the windows of a file that must be left
EVAL_SHARE = 0.18  # of the articles, where both files have to give some away
MIN_TRAIN_ARTICLES = MIN_ARTICLES["train"] + MIN_ARTICLES["dev"]


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


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitPlan:
    """Which windows stay on either side."""

    eval_stays: Bool[np.ndarray, " k"]  # of the windows that the eval plan keeps
    train_rows: Int[np.ndarray, " n"] | None  # None: the train file stays as it is
    train_articles: Int[np.ndarray, " a"]
    steps: tuple[str, ...] = ()
    dropped: tuple[tuple[str, int], ...] = ()
    note: str = ""


def plan_split(
    material: Material, eval_keys: Int[np.ndarray, "k 2"] | None, repaired: WindowPlan | None = None
) -> SplitPlan | None:
    """Part the articles of both sides; None where there is no train file.

    The eval file gives way unless too little of it would be left, then the train file does; where
    all articles are on both sides, each file keeps the windows of its own articles of a new split.
    `repaired` is what becomes of the train windows.
    """
    train = material.train
    if train is None or train.file is None:
        return None
    rows, cleaned = _clean_train_rows(material, train)
    places = target_keys(material, train)
    if repaired is not None and repaired.keys is not None:
        rows = np.intersect1d(rows, repaired.rows)
        keys, known = np.zeros((len(train), 2), np.int64), np.zeros(len(train), dtype=bool)
        keys[repaired.rows], known[repaired.rows] = repaired.keys, True
        places = keys, known
    stays = np.ones(0 if eval_keys is None else len(eval_keys), dtype=bool)
    dropped = (("train windows with a zero or not finite vector", cleaned),) if cleaned else ()
    whole = SplitPlan(
        eval_stays=stays,
        train_rows=rows if cleaned else None,
        dropped=dropped,
        train_articles=np.empty(0, np.int64) if places is None else np.unique(places[0][:, 0]),
    )
    if places is None or eval_keys is None:
        return whole
    (theirs, known), mine = places, eval_keys[:, 0]
    shared = np.union1d(
        np.intersect1d(theirs[known, 0], mine), np.intersect1d(copies_of_train(material)[0], mine)
    )
    if len(shared) == 0:
        return whole
    chosen = _eval_articles(theirs[:, 0], mine, shared)
    if chosen is None:
        note = (
            f"{len(shared)} articles are on both sides, and removing them leaves either side "
            "with too few"
        )
        return dataclasses.replace(whole, note=note)
    return _parted(whole, rows, theirs[:, 0], mine, chosen)


def _clean_train_rows(material: Material, train: Side) -> tuple[Int[np.ndarray, " n"], int]:
    """Return the train windows without a zero or not finite vector, and how many have one."""
    bad = spoilt_rows(material, "train")
    sampled = any(scan.sampled for scan in scans(material) if scan.input == "train")
    if len(bad) and sampled and train.file is not None:
        bad = np.union1d(_spoilt(train.file.contexts), _spoilt(train.file.targets))
    return np.setdiff1d(np.arange(len(train)), bad), len(bad)


def _spoilt(array: np.ndarray) -> Int[np.ndarray, " n"]:
    """Return the rows of [N, ..., D] with a vector that has no direction, block by block."""
    found = [
        start + np.flatnonzero(~np.isfinite(unit(block)).reshape(len(block), -1).all(axis=1))
        for start, block in blocks(array)
    ]
    return np.concatenate(found)


def _eval_articles(
    theirs: Int[np.ndarray, " n"], mine: Int[np.ndarray, " m"], shared: Int[np.ndarray, " a"]
) -> Int[np.ndarray, " e"] | None:
    """Return the articles that are to be the eval side's, None where no choice leaves enough."""
    seen, own = np.unique(theirs), np.setdiff1d(mine, shared)
    if len(own) >= MIN_ARTICLES["test"] and np.isin(mine, own).mean() >= MIN_SHARE:
        return own
    others = np.setdiff1d(seen, mine)
    if len(others) >= MIN_TRAIN_ARTICLES and np.isin(theirs, others).mean() >= MIN_SHARE:
        return np.unique(mine)
    wanted = max(MIN_ARTICLES["test"], round(EVAL_SHARE * len(np.union1d(seen, mine))))
    some = ranked_articles(shared.tolist())[: max(0, wanted - len(own))]
    chosen = np.union1d(own, np.array(some, dtype=np.int64))
    left = np.setdiff1d(seen, chosen)
    enough = len(chosen) >= MIN_ARTICLES["test"] and len(left) >= MIN_TRAIN_ARTICLES
    return chosen if enough else None


def _parted(
    whole: SplitPlan,
    rows: Int[np.ndarray, " n"],
    theirs: Int[np.ndarray, " N"],
    mine: Int[np.ndarray, " k"],
    chosen: Int[np.ndarray, " e"],
) -> SplitPlan:
    stays, leaves = np.isin(mine, chosen), np.isin(theirs[rows], chosen)
    steps = [
        f"{gone.sum()} {ours} windows left out, because their articles are in the {other} file"
        for ours, other, gone in (("eval", "train", ~stays), ("train", "eval", leaves))
        if gone.any()
    ]
    changed = leaves.any() or whole.train_rows is not None
    return SplitPlan(
        eval_stays=stays,
        train_rows=rows[~leaves] if changed else None,
        train_articles=np.unique(theirs[rows[~leaves]]),
        steps=tuple(steps),
        dropped=whole.dropped,
    )
