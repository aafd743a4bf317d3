"""The report's windows: one `.npz` with the vectors themselves, not ids.

    context_sequences or contexts    [M, T, D] oldest first
    target_vectors or targets        [M, D]
    truth_keys                       [M, 2] article, chunk of the target; optional
    provenance                       JSON text; optional

Other members (for example pickled metadata) are never read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lvm.core.errors import SchemaError
from lvm.core.outside import listed
from lvm.data.bank import check_vectors
from lvm.data.files import read_provenance
from lvm.data.keys import as_keys
from lvm.data.npz import open_npz

CONTEXT_NAMES = ("context_sequences", "contexts")
TARGET_NAMES = ("target_vectors", "targets")


@dataclass(frozen=True, eq=False)
class WindowFile:
    """M windows of vectors, memory-mapped where the file allows it."""

    contexts: np.ndarray  # [M, T, D] float16, float32 or float64, oldest first
    targets: np.ndarray  # [M, D]
    truth_keys: np.ndarray | None = None  # [M, 2] int32: article, chunk of the target
    provenance: Mapping[str, Any] = field(default_factory=dict)
    source: str = "memory"

    def __post_init__(self) -> None:
        """Raise SchemaError when the shapes or types do not belong to windows."""
        _check_floats(self.contexts, "contexts", "[M, T, D]", self.source)
        _check_floats(self.targets, "targets", "[M, D]", self.source)
        (m, _, width), target_shape = self.contexts.shape, self.targets.shape
        if target_shape != (m, width):
            raise SchemaError(
                f"{self.source}: contexts have shape {self.contexts.shape} and targets "
                f"{target_shape}",
                "write the file again with one target per window.",
                allowed=f"{(m, width)} for the targets",
            )
        if self.truth_keys is not None and self.truth_keys.shape != (m, 2):
            raise SchemaError(
                f"{self.source}: truth_keys have shape {self.truth_keys.shape}",
                "write the file again.",
                allowed=f"{(m, 2)}, one (article, chunk) per window",
            )

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def context_length(self) -> int:
        """T, the number of context vectors."""
        return int(self.contexts.shape[1])

    @property
    def width(self) -> int:
        """D, the width of a vector."""
        return int(self.contexts.shape[2])


def _check_floats(array: np.ndarray, name: str, shape: str, source: str) -> None:
    if array.ndim != shape.count(",") + 1 or array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise SchemaError(
            f"{source}: {name} have shape {array.shape} and type {array.dtype}",
            "write the file again.",
            allowed=f"{shape} of float16, float32 or float64",
        )
    if 0 in array.shape:
        raise SchemaError(
            f"{source}: {name} have shape {array.shape}, which holds no vector",
            "write the file again with at least one window.",
        )


def read_window_file(path: Path) -> WindowFile:
    """Read the report's windows and refuse NaN, infinite or zero vectors, block by block.

    Raises DataError as `open_window_file`, and on such vectors.
    """
    file = open_window_file(path)
    check_vectors(file.contexts.reshape(-1, file.width), f"{path}, contexts")
    check_vectors(file.targets, f"{path}, targets")
    return file


def open_window_file(path: Path) -> WindowFile:
    """Open the report's windows; stored members stay on disk, memory-mapped, values unseen.

    Raises DataError on a missing or damaged file, SchemaError on a missing member, a wrong shape or
    type, and no windows.
    """
    arrays = open_npz(path)
    contexts, targets = (_member(arrays, names, path) for names in (CONTEXT_NAMES, TARGET_NAMES))
    truth_keys = None
    if "truth_keys" in arrays:
        truth_keys = as_keys(np.array(arrays["truth_keys"]), str(path))
    provenance = read_provenance(arrays, str(path))
    return WindowFile(contexts, targets, truth_keys, provenance, str(path))


def _member(arrays: Mapping[str, np.ndarray], names: tuple[str, str], path: Path) -> np.ndarray:
    for name in names:
        if name in arrays:
            return arrays[name]
    raise SchemaError(
        f"{path} has the members {listed(sorted(arrays)) or 'none'}, but windows need "
        f"{names[0]} (or {names[1]})",
        "check that this is a windows file.",
    )
