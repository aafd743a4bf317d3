"""Windows as files with the vectors themselves, not ids: the report's, and those written out.

The report's windows, one `.npz`; other members (for example pickled metadata) are never read:

    context_sequences or contexts    [M, T, D] oldest first
    target_vectors or targets        [M, D]
    truth_keys                       [M, 2] article, chunk of the target; optional
    provenance                       JSON text; optional

Windows written out for code that knows nothing of this program, and predictions read back:

    train.npz, dev.npz    contexts [M, T, D], targets [M, D], truth_keys [M, 2], ids [M]
    test.npz              the same without targets: what is judged last is not handed out
    a file of predictions predictions [M, D], and the ids [M] of the windows they belong to

An id names one window of one split of one data set, so predictions for other windows are refused.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lvm.core.errors import DataError, SchemaError
from lvm.core.outside import listed
from lvm.data.bank import check_vectors
from lvm.data.files import read_provenance
from lvm.data.keys import as_keys
from lvm.data.npz import open_npz, write_npz
from lvm.data.windows import SPLITS, Dataset

CONTEXT_NAMES = ("context_sequences", "contexts")
TARGET_NAMES = ("target_vectors", "targets")
PREDICTIONS, IDS = "predictions", "ids"
TINY = 1e-6  # length below which a prediction points nowhere


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


def window_ids(dataset: Dataset, split: str) -> np.ndarray:
    """Return the ids [M] int64 of a split's windows: 31 bits of its content, then the place."""
    content = hashlib.sha256(f"{dataset.fingerprint} {split}".encode()).digest()
    high = int.from_bytes(content[:4], "big") >> 1
    return (np.int64(high) << np.int64(32)) + np.arange(len(dataset.split(split)), dtype=np.int64)


def export_windows(dataset: Dataset, folder: Path) -> Path:
    """Write the windows of every split into `folder`, whole or not at all; return it.

    A folder that is there is left as it is: several processes may write the same one at once.
    """
    if folder.exists():
        return folder
    fresh = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.new")
    fresh.mkdir(parents=True)
    try:
        for split in SPLITS:
            write_npz(fresh / f"{split}.npz", _arrays(dataset, split))
        os.rename(fresh, folder)
    except OSError:
        if not folder.exists():  # else another process was first
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _arrays(dataset: Dataset, split: str) -> dict[str, np.ndarray]:
    bank, windows = dataset.bank, dataset.split(split)
    targets = {} if split == "test" else {"targets": bank.rows(windows.targets)}
    return {
        "contexts": bank.rows(windows.contexts),
        **targets,
        "truth_keys": np.asarray(bank.keys[windows.targets]),
        IDS: window_ids(dataset, split),
    }


def load_predictions(path: Path, ids: np.ndarray | None) -> np.ndarray:
    """Return the predictions of a file as they are, for the windows with these ids.

    Raises DataError where the file lacks an array, or is for other windows.
    """
    arrays = open_npz(path)
    for name in (PREDICTIONS, IDS):
        if name not in arrays:
            raise DataError(
                f"{path} has no array {name!r}; save it with numpy.savez(path, "
                "predictions=..., ids=...)."
            )
    own = np.asarray(arrays[IDS])
    if ids is not None and (own.shape != ids.shape or not np.array_equal(own, ids)):
        known = int(np.isin(own, ids).sum())
        raise DataError(
            f"{path} is for other windows, or in another order ({known} of {len(ids)} ids are "
            "known); predict the windows as they are written out and copy their ids."
        )
    return arrays[PREDICTIONS]


def read_prediction_file(path: Path, ids: np.ndarray, width: int) -> np.ndarray:
    """Return the predictions [M, D] float32 of a file for the windows with these ids.

    Raises DataError as `load_predictions`, and for another shape. `bad_rows` looks at the values.
    """
    rows = load_predictions(path, ids)
    if rows.shape != (len(ids), width) or rows.dtype.kind != "f":
        raise DataError(
            f"{path} holds predictions of shape {rows.shape} and type {rows.dtype}, expected "
            f"({len(ids)}, {width}) floats; write one vector per window."
        )
    return np.array(rows, dtype=np.float32)


def bad_rows(rows: np.ndarray) -> int:
    """Return how many predictions are zero or not finite."""
    lengths = np.linalg.norm(rows, axis=1)
    return int((~np.isfinite(lengths) | (lengths < TINY)).sum())
