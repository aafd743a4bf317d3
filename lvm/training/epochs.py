"""The epochs of a training as records: what each measured, on disk and back. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lvm.core.config.recipe import TrainingConfig
from lvm.core.files import write_whole
from lvm.core.outside import parse_json

FILE = "epochs.jsonl"


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """What one epoch of training measured."""

    epoch: int  # counted from 1
    train: Mapping[str, float]  # mean loss, its terms, negatives per row, gradient norm
    dev: Mapping[str, float | str]  # what `validate` returned
    seconds: float  # training alone, without validation
    negatives: Mapping[str, float] = field(default_factory=dict)  # share of each tier
    health: Mapping[str, float] = field(default_factory=dict)  # names in lvm/training/health.py


def warmup_updates(config: TrainingConfig, updates_per_epoch: int) -> int:
    """Return the number of updates over which the learning rate rises, at least 1."""
    return max(1, round(config.warmup_fraction * updates_per_epoch * config.epochs))


def read_epochs(folder: Path) -> list[EpochRecord]:
    """Return the epoch records in `folder`, up to the first unfinished line."""
    path = folder / FILE
    records: list[EpochRecord] = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                records.append(EpochRecord(**parse_json(line)))
            except (ValueError, TypeError):
                break
    return records


def write_epochs(folder: Path, records: Sequence[EpochRecord]) -> None:
    """Replace the records in `folder` in one rename."""
    write_whole(folder / FILE, "".join(f"{json.dumps(vars(record))}\n" for record in records))
