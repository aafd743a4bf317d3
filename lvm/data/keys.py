"""Keys of vectors: the article of each, and its place in it."""

from __future__ import annotations

import numpy as np

from lvm.core.errors import SchemaError


def as_keys(keys: np.ndarray, source: str) -> np.ndarray:
    """Return integer keys as int32; DataError when a number does not fit."""
    limits = np.iinfo(np.int32)
    if keys.dtype.kind not in "iu":
        raise SchemaError(
            f"{source}: keys have type {keys.dtype}",
            "write the keys again.",
            allowed="whole numbers, one (article, chunk) per vector",
        )
    if keys.size and not limits.min <= int(keys.min()) <= int(keys.max()) <= limits.max:
        raise SchemaError(
            f"{source}: keys reach from {keys.min()} to {keys.max()}",
            "number the articles and chunks from 0.",
            allowed="the range of int32",
        )
    return keys.astype(np.int32, copy=False)
