"""Repaired files on disk: large arrays block by block, several files all or none.

An uncompressed `.npz` is written member by member, so that a file of several gigabytes passes
through a few megabytes of memory and can be memory-mapped afterwards.
"""

from __future__ import annotations

import contextlib
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from lvm.core.errors import UsageError
from lvm.data.npz import sibling, sync
from lvm.data.rows import BLOCK_BYTES, release

LENGTH_TOLERANCE = 1e-3  # a vector this near to length 1 keeps its bits

Write = Callable[[Path], None]  # writes one file, or one folder, at the path it is given


@dataclass(frozen=True, kw_only=True, eq=False)
class Stream:
    """One array as blocks over its first axis."""

    shape: tuple[int, ...]
    dtype: np.dtype
    blocks: Callable[[], Iterator[np.ndarray]]


def whole(array: np.ndarray) -> Stream:
    """Return a small array as a stream of one block."""
    return Stream(shape=array.shape, dtype=array.dtype, blocks=lambda: iter([array]))


def selected(array: np.ndarray, rows: Int[np.ndarray, " n"], *, scale: bool = False) -> Stream:
    """Return the given rows of a (mapped) array as a stream, scaled to length 1 if asked."""

    def blocks() -> Iterator[np.ndarray]:
        for part in row_blocks(rows, array):
            block = np.array(array[part])
            release(array)
            yield scaled(block) if scale else block

    return Stream(shape=(len(rows), *array.shape[1:]), dtype=array.dtype, blocks=blocks)


def row_blocks(rows: Int[np.ndarray, " n"], array: np.ndarray) -> Iterator[Int[np.ndarray, " b"]]:
    """Yield the row numbers in parts that take a few megabytes of the array each."""
    per_row = max(1, array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64)))
    step = max(1, BLOCK_BYTES // per_row)
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def scaled(block: Float[np.ndarray, "n *more D"]) -> Float[np.ndarray, "n *more D"]:
    """Return vectors of length 1 in their own type; those that have it keep their bits.

    So does one that no length 1 can be given to: zero, not finite, or too long to be squared.
    """
    values = np.asarray(block, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        lengths = np.linalg.norm(values, axis=-1, keepdims=True)
        unit = (values / lengths).astype(block.dtype)
    usable = (lengths > 0) & (lengths < np.inf)
    return np.where(usable & (np.abs(lengths - 1) > LENGTH_TOLERANCE), unit, block)


def write_streams(path: Path, members: Mapping[str, Stream]) -> None:
    """Write an uncompressed `.npz` from streams, one block in memory at a time."""
    with path.open("wb") as handle:
        with zipfile.ZipFile(handle, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name, stream in members.items():
                # A name without a date: equal content gives equal files.
                info = zipfile.ZipInfo(f"{name}.npy")
                with archive.open(info, "w", force_zip64=True) as member:
                    header = {
                        "descr": np.lib.format.dtype_to_descr(stream.dtype),
                        "fortran_order": False,
                        "shape": stream.shape,
                    }
                    np.lib.format.write_array_header_1_0(member, header)
                    for block in stream.blocks():
                        member.write(np.ascontiguousarray(block, dtype=stream.dtype).tobytes())
        sync(handle)


def write_all(writes: Mapping[Path, Write]) -> None:
    """Write every file, or none: each next to its place first, then all are renamed.

    Raises UsageError when something is at one of the places.
    """
    for path in writes:
        refuse_taken(path)
    missing = [p for path in writes for p in path.parents if not p.exists()]
    drafts: dict[Path, Path] = {}
    placed: list[Path] = []
    try:
        for path, write in writes.items():
            drafts[path] = sibling(path)
            write(drafts[path])
        for path, draft in drafts.items():
            refuse_taken(path)
            draft.rename(path)
            placed.append(path)
    except BaseException:
        for path in [*placed, *drafts.values()]:
            _remove(path)
        for folder in sorted(set(missing), key=lambda p: -len(p.parts)):
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def refuse_taken(path: Path) -> None:
    """Raise UsageError when a file, or a folder with content, is at `path`."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() or path.is_symlink():
        raise UsageError(
            f"{path} exists, and a repair never overwrites; choose a new file or an empty folder."
        )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
