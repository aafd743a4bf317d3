"""NumPy files without copies and without pickles, and what a file is by its first bytes.

`numpy.load` can map a bare `.npy`, but reads every member of a `.npz` into memory. A member that is
stored (not compressed) is a plain `.npy` at a known offset of the file, so it can be mapped in
place. Object arrays are pickles and are never read here.
"""

from __future__ import annotations

import errno
import lzma
import math
import os
import secrets
import shutil
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, BinaryIO, Literal

import numpy as np

from lvm.core.errors import DataError
from lvm.core.files import whole_file
from lvm.core.outside import brief, regular

LOCAL_HEADER_BYTES = 30  # fixed part of a zip member's own header (APPNOTE.TXT, section 4.3.7)
SPOOL_BYTES = 256 << 20  # a larger compressed member is unpacked to a temporary file, not to memory
PARQUET, ARRAY, SAFETENSORS = "a Parquet file", "a single array (.npy)", "a safetensors file"
MAGIC = {
    b"PK": "a .npz or another zip file",
    b"PAR1": PARQUET,
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": ARRAY,
    b"IxF": "a FAISS index",
    b"Iw": "a FAISS index",
    b"SQLite": "a SQLite database",
    b"\x1f\x8b": "a gzip file",
    b"%PDF": "a PDF",
}


def check_exists(path: Path) -> None:
    """Raise DataError when there is nothing at `path`."""
    if not path.exists():
        raise DataError(f"{path} does not exist; check the path.")


def map_npy(path: Path) -> np.ndarray:
    """Return the array of a `.npy` file, memory-mapped read-only.

    Raises DataError when the file is missing, truncated, not a `.npy`, or holds objects.
    """
    check_exists(path)
    try:
        with regular(path).open("rb") as handle:
            return _map_npy(handle, os.fstat(handle.fileno()).st_size, str(path))
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error}); check the file and its permissions."
        ) from None


def open_npz(path: Path) -> Mapping[str, np.ndarray]:
    """Open a `.npz` as a mapping from names to arrays; an array is read when it is asked for.

    Stored members come as read-only memory maps, compressed ones are unpacked (large ones to an
    unnamed temporary file that is then mapped). Raises DataError, here or at the look-up, naming
    file and member: missing file, no zip, truncated, encrypted, no `.npy`, array of objects.
    """
    check_exists(path)
    try:
        with zipfile.ZipFile(regular(path)) as archive:
            return _Npz(path, {info.filename: info for info in archive.infolist()})
    except (*_DAMAGED, ValueError) as error:
        kind = kind_of(path)
        if kind not in (None, MAGIC[b"PK"]):
            raise DataError(f"{path} is {kind}; write it as a .npz.") from None
        raise DataError(
            f"{path} is not a complete .npz file ({error}); copy or write it again."
        ) from None


class _Npz(Mapping[str, np.ndarray]):
    """Members of one `.npz` by name, without the `.npy` ending."""

    def __init__(self, path: Path, infos: Mapping[str, zipfile.ZipInfo]) -> None:
        self._path = path
        self._infos = {name.removesuffix(".npy"): info for name, info in infos.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def __getitem__(self, name: str) -> np.ndarray:
        info = self._infos[name]
        where = f"{self._path}, member {name}"
        try:
            if info.flag_bits & 1:
                raise DataError(f"{where} is encrypted; write it again without a password.")
            if info.compress_type == zipfile.ZIP_STORED:
                with self._path.open("rb") as handle:
                    _seek_to_data(handle, info, where)
                    return _map_npy(handle, info.file_size, where)
            with zipfile.ZipFile(self._path) as archive, archive.open(info) as stream:
                return _unpack_npy(stream, info.file_size, where)
        except _DAMAGED as error:
            if isinstance(error, OSError) and error.errno in _FULL:
                raise DataError(
                    f"{where} could not be unpacked: no space left in {tempfile.gettempdir()}; "
                    "free some, or set TMPDIR to another folder."
                ) from None
            raise DataError(
                f"{where} is damaged ({error}); copy or write the file again."
            ) from None


_FULL = (errno.ENOSPC, errno.EDQUOT)
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    OSError,
    EOFError,
    NotImplementedError,
)


