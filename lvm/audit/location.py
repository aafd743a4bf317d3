"""Where the vectors of a side lie in the bank: by content first, by keys where bits differ.

Content does not lie. A file whose keys were shifted or made up still holds vectors whose rows in
the bank can be found, and with them their true keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from lvm.audit.finding import NotEvaluable
from lvm.audit.material import Material, Side, once
from lvm.data.bank import Bank
from lvm.data.rows import KeyIndex, blocks, take

# Two vectors are one, stored with other precision, when 1 - cosine is at most this share of what it
# is between any two: where all vectors are alike, two texts may have a cosine of .999.
SAME, ROUNDING = 1e-3, 2e-6  # the second: what bfloat16 can do to a vector
SPREAD_ROWS = 4096
NUM_COPIES = 4  # rows of one key that are tried
SEARCHED = 128  # vectors whose nearest row is searched when no bit-equal one exists
ROUGH_FROM = 0.005  # share of vectors without a bit-equal row from which rough places are tried
ROUGH_BLOCK = 8192
ROUGH_AXES, ROUGH_STEP = 12, 0.1  # rounding moves a vector by .001 at most, another text by .3
_ROUGH_SEED = 20251124  # fixed: a place means the same in every process


@dataclass(frozen=True, eq=False)
class Located:
    """Windows `rows` of a side and the bank rows of their sequence: T contexts, then the target.

    -1 where a vector is in the bank neither bit by bit nor, by the file's own key, up to rounding.
    """

    rows: Int[np.ndarray, " m"]
    places: Int[np.ndarray, "m S"]  # S = T + 1
    keys: Int[np.ndarray, "m S 2"]  # of these places; undefined where -1
    ranks: Int[np.ndarray, "m S"]  # of these keys: chunks that follow each other differ by 1
    unit: int  # the step that chunks are numbered in

    def select(self, index: Int[np.ndarray, " k"]) -> Located:
        """Return some of the windows."""
        return Located(
            self.rows[index], self.places[index], self.keys[index], self.ranks[index], self.unit
        )

    @property
    def found(self) -> np.ndarray:
        """Which vectors have a place, [m, S]."""
        return self.places >= 0

    @property
    def articles(self) -> Int[np.ndarray, " m"]:
        """Article of the target, else of the last context that has a place, else -1."""
        last = self.keys[:, -2, 0] if self.places.shape[1] > 1 else self.keys[:, -1, 0]
        spare = np.where(self.places[:, -2] >= 0, last, -1)
        return np.where(self.places[:, -1] >= 0, self.keys[:, -1, 0], spare)


def locate(material: Material, side: Side, rows: Int[np.ndarray, " m"]) -> Located:
    """Find the sequences of the given windows in the bank.

    Among equal rows the one that continues the window's run is chosen. Raises NotEvaluable without
    a bank, or with one of another width.
    """
    bank = material.pool
    if side.windows is not None:
        places = np.column_stack([side.windows.contexts[rows], side.windows.targets[rows]])
        return _located(material, rows, places)
    if side.width != bank.width:
        raise NotEvaluable(
            f"the {side.name} vectors have width {side.width}, but the bank has {bank.width}",
            "fix what SCHEMA names",
        )
    sequences = np.concatenate([side.contexts(rows), side.targets(rows)[:, None]], axis=1)
    flat = side.stored(sequences.reshape(-1, side.width))
    places = find_rows(material, flat).reshape(len(rows), -1)
    places = _choose_copies(material, places)
    places = _by_key(material, side, rows, sequences, places)
    return _located(material, rows, places)


def _located(
    material: Material, rows: Int[np.ndarray, " m"], places: Int[np.ndarray, "m S"]
) -> Located:
    keys = material.pool.keys[places]
    ranks = material.by_key.ranks(keys.reshape(-1, 2)).reshape(places.shape)
    return Located(rows, places, keys, ranks, material.by_key.unit)


def _choose_copies(material: Material, places: Int[np.ndarray, "m S"]) -> Int[np.ndarray, "m S"]:
    """Replace a row that has equal ones by the copy whose key continues the window's run.

    The run is read off the vectors that exist once: each says which key every other place of the
    window should have.
    """
    content, bank, index = material.content, material.pool, material.by_key
    several = (places >= 0) & (content.copies[places] > 1)
    todo = np.flatnonzero(several.any(axis=1))
    if len(todo) == 0:
        return places
    chosen, steps = places.copy(), np.arange(places.shape[1])
    for anchor in range(places.shape[1]):
        usable = todo[(places[todo, anchor] >= 0) & ~several[todo, anchor]]
        if len(usable) == 0:
            continue
        key = bank.keys[places[usable, anchor]].astype(np.int64)
        for slot in np.flatnonzero(several[usable].any(axis=0)):
            row = index.step(key, int(steps[slot] - anchor))
            same = (row >= 0) & (places[usable, slot] >= 0)
            same &= content.group[np.maximum(row, 0)] == content.group[places[usable, slot]]
            chosen[usable[same], slot] = row[same]
    return chosen


def _by_key(
    material: Material,
    side: Side,
    rows: Int[np.ndarray, " m"],
    sequences: Float[np.ndarray, "m S D"],
    places: Int[np.ndarray, "m S"],
) -> Int[np.ndarray, "m S"]:
    """Give vectors without a bit-equal row the row of their key, where that is the same vector."""
    if side.keys is None or (places >= 0).all():
        return places
    filled, steps = places.copy(), np.arange(1 - places.shape[1], 1)
    for slot, step in enumerate(steps):
        lost = np.flatnonzero(places[:, slot] < 0)
        row, same = in_run(material, side.keys[rows[lost]], int(step), sequences[lost, slot])
        filled[lost, slot] = np.where(same, row, -1)
    return filled


@once
def _rough(material: Material) -> RoughIndex:
    return RoughIndex(material.pool.vectors)


def find_rows(material: Material, vectors: Float[np.ndarray, "M D"]) -> Int[np.ndarray, " M"]:
    """Return the bank row of each vector: equal bits, else the same up to length and rounding; -1.

    A file that was scaled to length 1 once more, or that went through another precision, has the
    bits of no row, and yet every vector has a place.
    """
    places = np.array(material.content.find(vectors))
    lost = np.flatnonzero(places < 0)
    if len(lost) <= ROUGH_FROM * len(places):
        return places
    rough = _rough(material)
    for start in range(0, len(lost), ROUGH_BLOCK):
        part = lost[start : start + ROUGH_BLOCK]
        places[part] = rough.find(take(vectors, part))
    return places


class RoughIndex:
    """Rows of a table found by their direction, up to rounding.

    Rows are projected on a few random axes and cut into steps far wider than any rounding. A vector
    that falls next to an edge is caught by the second grid, half a step away. What is found is
    compared in full.
    """

    def __init__(self, table: Float[np.ndarray, "N D"]) -> None:
        rng = np.random.default_rng(_ROUGH_SEED)
        self._table = table
        self._centre, self._spread = centre_and_spread(table)
        self._same = same_limit(self._spread)
        self._axes = rng.standard_normal((table.shape[1], ROUGH_AXES)).astype(np.float32)
        self._factors = rng.integers(2**63, size=ROUGH_AXES, dtype=np.int64) | 1
        codes = [self._codes(np.asarray(rows)) for _, rows in blocks(table)]
        self._grids = []
        for grid in np.concatenate(codes).T:
            order = np.argsort(grid, kind="stable")
            self._grids.append((grid[order], order))

    def find(self, vectors: Float[np.ndarray, "M D"]) -> Int[np.ndarray, " M"]:
        """Return the first row with the direction of each vector, -1 where there is none."""
        found = np.full(len(vectors), -1)
        wanted, codes = unit(vectors), self._codes(vectors)
        for (grid, order), code in zip(self._grids, codes.T, strict=True):
            at = np.searchsorted(grid, code).clip(max=len(grid) - 1)
            hit = np.flatnonzero((found < 0) & (grid[at] == code))
            rows = order[at[hit]]
            same = np.einsum("md,md->m", unit(take(self._table, rows)), wanted[hit]) >= self._same
            found[hit[same]] = rows[same]
        return found

    def _codes(self, vectors: Float[np.ndarray, "n D"]) -> Int[np.ndarray, "n 2"]:
        """Return the cell of each vector in both grids; a row without direction gets any cell."""
        beside = (unit(vectors.astype(np.float32)) - self._centre) / max(self._spread, 1e-6) ** 0.5
        steps = np.nan_to_num(beside @ self._axes) / ROUGH_STEP
        cells = np.stack([np.floor(steps), np.floor(steps + 0.5)], axis=1).astype(np.int64)
        with np.errstate(over="ignore"):
            return np.asarray((cells * self._factors).sum(axis=2))


def in_run(
    material: Material, keys: Int[np.ndarray, "m 2"], step: int, vectors: Float[np.ndarray, "m D"]
) -> tuple[Int[np.ndarray, " m"], Bool[np.ndarray, " m"]]:
    """Return the row `step` chunks from each key, and whether the vector is that row's.

    Counted by number, since the bank may lack a chunk that the window has; else in the order of
    the bank's chunks, since numbers may have gaps.
    """
    bank, index, limit = material.pool, material.by_key, same_from(material)
    keys = keys.astype(np.int64)
    row, cosine = best_by_key(bank, index, keys + np.array([0, step * index.unit]), vectors)
    same = cosine >= limit
    other = np.flatnonzero(~same)
    if step and len(other):
        found, cosine = best_by_key(bank, index, keys[other], vectors[other], step)
        hit = (cosine >= limit) | (row[other] < 0)
        row[other[hit]], same[other] = found[hit], cosine >= limit
    return row, same


def best_by_key(
    bank: Bank,
    index: KeyIndex,
    keys: Int[np.ndarray, "m 2"],
    vectors: Float[np.ndarray, "m D"],
    step: int = 0,
) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Return for each key its row nearest to the vector, and the cosine; -1 and NaN without one.

    With a step, the rows so many chunks on in the order of the article.
    """
    best, cosine = np.full(len(keys), -1), np.full(len(keys), np.nan)
    wanted = unit(vectors)
    for copy in range(min(NUM_COPIES, index.most_copies)):
        row = index.step(keys, step, copy) if step else index.find(keys, copy)
        there = np.flatnonzero(row >= 0)
        if len(there) == 0:
            break
        found = np.einsum("md,md->m", unit(take(bank.vectors, row[there])), wanted[there])
        better = ~(found <= cosine[there])  # NaN: nothing before
        best[there[better]], cosine[there[better]] = row[there[better]], found[better]
    return best, cosine


