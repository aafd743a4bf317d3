"""The bank: every chunk vector with its key, memory-mapped.

A bank is a folder (`vectors.npy` [N, D] float32 or float16 with unit rows, `keys.npy` [N, 2] int32
as (article, chunk), `manifest.json`, optional `texts.jsonl` or `texts.jsonl.gz`) or one `.npz` with
`vectors`, `keys`, `provenance`. The files module reads and writes both.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from lvm.core.errors import DataError, SchemaError
from lvm.data.copies import copy_groups
from lvm.data.rows import ContentIndex, blocks, take

MOST_AT_ONCE = 256 << 20  # bytes of rows that are looked at together
NOT_FINITE, TOO_LONG = "NaN or infinite", "too long to be squared in float32"


@dataclass(frozen=True, eq=False)
class Bank:
    """N unit vectors of width D with their keys.

    `vectors` may be memory-mapped and float16; `rows` gives float32. `articles` maps an article id
    to its title where one is known. `load_texts` returns the N chunk texts, or None.
    """

    vectors: np.ndarray  # [N, D] float16 or float32
    keys: np.ndarray  # [N, 2] int32: article, chunk
    manifest: Mapping[str, Any] = field(default_factory=dict)
    load_texts: Callable[[], list[str] | None] = lambda: None
    source: str = "memory"
    pool_size: int | None = None  # the first rows that may be retrieved; None: every row
    _on_gpu: dict[torch.device, torch.Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        vectors, keys = self.vectors, self.keys
        if vectors.ndim != 2 or vectors.dtype not in (np.float16, np.float32):
            raise SchemaError(
                f"{self.source}: vectors have shape {vectors.shape} and type {vectors.dtype}",
                "write the bank again with lvm embed.",
                allowed="[N, D] float16 or float32",
            )
        if len(vectors) == 0:
            raise SchemaError(f"{self.source}: the bank is empty", "embed at least one document.")
        if keys.shape != (len(vectors), 2) or keys.dtype.kind != "i":
            raise SchemaError(
                f"{self.source}: keys have shape {keys.shape} and type {keys.dtype}",
                allowed=f"[{len(vectors)}, 2] integers, one (article, chunk) per vector.",
            )
        if self.pool_size is not None and not 1 <= self.pool_size <= len(vectors):
            raise SchemaError(
                f"{self.source}: the pool must have 1 to {len(vectors)} rows (got "
                f"{self.pool_size})."
            )

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def width(self) -> int:
        """D, the width of a vector."""
        return int(self.vectors.shape[1])

    @property
    def articles(self) -> np.ndarray:
        """Article id of every row, [N] int32."""
        return self.keys[:, 0]

    @property
    def pool_rows(self) -> Int[np.ndarray, " P"]:
        """Ids of the rows that may be retrieved, [P] int64; rows after them only serve windows."""
        return np.arange(len(self) if self.pool_size is None else self.pool_size)

    def rows(self, ids: np.ndarray | slice) -> Float[np.ndarray, "... D"]:
        """Return the vectors with the given row ids as float32."""
        if isinstance(ids, slice):
            return np.asarray(self.vectors[ids], dtype=np.float32)
        return take(self.vectors, ids)

    @functools.cached_property
    def tensor(self) -> Float[torch.Tensor, "N D"]:
        """All rows as one float32 tensor in memory (shared when the file is float32)."""
        array = np.ascontiguousarray(self.vectors, dtype=np.float32)
        if not array.flags.writeable:
            array = array.copy()
        return torch.from_numpy(array)

    def on(self, device: torch.device) -> Float[torch.Tensor, "N D"]:
        """All rows as one float32 tensor on a device, put there once per process.

        On the CPU it is `tensor`. Training, predictions and searches share it.
        """
        if device.type == "cpu":
            return self.tensor
        if device not in self._on_gpu:
            rows = torch.empty(self.vectors.shape, dtype=torch.float32, device=device)
            for start, block in blocks(self.vectors):  # a mapped file never lies whole in memory
                rows[start : start + len(block)] = torch.from_numpy(block.astype(np.float32))
            self._on_gpu[device] = rows
        return self._on_gpu[device]

    def leave(self, device: torch.device) -> None:
        """Let go of what `on` put on a GPU; nothing on the CPU."""
        if self._on_gpu.pop(device, None) is not None:
            torch.get_device_module(device).empty_cache()  # for other processes on the same GPU

    @functools.cached_property
    def duplicate_group(self) -> Int[np.ndarray, " N"]:
        """For every row, the first row that is the same vector up to rounding, [N] int64."""
        return copy_groups(self.vectors, self.content.group)

    @functools.cached_property
    def content(self) -> ContentIndex:
        """Rows by their content."""
        return ContentIndex(self.vectors)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Return 12 hex digits that name the content of vectors and keys."""
        digest = hashlib.sha256(repr((self.vectors.shape, str(self.vectors.dtype))).encode())
        for _, rows in blocks(self.vectors):
            digest.update(np.ascontiguousarray(rows).data)
        digest.update(np.ascontiguousarray(self.keys.astype(np.int32)).tobytes())
        if self.pool_size is not None:
            digest.update(f"pool {self.pool_size}".encode())
        return digest.hexdigest()[:12]

    def titles(self) -> dict[int, str]:
        """Return article id -> title, empty when the manifest has none."""
        return {int(k): str(v) for k, v in self.manifest.get("titles", {}).items()}


def check_vectors(vectors: np.ndarray, source: str, *, block: int = 16384) -> None:
    """Refuse rows of an array [N, D] that are not finite, too long or zero, block by block.

    DataError names the first bad row and how many there are. A row is too long when its squared
    length overflows float32: no loss and no search can use it.
    """
    bad: dict[str, list[int]] = {NOT_FINITE: [], TOO_LONG: [], "zero": []}
    block = max(1, min(block, MOST_AT_ONCE // (4 * max(1, vectors.shape[1]))))
    for start in range(0, len(vectors), block):
        with np.errstate(over="ignore", invalid="ignore"):
            chunk = np.asarray(vectors[start : start + block], dtype=np.float32)
            squares = np.einsum("nd,nd->n", chunk, chunk)
        # One cheap number per row; only rows where it is odd are looked at closely.
        for i in np.flatnonzero(~(np.isfinite(squares) & (squares >= 1e-12))).tolist():
            if np.isfinite(squares[i]):
                bad["zero"].append(start + i)
            else:
                bad[TOO_LONG if np.isfinite(chunk[i]).all() else NOT_FINITE].append(start + i)
    for what, rows in bad.items():
        if rows:
            raise DataError(
                f"{source}: {len(rows)} of {len(vectors)} vectors are {what} (first: row "
                f"{rows[0]}); embed these chunks again."
            )