def _seek_to_data(handle: IO[bytes], info: zipfile.ZipInfo, where: str) -> None:
    # The directory at the end does not know the length of the local extra field: read it there.
    handle.seek(info.header_offset)
    header = handle.read(LOCAL_HEADER_BYTES)
    if len(header) < LOCAL_HEADER_BYTES or not header.startswith(b"PK\x03\x04"):
        raise DataError(f"{where} has no header, so the file is damaged; copy or write it again.")
    handle.seek(sum(int.from_bytes(header[i : i + 2], "little") for i in (26, 28)), os.SEEK_CUR)


def read_npy_header(
    handle: IO[bytes], where: str
) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """Read a `.npy` header and return (shape, whether the order is Fortran's, dtype)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python's parser, on odd text
            version = np.lib.format.read_magic(handle)
            if version == (1, 0):
                return np.lib.format.read_array_header_1_0(handle)
            if version == (2, 0):
                return np.lib.format.read_array_header_2_0(handle)
    except Exception as error:  # NumPy parses it as Python, which may fail in any way
        told = str(error).splitlines() or [type(error).__name__]
        raise DataError(f"{where} is not a .npy array ({told[0][:200]}); write it again.") from None
    raise DataError(f"{where} has .npy version {version}; write it again as version 1.0 or 2.0.")


def _plain_header(
    handle: IO[bytes], size: int, where: str
) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype[np.generic]]:
    """Return shape, order and dtype of a `.npy` of `size` bytes, checked against that size."""
    begin = handle.tell()
    shape, fortran, dtype = read_npy_header(handle, where)
    if dtype.hasobject:
        raise DataError(
            f"{where} holds Python objects (a pickle); write it again as a plain array of "
            "numbers or text."
        )
    if dtype.itemsize == 0:
        raise DataError(f"{where} has elements of size zero ({brief(dtype)}); write it again.")
    present = size - (handle.tell() - begin)
    wanted = dtype.itemsize
    for n in shape:  # Python integers: a forged shape must not wrap around
        wanted *= n
    sizes = all(type(n) is int for n in shape)  # True is a number for Python, and no length
    if not sizes or min(shape, default=0) < 0 or wanted != present:
        raise DataError(
            f"{where} holds {present} bytes of data but shape {shape} of {brief(dtype)} needs "
            f"{wanted}, so the file is damaged; copy or write it again."
        )
    return shape, "F" if fortran else "C", dtype


def _map_npy(handle: BinaryIO, size: int, where: str) -> np.ndarray:
    if os.fstat(handle.fileno()).st_size < handle.tell() + size:
        raise DataError(f"{where} is truncated; copy or write the file again.")
    shape, order, dtype = _plain_header(handle, size, where)
    offset = handle.tell()
    if 0 in shape:  # an empty range cannot be mapped
        return _empty(shape, dtype, where)
    return np.memmap(handle, dtype=dtype, mode="r", offset=offset, shape=shape, order=order)


def _unpack_npy(stream: IO[bytes], size: int, where: str) -> np.ndarray:
    if size > SPOOL_BYTES:
        with tempfile.TemporaryFile() as spool:  # the map keeps the nameless file alive
            shutil.copyfileobj(stream, spool, 1 << 20)
            spool.seek(0)
            return _map_npy(spool, size, where)
    shape, order, dtype = _plain_header(stream, size, where)
    if 0 in shape:
        return _empty(shape, dtype, where)
    data = bytearray(stream.read())
    if len(data) != math.prod(shape) * dtype.itemsize:  # the directory of a zip can be forged
        raise DataError(f"{where} is truncated; copy or write the file again.")
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _empty(shape: tuple[int, ...], dtype: np.dtype[np.generic], where: str) -> np.ndarray:
    try:
        return np.empty(shape, dtype)
    except ValueError:
        raise DataError(f"{where} has the impossible shape {shape}; write it again.") from None


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an uncompressed `.npz` (so that it can be mapped), or nothing if that fails."""
    with whole_file(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def sibling(path: Path) -> Path:
    """Return an unused hidden path next to `path`, to write to before renaming."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


def sync(handle: IO[bytes] | IO[str]) -> None:
    """Push a written file to the disk, so that a rename never outruns its content."""
    handle.flush()
    os.fsync(handle.fileno())


def kind_of(path: Path) -> str | None:
    """Return what a file is, in words; None for what is not known by its first bytes."""
    try:
        with regular(path).open("rb") as handle:
            start = handle.read(9)
        size = path.stat().st_size
    except OSError:
        return None
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") < size:
        return SAFETENSORS
    return next((name for magic, name in MAGIC.items() if start.startswith(magic)), None)
