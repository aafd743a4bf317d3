"""Files as the report has them, written from a dataset, and a checkpoint of any form read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lvm.core.config.recipe import Recipe
from lvm.core.files import whole_file
from lvm.data.bank import Bank
from lvm.data.keys import as_keys
from lvm.data.npz import write_npz
from lvm.data.pickled import KEY_NAMES
from lvm.data.window_files import CONTEXT_NAMES, TARGET_NAMES, WindowFile
from lvm.data.windows import Dataset
from lvm.models.predictor import Predictor
from lvm.training.checkpoint import load_checkpoint
from lvm.training.manifest import Stated
from lvm.training.report_checkpoint import read_report_checkpoint
from lvm.training.report_fit import fit_report_checkpoint, fitted_manifest


def write_report_files(
    dataset: Dataset, folder: Path, *, pickled: bool = False
) -> tuple[Path, Path, Path]:
    """Write a dataset as the report's files; return the paths (train, eval, payload).

    The train file holds the train windows, then the dev windows. The payload is a `.npz`, or with
    `pickled` the old `.npy`. Truth keys are left out when some target is outside the pool.
    """
    folder.mkdir(parents=True, exist_ok=True)
    bank = dataset.bank
    train_path, eval_path = folder / "train.npz", folder / "eval.npz"
    for path, parts in ((train_path, (dataset.train, dataset.dev)), (eval_path, (dataset.test,))):
        contexts = np.concatenate([part.contexts for part in parts])
        targets = np.concatenate([part.targets for part in parts])
        truth_keys = bank.keys[targets] if np.isin(targets, bank.pool_rows).all() else None
        provenance = {"source": bank.source}
        write_window_file(
            path, bank.vectors[contexts], bank.vectors[targets], truth_keys, provenance
        )
    payload_path = folder / ("payload.npy" if pickled else "payload.npz")
    (_write_pickled_payload if pickled else _write_npz_payload)(payload_path, bank)
    return train_path, eval_path, payload_path


def _write_npz_payload(path: Path, bank: Bank) -> None:
    size = len(bank.pool_rows)
    provenance = {k: v for k, v in bank.manifest.items() if k not in ("sha256", "report_files")}
    provenance |= {"count": size, "width": bank.width}
    write_npz(
        path,
        {
            "vectors": bank.vectors[:size],
            "keys": bank.keys[:size],
            "provenance": np.array(json.dumps(provenance)),
        },
    )


def _write_pickled_payload(path: Path, bank: Bank) -> None:
    texts = bank.load_texts() or [""] * len(bank)
    entries = {
        row: (texts[row], dict(zip(KEY_NAMES, bank.keys[row].tolist(), strict=True)), vector)
        for row, vector in enumerate(np.asarray(bank.vectors[: len(bank.pool_rows)]))
    }
    with whole_file(path) as file:
        np.save(file, np.array(entries, dtype=object), allow_pickle=True)


def write_window_file(
    path: Path,
    contexts: np.ndarray,
    targets: np.ndarray,
    truth_keys: np.ndarray | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write windows in the report's format, uncompressed so that they can be memory-mapped.

    `contexts` [M, T, D], `targets` [M, D], `truth_keys` [M, 2]. Raises SchemaError
    as WindowFile does.
    """
    file = WindowFile(contexts, targets, truth_keys, provenance or {}, str(path))
    arrays = {CONTEXT_NAMES[0]: file.contexts, TARGET_NAMES[0]: file.targets}
    if truth_keys is not None:
        arrays["truth_keys"] = as_keys(truth_keys, str(path))
    arrays["provenance"] = np.array(json.dumps(dict(file.provenance)))
    write_npz(path, arrays)


def load_any_checkpoint(
    path: Path, width: int, context_length: int
) -> tuple[Predictor, Recipe, Stated]:
    """Return predictor, recipe and manifest of a checkpoint folder of lvm, or of a .pt file.

    Raises CheckpointError and UnsafePayloadError as the two readers do.
    """
    if not path.is_file():
        return load_checkpoint(path)
    checkpoint = read_report_checkpoint(path)
    predictor, recipe = fit_report_checkpoint(checkpoint, width, context_length)
    return predictor, recipe, fitted_manifest(checkpoint)
