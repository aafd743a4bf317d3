"""Rows that are one vector: up to rounding, the same text embedded twice; or byte by byte.

Another batch size, machine or precision changes the last bits of a vector, so equal bits find some
copies only. No model can tell a vector from its copy, so copies tie in a ranking, and none of them
is a negative of another.

Rows are projected on a few random axes and cut into cells that are much wider than any rounding.
Copies share a cell, unless an edge runs between them; other grids have their edges elsewhere. What
shares a cell is compared in full. A pair right at the limit is missed about 1 time in 100,000, the
same text in another batch never in practice.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from lvm.data.rows import ContentIndex, Digests, KeyIndex, blocks, digests, take

# Rows are copies when 1 - cosine is at most this: what bfloat16 changes a unit vector by, at most.
ROUNDING = 4e-6
SHARE = 1e-4  # of 1 - cosine of any two rows: the limit where all rows are nearly one
AXES, GRIDS = 6, 4
CELL = 0.2  # width of a cell, in standard deviations of the rows along an axis
CELL_OF_LIMIT = 25  # and at least so many times the distance of copies
MAX_DISTINCT = 64  # vectors of one cell that others are compared with
MAX_CHAIN = 8  # rows of a chain of copies that become the first of a group
SAMPLED = 4096
_AXES_SEED = 20251202  # fixed: a group means the same in every process


def copy_groups(
    vectors: Float[np.ndarray, "N D"], exact: Int[np.ndarray, " N"] | None = None
) -> Int[np.ndarray, " N"]:
    """Return for every row the first row that is the same vector up to rounding, [N] int64.

    Every row of a group is a copy of its first row. `exact` is the first row with equal bits; it is
    found where it is not given. Rows that are not finite are copies of equal bits alone.
    """
    exact = ContentIndex(vectors).group if exact is None else exact
    firsts = np.flatnonzero(exact == np.arange(len(vectors)))
    cells, squared = _cells(vectors, firsts)
    near = np.arange(len(vectors))
    if squared > 0:
        pairs = [_pairs_of(vectors, firsts, codes, squared) for codes in cells.T]
        _join(vectors, near, np.unique(np.concatenate(pairs), axis=0), squared)
    return np.asarray(near[exact])


def _cells(
    vectors: Float[np.ndarray, "N D"], firsts: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, "n G"], float]:
    """Return the cell of each row in every grid, and the squared distance up to which rows are one.

    A row that is not finite has a cell of its own.
    """
    centre, spread, length = _scale(vectors, firsts)
    squared = 2 * min(ROUNDING * length, SHARE * spread)
    cell = max(CELL * spread**0.5, CELL_OF_LIMIT * squared**0.5)
    rng = np.random.default_rng(_AXES_SEED)
    axes = rng.standard_normal((vectors.shape[1], AXES)).astype(np.float32)
    factors = rng.integers(2**63, size=AXES, dtype=np.int64) | 1
    middle, shifts = centre @ axes, np.arange(GRIDS) / GRIDS
    codes = np.empty((len(firsts), GRIDS), dtype=np.int64)
    chosen = np.zeros(len(vectors), dtype=bool)
    chosen[firsts] = True
    done = 0
    for start, rows in blocks(vectors):
        mine = chosen[start : start + len(rows)]
        part = rows if mine.all() else rows[mine]
        with np.errstate(over="ignore", invalid="ignore"):
            places = (np.asarray(part, dtype=np.float32) @ axes - middle) / max(cell, 1e-30)
            finite = (np.abs(places) < 2.0**62).all(axis=1)
            steps = np.where(finite[:, None], places, 0)[:, None, :] + shifts[:, None]
            found = (np.floor(steps).astype(np.int64) * factors).sum(axis=2)
        found[~finite] = -1 - (done + np.flatnonzero(~finite))[:, None]
        codes[done : done + len(part)] = found
        done += len(part)
    return codes, squared


def _scale(
    vectors: Float[np.ndarray, "N D"], firsts: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " D"], float, float]:
    """Return the mean row, the mean squared distance from it, and the median squared length."""
    some = np.unique(np.linspace(0, len(firsts) - 1, min(SAMPLED, len(firsts))).astype(int))
    rows = take(vectors, firsts[some]).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = (rows**2).sum(axis=1)
        usable = np.isfinite(squares) & (squares < np.finfo(np.float32).max)
    if not usable.any():
        return np.zeros(vectors.shape[1], dtype=np.float32), 0.0, 0.0
    rows = rows[usable]
    centre = rows.mean(axis=0)
    spread = float(((rows - centre) ** 2).sum(axis=1).mean())
    return centre.astype(np.float32), spread, float(np.median(squares[usable]))


def _pairs_of(
    vectors: Float[np.ndarray, "N D"],
    firsts: Int[np.ndarray, " n"],
    codes: Int[np.ndarray, " n"],
    squared: float,
) -> Int[np.ndarray, "p 2"]:
    """Return pairs (row, copy) of one grid, a row of each cell against the others in it."""
    order = np.argsort(codes, kind="stable")
    codes, rows = codes[order], firsts[order]
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for _ in range(MAX_DISTINCT):
        is_first = np.concatenate([[True], codes[1:] != codes[:-1]])
        head = rows[np.maximum.accumulate(np.where(is_first, np.arange(len(rows)), 0))]
        alone = is_first & np.concatenate([is_first[1:], [True]])
        rows, codes, head, is_first = (of[~alone] for of in (rows, codes, head, is_first))
        if len(rows) == 0:
            break
        other = ~is_first
        same = np.zeros(len(rows), dtype=bool)
        same[other] = _are_copies(vectors, head[other], rows[other], squared)
        pairs.append(np.column_stack([head[same], rows[same]]))
        rows, codes = rows[other & ~same], codes[other & ~same]
        if len(rows) == 0:
            break
    return np.concatenate(pairs)


def _are_copies(
    vectors: Float[np.ndarray, "N D"],
    one: Int[np.ndarray, " p"],
    other: Int[np.ndarray, " p"],
    squared: float,
    *,
    block: int = 4096,
) -> Bool[np.ndarray, " p"]:
    """Say of pairs of rows whether they lie within the limit; exact where a cosine is not."""
    same = np.empty(len(one), dtype=bool)
    for start in range(0, len(one), block):
        part = slice(start, start + block)
        apart = take(vectors, one[part]) - take(vectors, other[part])
        same[part] = np.einsum("md,md->m", apart, apart) <= squared
    return same


def _join(
    vectors: Float[np.ndarray, "N D"],
    near: Int[np.ndarray, " N"],
    pairs: Int[np.ndarray, "p 2"],
    squared: float,
) -> None:
    """Write the first row of each group into `near`: of rows that hang together, the first one.

    Where rows are copies in a chain, those too far from its first row make groups of their own.
    """
    from scipy.sparse import coo_array  # type: ignore[import-untyped]  # scipy has no stubs
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

    for _ in range(MAX_CHAIN):
        if len(pairs) == 0:
            return
        rows, place = np.unique(pairs, return_inverse=True)
        place = place.reshape(pairs.shape)
        graph = coo_array((np.ones(len(place)), place.T), shape=(len(rows), len(rows)))
        _, part = connected_components(graph, directed=False)
        _, start = np.unique(part, return_index=True)  # rows ascend: the first is the lowest
        first = rows[start][part]
        same = _are_copies(vectors, first, rows, squared)
        near[rows[same]] = first[same]
        pairs = pairs[~same[place].any(axis=1)]


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
