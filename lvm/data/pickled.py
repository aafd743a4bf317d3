"""The pickled payload of the report's format, read in a process of its own.

    python -m lvm.data.pickled PAYLOAD OUT SECONDS BYTES

A pickle is a program. This reader never hands it a real class or function: the few names that NumPy
writes stand for the passive readers below, which check what they get, and any other name is
refused. NumPy's own functions are not safe to lend, since an array of objects could be forged from
raw bytes. Nine bytes can still ask for gigabytes, and a short pickle for more steps than there is
time: so the process that reads it has little of both (`lvm.data.payload` starts it).
"""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import reprlib
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from lvm.core.errors import DataError, UnsafePayloadError
from lvm.core.outside import listed, lower_limit, shortened
from lvm.data.keys import as_keys
from lvm.data.npz import read_npy_header

ADMITTED_DTYPE = re.compile(r"[fiu][1248]|b1|O8?|[SU]\d{1,9}")
KEY_NAMES = ("article_index", "chunk_index")
FILES = ("vectors.npy", "keys.npy", "texts.json")


def main() -> None:
    """Read a payload and write its arrays and texts; print what is wrong with it as JSON."""
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    seconds, memory = int(sys.argv[3]), int(sys.argv[4])
    lower_limit(resource.RLIMIT_CPU, seconds)
    lower_limit(resource.RLIMIT_AS, memory)
    lower_limit(resource.RLIMIT_CORE, 0)
    try:
        vectors, keys, texts = read_pickled(source)
    except DataError as error:
        print(json.dumps({"kind": type(error).__name__, "sentence": str(error)}))
        return
    np.save(out / FILES[0], vectors)
    np.save(out / FILES[1], keys)
    (out / FILES[2]).write_text(json.dumps(texts))


def read_pickled(path: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return vectors [N, D] (float16 when all are, else float32), keys [N, 2] and N texts.

    In order of ids. Raises UnsafePayloadError for a pickle that names anything but arrays, numbers
    and plain containers, DataError for other faults.
    """
    with path.open("rb") as handle:
        magic = handle.read(6)
        handle.seek(0)
        if magic == np.lib.format.MAGIC_PREFIX:
            _skip_object_header(handle, str(path))
        return _from_entries(_unpickle(handle, str(path)), str(path))


def _skip_object_header(handle: IO[bytes], source: str) -> None:
    shape, _, dtype = read_npy_header(handle, source)
    if not dtype.hasobject or shape != ():
        raise DataError(
            f"{source} is an array of shape {shape} and type {dtype}, not a payload; write a "
            ".npz with vectors and keys."
        )


# --- the restricted unpickler ---------------------------------------------------------------------


class _Dtype:
    """Stands for numpy.dtype: a plain number, text or object type."""

    __slots__ = ("value",)

    def __init__(self, code: object, *_flags: object) -> None:
        if not isinstance(code, str) or not ADMITTED_DTYPE.fullmatch(code):
            raise ValueError(f"element type {code!r} is not a plain number or text")
        self.value: np.dtype[np.generic] = np.dtype(code)

    # Any: what a pickle holds; newbyteorder refuses what is no byte order.
    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, byte_order, *structure = state[:5]
        if any(part is not None for part in structure):
            raise ValueError("structured element types are not plain numbers or text")
        self.value = self.value.newbyteorder(byte_order)


class _Array:
    """Stands for numpy.ndarray and the function that rebuilds one; `value` is the real array."""

    __slots__ = ("value",)

    def __new__(cls, *_ignored: object) -> _Array:
        made = super().__new__(cls)
        made.value = []  # a pickle may leave out whatever would fill it
        return made

    def __init__(self, *_ignored: object) -> None:
        self.value: np.ndarray | list[object] = []

    def __setstate__(self, state: tuple[object, ...]) -> None:
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


def _values(data: object, dtype: object, shape: object, order: object) -> np.ndarray | list[object]:
    """Return the array over `data` bytes, or the list of objects of an object array."""
    if not isinstance(dtype, _Dtype) or not isinstance(shape, tuple):
        raise ValueError("an array without element type or shape")
    if dtype.value.hasobject:
        if not isinstance(data, list):
            raise ValueError("an array of objects must be a list")
        return data
    if not isinstance(data, bytes | bytearray):
        raise ValueError("an array of numbers must be raw bytes")
    if order != "C" and order != "F":
        raise ValueError(f"order {order!r} is not C or F")
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
            named = shortened(f"{module}.{name}")
            raise UnsafePayloadError(
                f"{self._source} is a pickle that names {named}, beyond plain containers and "
                "numpy arrays; nothing was run. Write it as .npz with vectors and keys."
            )
        return admitted


def _unpickle(handle: IO[bytes], source: str) -> object:
    try:
        root = _Unpickler(handle, source).load()
    except UnsafePayloadError:
        raise
    except Exception as error:  # a damaged or hostile pickle can raise anything at all
        raise DataError(
            f"{source} is not a readable payload ({type(error).__name__}: "
            f"{shortened(str(error))}); write it as .npz with vectors and keys."
        ) from None
    root = _plain(root)
    return root[0] if isinstance(root, list) and len(root) == 1 else root


def _plain(value: object) -> object:
    return value.value if isinstance(value, _Array | _Scalar) else value


# --- entries to arrays ----------------------------------------------------------------------------


def _from_entries(root: object, source: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    if not isinstance(root, dict) or not root:
        seen = "an empty dictionary" if root == {} else f"a {type(root).__name__}"
        raise DataError(
            f"{source} holds {seen}, not a dictionary of id -> (text, metadata, vector); write "
            "the payload again."
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
                f"{source}: entry {reprlib.repr(i)} has a vector of width {len(vector)}, but "
                f"the first has {table.shape[1]}; embed both with one model."
            )
        table[row] = vector
    return table, as_keys(np.array(pairs), source), list(texts)


def _named(key: object) -> str:
    return key[:40] if isinstance(key, str) else reprlib.repr(key)


def _entry(i: object, entry: object, source: str) -> tuple[str, tuple[int, int], np.ndarray]:
    """Return text, key and vector of one entry."""
    if not isinstance(entry, tuple | list) or len(entry) < 3 or not isinstance(entry[1], dict):
        raise DataError(
            f"{source}: entry {reprlib.repr(i)} is not (text, metadata, vector); write the payload "
            "again."
        )
    text, metadata, vector = _plain(entry[0]), entry[1], _plain(entry[2])
    key: Any = [_plain(metadata.get(name)) for name in KEY_NAMES]
    if not all(isinstance(part, int | np.integer) for part in key):
        raise DataError(
            f"{source}: entry {reprlib.repr(i)} has the metadata "
            f"{listed(map(_named, metadata)) or 'nothing'}, but needs the whole numbers "
            f"{' and '.join(KEY_NAMES)}; write the payload again."
        )
    if not isinstance(vector, np.ndarray) or vector.ndim != 1 or vector.dtype.kind != "f":
        raise DataError(
            f"{source}: entry {reprlib.repr(i)} has no vector of real numbers [D]; write the "
            "payload again."
        )
    if not isinstance(text, str | bytes | None):
        raise DataError(
            f"{source}: the text of entry {reprlib.repr(i)} is a {type(text).__name__}; write the "
            "payload again."
        )
    return str(text), (int(key[0]), int(key[1])), vector


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
