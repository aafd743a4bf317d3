"""Banks that other programs write.

bank.parquet    columns `vector` (lists of one length), `article` and `chunk`, optional `text`
vectors.npy     [N, D]; the same folder holds keys.npy or vectors.keys.npy, [N, 2] integers
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np

from lvm.core.errors import DataError, MissingExtraError, SchemaError
from lvm.core.outside import listed
from lvm.data.bank import Bank
from lvm.data.keys import as_keys
from lvm.data.npz import ARRAY, PARQUET, kind_of, map_npy

VECTORS = ("vector", "vectors", "embedding", "embeddings")
ARTICLES = ("article", "article_index", "article_id")
CHUNKS = ("chunk", "chunk_index", "chunk_id")
TEXTS = ("text", "texts")


def read_other_bank(path: Path) -> Bank | None:
    """Return the bank in a Parquet file or a pair of arrays; None for any other file."""
    readers = {PARQUET: _read_parquet, ARRAY: _read_pair}
    read = readers.get(kind_of(path) or "")
    return None if read is None else read(path)


def _read_pair(path: Path) -> Bank:
    vectors = map_npy(path)
    beside = (path.with_name(f"{path.stem}.keys.npy"), path.with_name("keys.npy"))
    keys = next((place for place in beside if place.exists() and place != path), None)
    if keys is None:
        raise DataError(
            f"{path} is a single array without keys. Put (article, chunk) of each row, [N, 2], "
            f"into {beside[0].name} or keys.npy in the same folder."
        )
    narrow = vectors.astype(np.float32) if vectors.dtype == np.float64 else vectors
    return Bank(narrow, as_keys(np.array(map_npy(keys)), str(keys)), source=str(path))


def _read_parquet(path: Path) -> Bank:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise MissingExtraError("pyarrow", None, "reading Parquet") from None
    try:
        table = parquet.read_table(path)
    except Exception as error:  # pyarrow's errors share no base below this
        told = [*str(error).splitlines(), ""][0]
        raise DataError(f"{path} cannot be read as Parquet ({told}); write it again.") from None
    named = {
        what: next((name for name in names if name in table.column_names), None)
        for what, names in (
            ("vector", VECTORS),
            ("article", ARTICLES),
            ("chunk", CHUNKS),
            ("text", TEXTS),
        )
    }
    missing = [what for what in ("vector", "article", "chunk") if named[what] is None]
    if missing:
        raise SchemaError(
            f"{path} has the columns {listed(table.column_names)}, but a bank needs vector, "
            "article and chunk",
            f"rename or add {' and '.join(missing)}.",
        )
    vectors = _vectors(table[named["vector"]], str(path))
    keys = np.stack([_whole(table[named[what]], str(path)) for what in ("article", "chunk")], 1)
    bank = Bank(vectors, as_keys(keys, str(path)), {"format": "Parquet"}, source=str(path))
    if named["text"] is None:
        return bank
    texts = [str(text) for text in table[named["text"]].to_pylist()]
    return dataclasses.replace(bank, load_texts=functools.partial(list[str], texts))


# Any: pyarrow, which is optional, has no types.
def _vectors(column: Any, source: str) -> np.ndarray:
    """Return a column of lists of one length as float32 [N, D]."""
    combined = column.combine_chunks()
    try:
        lengths = np.asarray(combined.value_lengths().to_numpy(zero_copy_only=False))
        values = np.asarray(combined.flatten().to_numpy(zero_copy_only=False), dtype=np.float32)
    except (AttributeError, TypeError, ValueError):
        raise SchemaError(
            f"{source}: the vectors are not lists of numbers", "write it again."
        ) from None
    width = int(lengths[0]) if len(lengths) else 0
    if combined.null_count or not (lengths == width).all() or len(values) != width * len(lengths):
        raise SchemaError(
            f"{source}: the vectors differ in length", "embed all texts with one model."
        )
    return values.reshape(len(lengths), width)


# Any: as above.
def _whole(column: Any, source: str) -> np.ndarray:
    numbers = column.to_numpy()
    if numbers.dtype.kind not in "iu":
        raise SchemaError(
            f"{source}: article and chunk must be whole numbers (got {numbers.dtype})."
        )
    return np.asarray(numbers, dtype=np.int64)
