"""The payload: every chunk with its text, article and vector, in the report's formats.

    P.npz            vectors, keys, provenance: a bank in one file
    P.npy            a NumPy header, then a pickle of
                     {id: (text, {"article_index": a, "chunk_index": c}, vector)}
    anything else    the same pickle without the header

A pickle is a program. This reader never hands it a real class or function: the few names that NumPy
writes stand for the passive readers below, which check what they get, and any other name is
refused. NumPy's own functions are not safe to lend, since an array of objects could be forged from
raw bytes.
"""

from __future__ import annotations

import functools
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from lvm.data.bank import Bank
from lvm.data.files import as_keys, read_bank
from lvm.data.npz import check_exists, read_npy_header
from lvm.errors import DataError, UnsafePayloadError

ADMITTED_DTYPE = re.compile(r"[fiu][1248]|b1|O8?|[SU]\d{1,9}")
KEY_NAMES = ("article_index", "chunk_index")


def read_payload(path: Path, *, check_counts: bool = True) -> Bank:
    """Read a payload (`.npz`, bank folder, pickled `.npy`, bare pickle) as a bank, in order of ids.

    Vectors of a pickle come as float16 when all are, else float32; `check_counts` is that of
    `read_bank`. Raises UnsafePayloadError when a
    pickle names anything but arrays, numbers and plain containers, DataError on other faults.
    """
    check_exists(path)
    if path.is_dir():
        return read_bank(path, check_counts=check_counts)
    try:
        with path.open("rb") as handle:
            magic = handle.read(6)
            handle.seek(0)
            if magic.startswith(b"PK"):
                return read_bank(path, check_counts=check_counts)
            if magic == np.lib.format.MAGIC_PREFIX:
                _skip_object_header(handle, str(path))
            return _bank_from_entries(_unpickle(handle, str(path)), str(path))
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error}); check the file and its rights."
        ) from None


def _skip_object_header(handle: IO[bytes], source: str) -> None:
    shape, _, dtype = read_npy_header(handle, source)
    if not dtype.hasobject or shape != ():
        raise DataError(
            f"{source} is an array of shape {shape} and type {dtype}, a payload is one pickled "
            "dictionary, or a .npz with vectors and keys; write it as .npz."
        )


# --- the restricted unpickler ---------------------------------------------------------------------


class _Dtype:
    """Stands for numpy.dtype: a plain number, text or object type."""

    __slots__ = ("value",)

    def __init__(self, code: object, *_flags: object) -> None:
        if not isinstance(code, str) or not ADMITTED_DTYPE.fullmatch(code):
            raise ValueError(f"element type {code!r} is not a plain number or text")
        self.value: np.dtype[Any] = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, byte_order, *structure = state[:5]
        if any(part is not None for part in structure):
            raise ValueError("structured element types are not plain numbers or text")
        self.value = self.value.newbyteorder(byte_order)


class _Array:
    """Stands for numpy.ndarray and the function that rebuilds one; `value` is the real array."""

    __slots__ = ("value",)

    def __init__(self, *_ignored: object) -> None:
        self.value: np.ndarray | list[Any] = []

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, is_fortran, data = state
        self.value = _values(data, dtype, shape, "F" if is_fortran else "C")


class _BufferArray(_Array):
    """Stands for the function that protocol 5 rebuilds an array with."""

    __slots__ = ()

    def __init__(self, data: object, dtype: object, shape: object, order: object) -> None:
        self.value = _values(data, dtype, shape, order)


class _Scalar:
    """Stands for the function that rebuilds a NumPy number or text."""

    __slots__ = ("value",)

    def __init__(self, dtype: object, data: object) -> None:
        self.value = np.asarray(_values(data, dtype, (), "C"))[()]

    def __setstate__(self, state: object) -> NoReturn:
        raise ValueError("a number has no state")


class _Latin1(bytes):
    """Stands for codecs.encode, which protocols 0 to 2 write raw bytes with."""

    def __new__(cls, text: str, encoding: str = "") -> _Latin1:
        if encoding != "latin1":
            raise ValueError(f"encoding {encoding!r} is not latin1")
        return super().__new__(cls, text.encode("latin1"))

    def __setstate__(self, state: object) -> NoReturn:
        raise ValueError("bytes have no state")


