"""Rows of large arrays: read block by block without keeping them, found again by content or by key.

A memory-mapped file counts as memory of the process once its pages were touched. `blocks` gives
them back as it goes, so that a pass over 6 GB holds a few megabytes.
"""

from __future__ import annotations

import functools
import mmap
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

BLOCK_BYTES = 16 << 20
TAKEN_ROWS = 512
MIXED_ROWS = 64  # at once, so that they stay near the processor
_MIXING_SEED = 20251027  # fixed: a digest means the same in every process


def blocks(array: np.ndarray, *, num_bytes: int = BLOCK_BYTES) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first row, rows) over axis 0, and give mapped pages back after each block."""
    per_row = max(1, array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64)))
    step = max(1, num_bytes // per_row)
    _advise(array, mmap.MADV_SEQUENTIAL)
    for start in range(0, len(array), step):
        yield start, array[start : start + step]
        release(array)
    _advise(array, mmap.MADV_NORMAL)


def take(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return a float32 copy of the given rows, shape [*rows.shape, ...].

    Mapped pages are given back every few rows: the system maps far more than the rows asked for.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if getattr(array, "_mmap", None) is None:
            return np.asarray(array[rows], dtype=np.float32)
        flat = rows.ravel()
        taken = np.empty((len(flat), *array.shape[1:]), dtype=np.float32)
        _advise(array, mmap.MADV_RANDOM)  # else the disk reads far more than the rows asked for
        for start in range(0, len(flat), TAKEN_ROWS):
            part = flat[start : start + TAKEN_ROWS]
            taken[start : start + len(part)] = array[part]
            release(array)
        _advise(array, mmap.MADV_NORMAL)
    return taken.reshape(*rows.shape, *array.shape[1:])


def release(array: np.ndarray) -> None:
    """Drop the pages of a mapped file from this process; the system's cache keeps them."""
    _advise(array, mmap.MADV_DONTNEED)


def _advise(array: np.ndarray, advice: int) -> None:
    mapped = getattr(array, "_mmap", None)
    if mapped is not None:
        mapped.madvise(advice)


# --- by content -----------------------------------------------------------------------------------


def digests(
    vectors: Float[np.ndarray, "N D"], dtype: np.dtype[np.generic]
) -> Int[np.ndarray, " N"]:
    """Return a 64-bit digest per row, read as `dtype`: equal rows have equal digests.

    Rows that differ collide with a probability of about 2^-50 a pair (a random linear form over the
    integers modulo 2^64, of mixed words).
    """
    found = np.empty(len(vectors), dtype=np.uint64)
    for start, rows in blocks(vectors):
        with np.errstate(over="ignore", invalid="ignore"):
            found[start : start + len(rows)] = _mix(np.ascontiguousarray(rows, dtype=dtype))
    return found


def _mix(rows: np.ndarray) -> Int[np.ndarray, " n"]:
    data = rows.view(np.uint8).reshape(len(rows), -1)
    if data.shape[1] % 8:
        data = np.pad(data, ((0, 0), (0, 8 - data.shape[1] % 8)))
    words = data.view(np.uint64)
    factors, mixed = _factors(words.shape[1]), np.empty(len(words), dtype=np.uint64)
    for start in range(0, len(words), MIXED_ROWS):
        part = words[start : start + MIXED_ROWS]
        part = part ^ (part >> np.uint64(29))
        np.einsum("nw,w->n", part, factors, out=mixed[start : start + MIXED_ROWS])
    return np.asarray(mixed ^ (mixed >> np.uint64(32)))


@functools.cache
def _factors(count: int) -> np.ndarray:
    drawn = np.random.default_rng(_MIXING_SEED).integers(2**64, size=count, dtype=np.uint64)
    return drawn | np.uint64(1)


class Digests:
    """Positions of digests, the first one of equal ones."""

    def __init__(self, codes: Int[np.ndarray, " N"]) -> None:
        self.codes = codes
        self._order = np.argsort(codes, kind="stable")  # equal ones stay in the order of rows
        self._sorted = codes[self._order]

    def find(self, wanted: Int[np.ndarray, " M"]) -> Int[np.ndarray, " M"]:
        """Return the first position of each digest, -1 where there is none."""
        if len(self.codes) == 0:
            return np.full(len(wanted), -1, dtype=np.int64)
        at = np.searchsorted(self._sorted, wanted).clip(max=len(self.codes) - 1)
        return np.where(self._sorted[at] == wanted, self._order[at], -1)

    @functools.cached_property
    def group(self) -> Int[np.ndarray, " N"]:
        """For every position, the first one with the same digest."""
        first = np.flatnonzero(np.concatenate([[True], self._sorted[1:] != self._sorted[:-1]]))
        sizes = np.diff(np.concatenate([first, [len(self.codes)]]))
        group = np.empty(len(self.codes), dtype=np.int64)
        group[self._order] = np.repeat(self._order[first], sizes)
        return group