def centre_and_spread(table: Float[np.ndarray, "N D"]) -> tuple[Float[np.ndarray, " D"], float]:
    """Return the mean of the unit rows of a table, and 1 - the mean cosine of two of them."""
    some = np.unique(np.linspace(0, len(table) - 1, min(SPREAD_ROWS, len(table))).astype(int))
    rows = unit(take(table, some))
    rows = rows[np.isfinite(rows).all(axis=1)].astype(np.float64)
    n = len(rows)
    if n < 2:
        return np.zeros(table.shape[1], dtype=np.float32), 1.0
    centre = rows.mean(axis=0)
    random = (n * float(centre @ centre) - 1) / (n - 1)
    return centre.astype(np.float32), float(np.clip(1 - random, 0, 1))


def same_limit(spread: float) -> float:
    """Return the cosine from which two vectors are one, where two of them have 1 - `spread`."""
    return 1 - max(SAME * spread, ROUNDING)


@once
def same_from(material: Material) -> float:
    """Return the cosine from which two vectors of this bank are one."""
    return same_limit(centre_and_spread(material.pool.vectors)[1])


def nearest(
    bank: Bank, vectors: Float[np.ndarray, "m D"]
) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Return the nearest row of the bank by cosine, and the cosine; one pass over the bank."""
    import torch

    queries = torch.from_numpy(unit(vectors).T.copy())
    best, row = torch.full((len(vectors),), -2.0), torch.zeros(len(vectors), dtype=torch.int64)
    for start, part in blocks(bank.vectors):
        scores = torch.from_numpy(unit(np.asarray(part, dtype=np.float32))) @ queries
        value, place = scores.nan_to_num(-2.0).max(dim=0)
        better = value > best
        best, row = torch.where(better, value, best), torch.where(better, place + start, row)
    return row.numpy(), best.numpy()


def unit(rows: Float[np.ndarray, "*rows D"]) -> Float[np.ndarray, "*rows D"]:
    """Return rows of length 1 in float32; one that is zero, too long or not finite becomes NaN."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        # A third of the time of numpy.linalg.norm, and no temporary as large as the rows.
        lengths = np.sqrt(np.matmul(rows[..., None, :], rows[..., :, None])[..., 0])
        usable = (lengths > 1e-6) & (lengths < np.inf)
        return np.asarray(rows / np.where(usable, lengths, np.nan), dtype=np.float32)


def unit_or_zero(rows: Float[np.ndarray, "*rows D"]) -> Float[np.ndarray, "*rows D"]:
    """Return rows of length 1 in float32; one that has no direction becomes zero."""
    found = unit(rows)
    found[np.isnan(found[..., 0])] = 0
    return found
