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
_MIXING_SEED = 20251027  # fixed: a digest means the same in every process


def blocks(array: np.ndarray, *, num_bytes: int = BLOCK_BYTES) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first row, rows) over axis 0, and give mapped pages back after each block."""
    per_row = max(1, array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64)))
    step = max(1, num_bytes // per_row)
    for start in range(0, len(array), step):
        yield start, array[start : start + step]
        release(array)


def take(array: np.ndarray, rows: Int[np.ndarray, " n"]) -> np.ndarray:
    """Return a float32 copy of the given rows, and give mapped pages back."""
    taken = np.array(array[rows], dtype=np.float32)
    release(array)
    return taken


def release(array: np.ndarray) -> None:
    """Drop the pages of a mapped file from this process; the system's cache keeps them."""
    mapped = getattr(array, "_mmap", None)
    if mapped is not None:
        mapped.madvise(mmap.MADV_DONTNEED)


# --- by content -----------------------------------------------------------------------------------


def digests(vectors: Float[np.ndarray, "N D"], dtype: np.dtype) -> Int[np.ndarray, " N"]:
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
    words = words ^ (words >> np.uint64(29))
    mixed: np.ndarray = (words * _factors(words.shape[1])).sum(axis=1, dtype=np.uint64)
    return mixed ^ (mixed >> np.uint64(32))


@functools.cache
def _factors(count: int) -> np.ndarray:
    drawn = np.random.default_rng(_MIXING_SEED).integers(2**64, size=count, dtype=np.uint64)
    return drawn | np.uint64(1)


class ContentIndex:
    """Rows of a table found by their content.

    Tables of two types are compared in the narrower one, so that a float16 copy of a float32 row is
    found and the other way round.
    """

    def __init__(self, table: Float[np.ndarray, "N D"]) -> None:
        self._table = table
        self._of: dict[np.dtype, tuple[np.ndarray, np.ndarray]] = {}

    def find(self, vectors: Float[np.ndarray, "M D"]) -> Int[np.ndarray, " M"]:
        """Return the first row equal to each vector, -1 where there is none."""
        dtype = min(self._table.dtype, vectors.dtype, key=lambda t: t.itemsize)
        if dtype.itemsize > 4:
            dtype = np.dtype(np.float32)
        codes, order = self._sorted(dtype)
        wanted = digests(vectors, dtype)
        at = np.searchsorted(codes, wanted).clip(max=max(0, len(codes) - 1))
        return np.where(codes[at] == wanted, order[at], -1) if len(codes) else at - 1

    @functools.cached_property
    def group(self) -> Int[np.ndarray, " N"]:
        """For every row of the table, the first row equal to it."""
        codes, order = self._sorted(np.dtype(min(self._table.dtype, np.dtype(np.float32))))
        first = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
        sizes = np.diff(np.concatenate([first, [len(codes)]]))
        group = np.empty(len(codes), dtype=np.int64)
        group[order] = np.repeat(order[first], sizes)
        return group

    @functools.cached_property
    def copies(self) -> Int[np.ndarray, " N"]:
        """For every row of the table, how many rows equal it, itself counted."""
        return np.bincount(self.group, minlength=len(self.group))[self.group]

    def _sorted(self, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        if dtype not in self._of:
            codes = digests(self._table, dtype)
            order = np.argsort(codes, kind="stable")  # equal digests stay in the order of rows
            self._of[dtype] = (codes[order], order)
        return self._of[dtype]


# --- by key ---------------------------------------------------------------------------------------


class KeyIndex:
    """Rows of a table found by their key (article, chunk)."""

    def __init__(self, keys: Int[np.ndarray, "N 2"]) -> None:
        codes = key_codes(keys)
        self._order = np.argsort(codes, kind="stable")
        self.codes = codes[self._order]  # sorted

    def find(self, keys: Int[np.ndarray, "M 2"], copy: int = 0) -> Int[np.ndarray, " M"]:
        """Return the row of each key, the `copy`-th of several, -1 where there is none."""
        wanted = key_codes(keys)
        at = np.searchsorted(self.codes, wanted) + copy
        inside = at < len(self.codes)
        at = np.where(inside, at, 0)
        if len(self.codes) == 0:
            return np.full(len(wanted), -1)
        return np.where(inside & (self.codes[at] == wanted), self._order[at], -1)

    @functools.cached_property
    def most_copies(self) -> int:
        """How many rows the most frequent key has."""
        _, counts = np.unique(self.codes, return_counts=True)
        return int(counts.max(initial=0))


def key_codes(keys: Int[np.ndarray, "N 2"]) -> Int[np.ndarray, " N"]:
    """Return one int64 per key, in the order of (article, chunk); neighbours differ by 1."""
    codes: np.ndarray = keys[:, 0].astype(np.int64) * 2**32 + keys[:, 1].astype(np.int64)
    return codes
