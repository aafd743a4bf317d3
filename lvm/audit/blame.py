"""Do keys lead to their vectors, and which part is broken where they do not.

The windows of a file overlap, so a vector is in up to T + 1 of them, and each states a key for
it. Keys that were made up, or targets that were overwritten, contradict each other within the file.
Keys that all windows of both files agree on, and that lead to other vectors in the bank, are right:
then it is the bank whose keys and vectors are out of step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from lvm.audit.coherence import sample_rows
from lvm.audit.finding import NotEvaluable
from lvm.audit.location import SEARCHED, find_rows, in_run, nearest, same_from, unit
from lvm.audit.material import Material, Side, once, or_none
from lvm.audit.order_in_bank import padding_by_keys
from lvm.data.rows import KeyIndex, digests, key_codes

RIGHT = 0.99  # of the vectors of a side that are at their keys
STEADY = 0.5  # of the vectors that are not, which have one key in all their windows
LOOKED_AT = 4096  # windows
ONE_STEP = 0.9  # of the wrong vectors that are off by one and the same number of rows
AFFINE_SHARE = 0.98  # of rows whose key is the row number, divided
CHECKED = {False: 100_000, True: 1024}  # windows of a side whose keys are followed; True: quick


@dataclass(frozen=True, kw_only=True, eq=False)
class WrongBank:
    """The evidence against the keys of the bank."""

    eval_share: float  # of vectors that are at their keys
    train_share: float
    steady: float  # of those that are not, which have one key in all windows of their file
    rows: Int[np.ndarray, " n"]  # of the bank, whose keys are wrong
    rows_off: int  # how far after its key every vector is; 0: not one and the same way


@once
def wrong_bank(material: Material) -> WrongBank | None:
    """Return why the bank's keys are the broken part; None where nothing says so."""
    sides = [material.eval, material.train]
    if material.bank is None or any(s is None or s.file is None or s.keys is None for s in sides):
        return None
    found_in = []
    for side in sides:
        assert side is not None
        found = or_none(keyed, material, side)
        if found is None:
            return None
        share = found.worst_share
        if not share < RIGHT or counted_off(side.keys):
            return None
        mine = _steady(material, side, found)
        if mine is None or mine[0] < STEADY:
            return None
        found_in.append((share, *mine))
    shares, steady, rows, stated = zip(*found_in, strict=True)
    places, keys = np.concatenate(rows), np.concatenate(stated)
    return WrongBank(
        eval_share=shares[0],
        train_share=shares[1],
        steady=min(steady),
        rows=np.unique(places),
        rows_off=_rows_off(material, places, keys),
    )


def _steady(
    material: Material, side: Side, found: Keyed
) -> tuple[float, Int[np.ndarray, " n"], Int[np.ndarray, "n 2"]] | None:
    """Return how many misplaced vectors have one key in all windows, their rows and those keys.

    All windows of a few articles are looked at, so that they overlap. None where no vector that is
    not at its key is in two of them.
    """
    assert side.keys is not None
    rows = _whole_articles(side, found)
    sequences = np.concatenate([side.contexts(rows), side.targets(rows)[:, None]], axis=1)
    span, width = sequences.shape[1:]
    keys, by = side.keys[rows].astype(np.int64), material.by_key.unit
    wrong = np.column_stack(
        [~in_run(material, keys, slot - span + 1, sequences[:, slot])[1] for slot in range(span)]
    ).ravel()
    stated = (
        (keys[:, None] + np.column_stack([np.zeros(span), np.arange(1 - span, 1) * by]))
        .astype(np.int64)
        .reshape(-1, 2)
    )
    vectors = sequences.reshape(-1, width)
    _, vector = np.unique(digests(vectors, np.dtype(np.float32)), return_inverse=True)
    judged, one_key = _judged(vector.ravel(), key_codes(stated), wrong)
    if not judged.any():
        return None
    share = float(one_key[judged].mean())
    some = np.flatnonzero(judged & one_key)
    first = np.unique(vector.ravel(), return_index=True)[1][some]
    places = find_rows(material, side.stored(vectors[first]))
    there = places >= 0
    # A vector that the bank does not hold is another defect: its key says nothing of the bank's.
    share *= float(there.mean()) if len(there) else 0.0
    return share, places[there], stated[first[there]]


