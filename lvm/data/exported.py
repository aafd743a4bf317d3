"""Windows written out for code that knows nothing of this program, and predictions read back.

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
from pathlib import Path

import numpy as np

from lvm.core.errors import DataError
from lvm.data.npz import open_npz, write_npz
from lvm.data.windows import SPLITS, Dataset

PREDICTIONS, IDS = "predictions", "ids"
TINY = 1e-6  # length below which a prediction points nowhere


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
