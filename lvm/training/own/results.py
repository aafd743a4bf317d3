"""What a person's training writes: a line per epoch, and predictions as files.

epochs.jsonl      {"epoch": 1, "loss": 2.31}     appended when its predictions are written
dev_001.npz       predictions for the dev windows after epoch 1, with their ids
test.npz          predictions for the test windows, before the training ends
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lvm.core.errors import DataError, NonFiniteLossError, TrainerError
from lvm.core.outside import brief, parse_json
from lvm.data.window_files import bad_rows, read_prediction_file

EPOCHS, TEST = "epochs.jsonl", "test.npz"
MEASURED = ("loss", "contrastive", "ar", "mmd", "gradient_norm", "num_negatives")


def dev_name(epoch: int) -> str:
    """Return the name of the predictions for dev after an epoch."""
    return f"dev_{epoch:03d}.npz"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One epoch, as a training says it."""

    epoch: int
    measured: Mapping[str, float]


class Lines:
    """The lines of epochs.jsonl as they come."""

    def __init__(self, folder: Path) -> None:
        self._path, self._at, self._number = folder / EPOCHS, 0, 0

    def fresh(self) -> Iterator[Line]:
        """Yield the lines that were finished since the last call; TrainerError for no such line."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._at)
            for raw in file:
                if not raw.endswith(b"\n"):
                    return
                self._at, self._number = self._at + len(raw), self._number + 1
                if raw.strip():
                    yield self._line(raw)

    def _line(self, raw: bytes) -> Line:
        where = f"line {self._number} of {EPOCHS}"
        try:
            values = parse_json(raw.decode(errors="replace"))
        except ValueError:
            values = None
        epoch = values.get("epoch") if isinstance(values, dict) else None
        if type(epoch) is not int or epoch < 1:
            raise TrainerError(
                f"{where} is {brief(raw.decode(errors='replace').strip())}, expected JSON as "
                '{"epoch": 1, "loss": 2.3}; write one such line per epoch.'
            )
        measured = {n: float(values[n]) for n in MEASURED if isinstance(values.get(n), int | float)}
        for name, value in measured.items():
            if not math.isfinite(value):
                raise NonFiniteLossError(f"{where} has a {name} of {value}; the training diverged.")
        return Line(epoch=epoch, measured=measured)


def drop_torn_line(folder: Path) -> None:
    """Cut a last line that a kill left unfinished: what is appended next begins a line."""
    path = folder / EPOCHS
    if path.exists():
        text = path.read_bytes()
        if text and not text.endswith(b"\n"):
            path.write_bytes(text[: text.rfind(b"\n") + 1])


def predictions(path: Path, ids: np.ndarray, width: int) -> Float[Tensor, "M D"]:
    """Return the unit predictions of a file for the windows with these ids.

    Raises TrainerError where the file is not there or is for other windows, NonFiniteLossError
    where rows are zero or not finite.
    """
    if not path.exists():
        raise TrainerError(
            f"{path.name} was not written; write the predictions before the line of their epoch, "
            "and those for test before the training ends."
        )
    try:
        rows = read_prediction_file(path, ids, width)
    except DataError as error:
        raise TrainerError(str(error).replace(str(path), path.name)) from None
    if bad := bad_rows(rows):
        raise NonFiniteLossError(
            f"{path.name} holds {bad} of {len(rows)} predictions that are zero or not finite."
        )
    return torch.nn.functional.normalize(torch.from_numpy(rows), dim=1)