class ContentIndex:
    """Rows of a table found by their content.

    Tables of two types are compared in the narrower one, so that a float16 copy of a float32 row is
    found and the other way round.
    """

    def __init__(self, table: Float[np.ndarray, "N D"]) -> None:
        self._table = table
        self._of: dict[np.dtype[np.generic], Digests] = {}

    def find(self, vectors: Float[np.ndarray, "M D"]) -> Int[np.ndarray, " M"]:
        """Return the first row equal to each vector, -1 where there is none."""
        dtype = min(self._table.dtype, vectors.dtype, key=lambda t: t.itemsize)
        return self._digests(dtype).find(digests(vectors, _narrow(dtype)))

    @functools.cached_property
    def group(self) -> Int[np.ndarray, " N"]:
        """For every row of the table, the first row equal to it."""
        return self._digests(self._table.dtype).group

    @functools.cached_property
    def copies(self) -> Int[np.ndarray, " N"]:
        """For every row of the table, how many rows equal it, itself counted."""
        return np.asarray(np.bincount(self.group, minlength=len(self.group))[self.group])

    def _digests(self, dtype: np.dtype[np.generic]) -> Digests:
        dtype = _narrow(dtype)
        if dtype not in self._of:
            self._of[dtype] = Digests(digests(self._table, dtype))
        return self._of[dtype]


def _narrow(dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    return np.dtype(np.float32) if dtype.itemsize > 4 else dtype


# --- by key ---------------------------------------------------------------------------------------


class KeyIndex:
    """Rows of a table found by their key (article, chunk)."""

    def __init__(self, keys: Int[np.ndarray, "N 2"]) -> None:
        codes = key_codes(keys)
        self._order = np.argsort(codes, kind="stable")
        self.codes = codes[self._order]  # sorted
        self._keys, self._articles = keys, keys[:, 0]

    def find(self, keys: Int[np.ndarray, "M 2"], copy: int = 0) -> Int[np.ndarray, " M"]:
        """Return the row of each key, the `copy`-th of several, -1 where there is none."""
        wanted = key_codes(keys)
        at = np.searchsorted(self.codes, wanted) + copy
        inside = at < len(self.codes)
        at = np.where(inside, at, 0)
        if len(self.codes) == 0:
            return np.full(len(wanted), -1)
        return np.where(inside & (self.codes[at] == wanted), self._order[at], -1)

    def step(self, keys: Int[np.ndarray, "M 2"], by: int, copy: int = 0) -> Int[np.ndarray, " M"]:
        """Return the row `by` chunks on in the order of each key's article, -1 where there is none.

        Chunk numbers may have gaps: the next chunk is the one that comes next. From a key that the
        table does not hold, counting starts at the place where it would be.
        """
        if len(self.codes) == 0:
            return np.full(len(keys), -1)
        wanted, distinct = key_codes(keys), self._distinct
        at = np.searchsorted(distinct, wanted)
        known = distinct[at.clip(max=len(distinct) - 1)] == wanted
        at = at + by - (~known & (by > 0))
        inside = (at >= 0) & (at < len(distinct)) & (known | (by != 0))
        place = np.searchsorted(self.codes, distinct[np.where(inside, at, 0)]) + copy
        inside &= place < len(self.codes)
        place = np.where(inside, place, 0)
        inside &= self.codes[place] == distinct[np.where(inside, at, 0)]
        row = self._order[place]
        return np.where(inside & (self._articles[row] == keys[:, 0]), row, -1)

    def ranks(self, keys: Int[np.ndarray, "M 2"]) -> Int[np.ndarray, " M"]:
        """Return the place of each key among all distinct ones in their order.

        Chunks that follow each other in an article differ by 1, whatever their numbers.
        """
        return np.searchsorted(self._distinct, key_codes(keys))

    @functools.cached_property
    def _distinct(self) -> Int[np.ndarray, " n"]:
        return np.unique(self.codes)

    @functools.cached_property
    def unit(self) -> int:
        """The step that chunks are numbered in: 10 for 0, 10, 20."""
        return chunk_unit(self._keys)

    @functools.cached_property
    def most_copies(self) -> int:
        """How many rows the most frequent key has."""
        _, counts = np.unique(self.codes, return_counts=True)
        return int(counts.max(initial=0))


def chunk_unit(keys: Int[np.ndarray, "N 2"]) -> int:
    """Return the greatest number that divides every distance of two chunks of one article.

    It is 1 for chunks numbered 0, 1, 2, with or without gaps, and 10 for 0, 10, 20.
    """
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    article, chunk = keys[order, 0].astype(np.int64), keys[order, 1].astype(np.int64)
    steps = np.diff(chunk)[np.diff(article) == 0]
    return max(1, int(np.gcd.reduce(steps))) if len(steps) else 1


def key_codes(keys: Int[np.ndarray, "N 2"]) -> Int[np.ndarray, " N"]:
    """Return one int64 per key, in the order of (article, chunk); neighbours differ by 1."""
    return np.asarray(keys[:, 0].astype(np.int64) * 2**32 + keys[:, 1].astype(np.int64))
