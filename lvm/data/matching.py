"""Find vectors again in a bank by their bytes, and choose well among rows with equal bytes."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from lvm.data.rows import Digests, KeyIndex, digests


class RowFinder:
    """Row ids by content: the rows of a table, then every new vector that was looked for.

    Two types are compared in the narrower one: a float16 copy of a float32 row is found, and so is
    a float32 copy of a float16 row.
    """

    def __init__(self, table: Float[np.ndarray, "N D"]) -> None:
        self._table = table
        self._extra = np.empty((0, table.shape[1]), table.dtype)
        self._dtype: np.dtype[np.generic] | None = None  # the type that the next two were built for
        self._known = Digests(np.empty(0, np.uint64))
        self._groups = np.empty(0, np.int64)

    @property
    def extra_rows(self) -> Float[np.ndarray, "E D"]:
        """The vectors that were not in the table, in the order of their ids, in its type."""
        return self._extra

    @property
    def groups(self) -> Int[np.ndarray, " N"]:
        """First equal row of every row of the table, in the type of the last search."""
        return self._groups

    def find(self, vectors: Float[np.ndarray, "n D"]) -> Int[np.ndarray, " n"]:
        """Return the first row equal to each vector; a new one gets the next id from N on."""
        dtype = min(self._table.dtype, vectors.dtype, key=lambda t: t.itemsize)
        self._index(dtype)
        wanted = digests(vectors, dtype)
        rows = self._known.find(wanted)
        new = np.flatnonzero(rows < 0)
        if len(new):
            _, first = np.unique(wanted[new], return_index=True)
            first = new[np.sort(first)]  # in the order of their first appearance
            added = np.array(vectors[first], self._table.dtype)
            self._extra = np.concatenate([self._extra, added])
            self._known = Digests(np.concatenate([self._known.codes, wanted[first]]))
            rows[new] = self._known.find(wanted[new])
        return rows

    def _index(self, dtype: np.dtype[np.generic]) -> None:
        if dtype == self._dtype:
            return
        of_table = digests(self._table, dtype)
        self._known = Digests(np.concatenate([of_table, digests(self._extra, dtype)]))
        self._groups = self._known.group[: len(of_table)]
        self._dtype = dtype


def prefer_matching_keys(
    rows: Int[np.ndarray, "M S"],
    groups: Int[np.ndarray, " N"],
    keys: Int[np.ndarray, "N 2"],
    truth_keys: Int[np.ndarray, "M 2"] | None = None,
) -> Int[np.ndarray, "M S"]:
    """Among equal rows, choose those whose keys make the window one run of an article.

    `rows` holds S = T + 1 first equal rows per window, the target last; ids from N on are extra
    rows and stay. `groups` is the first equal row of every row. The run is anchored at the truth
    key where there is one, and at each candidate of the window's rarest vector; the anchor that
    places most vectors wins. A vector that no anchor places keeps its first equal row.
    """
    count, span = len(groups), rows.shape[1]
    by_group = np.argsort(groups, kind="stable")  # candidates of one group lie side by side
    first_of = np.searchsorted(groups[by_group], np.arange(count))
    copies = np.where(rows < count, np.bincount(groups, minlength=count)[rows % count], 0)
    todo = np.flatnonzero((copies > 1).any(axis=1))
    best = rows.copy()
    score = np.zeros(len(rows), np.int64)
    index = KeyIndex(keys)

    def try_anchor(windows: np.ndarray, anchors: np.ndarray) -> None:
        found = _runs_ending_at(index, anchors, span)
        placed = np.where((found >= 0) & (groups[found] == rows[windows]), found, -1)
        better = (hits := (placed >= 0).sum(axis=1)) > score[windows]
        chosen = windows[better]
        score[chosen] = hits[better]
        best[chosen] = np.where(placed[better] >= 0, placed[better], rows[chosen])

    if truth_keys is not None:
        try_anchor(todo, truth_keys[todo].astype(np.int64))
    # The rarest vector has fewest candidates to try; among equals the one nearest to the target.
    rarest = span - 1 - np.where(copies > 0, copies, count + 1)[:, ::-1].argmin(axis=1)
    fewest = copies[np.arange(len(rows)), rarest]
    reachable = (copies > 0).sum(axis=1)
    for candidate in range(int(fewest.max())):
        todo = todo[(candidate < fewest[todo]) & (score[todo] < reachable[todo])]
        if len(todo) == 0:
            break
        position = rarest[todo]
        anchor = keys[by_group[first_of[rows[todo, position]] + candidate]].astype(np.int64)
        anchor[:, 1] += span - 1 - position
        try_anchor(todo, anchor)
    return best


def _runs_ending_at(
    index: KeyIndex, ends: Int[np.ndarray, "m 2"], span: int
) -> Int[np.ndarray, "m S"]:
    """Return the first row of every place of runs that end at keys, -1 where there is none."""
    places = np.repeat(ends[:, None], span, axis=1)
    places[:, :, 1] += np.arange(1 - span, 1)
    return index.find(places.reshape(-1, 2)).reshape(-1, span)
