"""Whether the keys of windows lead to their own vectors in the bank, and how keys were made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from lvm.audit.coherence import sample_rows
from lvm.audit.finding import NotEvaluable
from lvm.audit.location import SEARCHED, find_rows, in_run, nearest, same_from, unit
from lvm.audit.material import Material, Side, once
from lvm.audit.padding import padding_by_keys

AFFINE_SHARE = 0.98  # of rows whose key is the row number, divided
CHECKED = {False: 100_000, True: 1024}  # windows of a side whose keys are followed; True: quick


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