def _whole_articles(side: Side, found: Keyed) -> Int[np.ndarray, " m"]:
    """Return all windows of some articles, as stated, in which a vector is not at its key."""
    assert side.keys is not None
    stated = side.keys[:, 0]
    odd = np.unique(stated[found.rows[found.wrong.any(axis=1)]])
    sizes = np.array([np.count_nonzero(stated == a) for a in odd[: LOOKED_AT // 8]])
    some = odd[: max(1, int((np.cumsum(sizes) <= LOOKED_AT).sum()))]
    return np.flatnonzero(np.isin(stated, some))[:LOOKED_AT]


def _judged(
    vector: Int[np.ndarray, " n"], codes: Int[np.ndarray, " n"], wrong: Bool[np.ndarray, " n"]
) -> tuple[Bool[np.ndarray, " v"], Bool[np.ndarray, " v"]]:
    """Say which vectors occur twice and not at their key, and which have one key all the time."""
    times = np.bincount(vector)
    judged = (times >= 2) & (np.bincount(vector, weights=wrong) > 0)
    order = np.lexsort((codes, vector))
    changes = (np.diff(vector[order]) == 0) & (np.diff(codes[order]) != 0)
    other = np.bincount(vector[order][1:], weights=changes, minlength=len(times))
    return judged, other == 0


def _rows_off(
    material: Material, places: Int[np.ndarray, " n"], keys: Int[np.ndarray, "n 2"]
) -> int:
    """Return by how many rows vectors come after their keys, 0 where not all by the same."""
    at = material.by_key.find(keys)
    off = (places - at)[at >= 0]
    values, counts = np.unique(off, return_counts=True)
    if len(values) == 0 or counts.max() < ONE_STEP * len(off):
        return 0
    return int(values[counts.argmax()])


def confirmed(
    material: Material, side: Side, rows: Int[np.ndarray, " m"]
) -> Float[np.ndarray, " m"]:
    """Say whether the next window of the file has the target of each window as its last context.

    1 or 0, NaN where there is no next window. A target that was overwritten is not confirmed.
    """
    assert side.keys is not None
    one_on = np.array([0, material.by_key.unit])
    after = KeyIndex(side.keys).find(side.keys[rows].astype(np.int64) + one_on)
    there = np.flatnonzero(after >= 0)
    said = np.full(len(rows), np.nan)
    mine = unit(side.targets(rows[there]))
    theirs = unit(side.contexts(after[there])[:, -1])
    said[there] = np.einsum("md,md->m", mine, theirs) >= same_from(material)
    return said


def bank_overwritten(material: Material, side: Side, lost: Int[np.ndarray, " m"]) -> bool:
    """Say whether targets that are not in the bank are right, and the rows at their keys are not.

    So it is when the file's other windows agree with these targets, and its contexts are in the
    bank: only some rows of the bank are others than they were.
    """
    if side.file is None or side.keys is None or len(lost) == 0 or counted_off(side.keys):
        return False
    lost = lost[np.linspace(0, len(lost) - 1, min(LOOKED_AT, len(lost))).astype(int)]
    if float((material.by_key.find(side.keys[lost]) >= 0).mean()) < STEADY:
        return False
    said = confirmed(material, side, lost)
    said = said[np.isfinite(said)]
    return len(said) > 0 and float(said.mean()) >= STEADY


@dataclass(frozen=True, eq=False)
class Keyed:
    """For each looked-at window and each place of its sequence: is the vector at its key?

    `right` where the bank has it there; `wrong` where it does not, although the bank holds this
    vector elsewhere. Neither: the vector is not in the bank or has no direction, which are other
    defects, or it is the first chunk of an article, repeated where the article has none.
    """

    side: Side
    rows: Int[np.ndarray, " m"]
    right: Bool[np.ndarray, "m S"]
    wrong: Bool[np.ndarray, "m S"]
    vectors: Float[np.ndarray, "m S D"]

    @property
    def share_right(self) -> Float[np.ndarray, " S"]:
        """Share of correct rows among those found in the bank, per place; NaN for none."""
        told = (self.right | self.wrong).sum(axis=0)
        return np.where(told > 0, self.right.sum(axis=0) / np.maximum(told, 1), np.nan)

    @property
    def worst_share(self) -> float:
        """The lowest of these over the places; NaN where nothing is known."""
        share = self.share_right
        return float(np.nanmin(share)) if np.isfinite(share).any() else np.nan


@once
def keyed(material: Material, side: Side) -> Keyed:
    """Follow the keys of a side into the bank."""
    return follow(material, side)


def follow(material: Material, side: Side, rows: Int[np.ndarray, " m"] | None = None) -> Keyed:
    """Follow the keys of the given windows, by default of as many as the audit looks at."""
    bank, stated = material.pool, side.keys
    if stated is None:
        raise NotEvaluable(f"{side.source} has no truth_keys", "give truth_keys [M, 2]")
    if side.width != bank.width:
        raise NotEvaluable(
            f"the widths differ ({side.width} and {bank.width})", "fix what SCHEMA names"
        )
    if rows is None:
        rows = sample_rows(material, side, _num_followed(material, side))
    vectors = np.concatenate([side.contexts(rows), side.targets(rows)[:, None]], axis=1)
    keys = stated[rows].astype(np.int64)
    steps = range(1 - vectors.shape[1], 1)
    right = np.column_stack(
        [in_run(material, keys, step, vectors[:, slot])[1] for slot, step in enumerate(steps)]
    )
    wrong = ~right & _is_elsewhere(material, vectors, right)
    wrong[:, :-1] &= ~padding_by_keys(material, keys, vectors[:, :-1])
    return Keyed(side, rows, right, wrong, vectors)


def _num_followed(material: Material, side: Side) -> int:
    if side.name == "eval":
        return len(side)
    per_window = (side.context_length + 1) * side.width * 4
    return min(CHECKED[material.quick], max(1000, (1 << 30) // per_window))


def _is_elsewhere(
    material: Material, vectors: Float[np.ndarray, "m S D"], right: Bool[np.ndarray, "m S"]
) -> Bool[np.ndarray, "m S"]:
    """Say for each vector that is not at its key whether the bank holds it at all.

    Of one that is zero or not finite the bank says nothing: it equals every other such row.
    """
    lost = np.argwhere(~right)
    lost = lost[np.isfinite(unit(vectors[lost[:, 0], lost[:, 1]])).all(axis=1)]
    found = np.zeros(right.shape, dtype=bool)
    if len(lost) == 0:
        return found
    there = find_rows(material, vectors[lost[:, 0], lost[:, 1]]) >= 0
    if not there.all():
        # Stored with other bits? The nearest rows of a few say it for all of them.
        unknown = np.flatnonzero(~there)
        some = unknown[np.linspace(0, len(unknown) - 1, min(SEARCHED, len(unknown))).astype(int)]
        _, cosine = nearest(material.pool, vectors[lost[some, 0], lost[some, 1]])
        if float((cosine >= same_from(material)).mean()) >= 0.5:
            there[unknown] = True
    found[lost[:, 0], lost[:, 1]] = there
    return found


def counted_off(keys: Int[np.ndarray, "M 2"] | None) -> str:
    """Say so when the keys are the row number, divided: article = row // n, chunk = row % n."""
    if keys is None or len(keys) < 100:
        return ""
    row, article, chunk = np.arange(len(keys)), keys[:, 0].astype(np.int64), keys[:, 1]
    sizes = np.diff(np.flatnonzero(np.concatenate([[True], np.diff(article) != 0, [True]])))
    size = int(np.median(sizes))
    if len(sizes) < 2 or size < 2:
        return ""
    counted = (article - article[0] == row // size) & (chunk - chunk.min() == row % size)
    if float(counted.mean()) < AFFINE_SHARE:
        return ""
    return f"article = row // {size} and chunk = row % {size}"