def _values(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray | list[Any]:
    """Return the array over `data` bytes, or the list of objects of an object array."""
    if not isinstance(dtype, _Dtype) or not isinstance(shape, tuple):
        raise ValueError("an array without element type or shape")
    if dtype.value.hasobject:
        if not isinstance(data, list):
            raise ValueError("an array of objects must be a list")
        return data
    if not isinstance(data, bytes | bytearray):
        raise ValueError("an array of numbers must be raw bytes")
    return np.frombuffer(data, dtype.value).reshape(shape, order=order)


# Both spellings of each module: NumPy 2 renamed numpy.core to numpy._core.
ADMITTED_GLOBALS: Mapping[tuple[str, str], type] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): _Scalar,
    ("numpy._core.multiarray", "scalar"): _Scalar,
    ("numpy.core.numeric", "_frombuffer"): _BufferArray,
    ("numpy._core.numeric", "_frombuffer"): _BufferArray,
    ("_codecs", "encode"): _Latin1,
    ("collections", "OrderedDict"): dict,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, handle: IO[bytes], source: str) -> None:
        super().__init__(handle)
        self._source = source

    def find_class(self, module: str, name: str) -> type:
        admitted = ADMITTED_GLOBALS.get((module, name))
        if admitted is None:
            raise UnsafePayloadError(
                f"{self._source} is a pickle that names {module}.{name}, allowed are plain "
                "containers and numpy arrays; nothing was run, write it as .npz with vectors and "
                "keys."
            )
        return admitted


def _unpickle(handle: IO[bytes], source: str) -> object:
    try:
        root = _Unpickler(handle, source).load()
    except UnsafePayloadError:
        raise
    except Exception as error:  # a damaged or hostile pickle can raise anything at all
        raise DataError(
            f"{source} is not a readable payload ({type(error).__name__}: {error}); write it as "
            ".npz with vectors and keys."
        ) from None
    root = _plain(root)
    return root[0] if isinstance(root, list) and len(root) == 1 else root


def _plain(value: object) -> object:
    return value.value if isinstance(value, _Array | _Scalar) else value


# --- entries to bank ------------------------------------------------------------------------------


def _bank_from_entries(root: object, source: str) -> Bank:
    if not isinstance(root, dict) or not root:
        seen = "an empty dictionary" if root == {} else f"a {type(root).__name__}"
        raise DataError(
            f"{source} holds {seen}, a payload is a dictionary of id -> (text, metadata, vector); "
            "write it again."
        )
    entries = {_plain(key): value for key, value in root.items()}
    ids = list(entries)
    if all(isinstance(i, int | np.integer) for i in ids):
        ids.sort()
    texts, pairs, vectors = zip(*(_entry(i, entries[i], source) for i in ids), strict=True)
    narrow = all(vector.dtype == np.float16 for vector in vectors)
    table = np.empty((len(ids), len(vectors[0])), np.float16 if narrow else np.float32)
    for row, (i, vector) in enumerate(zip(ids, vectors, strict=True)):
        if len(vector) != table.shape[1]:
            raise DataError(
                f"{source}: entry {i!r} has a vector of width {len(vector)}, the first has "
                f"{table.shape[1]}; embed both with one model."
            )
        table[row] = vector
    manifest = {"format": "pickled payload"}
    keys = as_keys(np.array(pairs), source)
    return Bank(table, keys, manifest, functools.partial(list[str], texts), source)


def _entry(i: object, entry: object, source: str) -> tuple[str, tuple[int, int], np.ndarray]:
    """Return text, key and vector of one entry."""
    if not isinstance(entry, tuple | list) or len(entry) < 3 or not isinstance(entry[1], dict):
        raise DataError(
            f"{source}: entry {i!r} is not (text, metadata, vector); write the payload again."
        )
    text, metadata, vector = _plain(entry[0]), entry[1], _plain(entry[2])
    key: Any = [_plain(metadata.get(name)) for name in KEY_NAMES]
    if not all(isinstance(part, int | np.integer) for part in key):
        raise DataError(
            f"{source}: entry {i!r} has the metadata {', '.join(map(str, metadata)) or 'nothing'}, "
            f"needed are whole numbers {' and '.join(KEY_NAMES)}; write the payload again."
        )
    if not isinstance(vector, np.ndarray) or vector.ndim != 1 or vector.dtype.kind != "f":
        raise DataError(
            f"{source}: entry {i!r} has no vector of real numbers [D]; write the payload again."
        )
    return str(text), (int(key[0]), int(key[1])), vector
