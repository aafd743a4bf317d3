"""The jobs as functions: what `lvm audit`, `triage`, `train` and `eval` do, returned as values.

    from lvm import api
    api.audit(data="my_bank")

A keyword is a flag of the command line: `--five-steps` is `five_steps=True`. Paths may be strings.
A function prints nothing unless `progress=True`, raises an `LvmError` where a command prints an
error, and returns a result that shows its answer first, in a notebook as HTML.

What a job needs takes seconds to import, so it is imported when the job is called.
"""

from __future__ import annotations

import os
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvm.core.config.read import recipe_file
from lvm.core.errors import LvmError
from lvm.jobs.options import AuditOptions, DataOptions, Options, TrainOptions, TriageOptions
from lvm.jobs.presets import DEFAULT_PRESET

if TYPE_CHECKING:
    import numpy as np
    import torch

    from lvm.jobs.results import AuditResult, EvaluationResult, TrainResult, TriageResult

__all__ = ["LvmError", "audit", "evaluate", "train", "triage"]

Place = str | Path
Names = Place | Sequence[Place]
Given = Names | int | None


def audit(
    *,
    data: Place | None = None,
    train: Place | None = None,
    eval: Place | None = None,
    payload: Place | None = None,
    checkpoint: Place | None = None,
    predictions: Place | None = None,
    seen: Place | None = None,
    index: Place | None = None,
    encoder: str | None = None,
    texts: Place | None = None,
    recipe: Place | None = None,
    plugin: Names = (),
    preset: str | None = None,
    allow: Names = (),
    repair: Place | None = None,
    out: Place | None = None,
    progress: bool = False,
) -> AuditResult:
    """Find what no training can fix, write the report, and repair the files where asked to.

    Data that blocks is a result, not an error: see `verdict` and `document.findings`.
    """
    options = _options(AuditOptions, locals())
    from lvm.jobs import audit as job
    from lvm.jobs.audience import of_call

    return job.audit(options, of_call(progress=progress))


def triage(
    *,
    data: Place | None = None,
    train: Place | None = None,
    eval: Place | None = None,
    payload: Place | None = None,
    checkpoint: Place | None = None,
    predictions: Place | None = None,
    seen: Place | None = None,
    recipe: Place | None = None,
    plugin: Names = (),
    preset: str | None = None,
    allow: Names = (),
    out: Place | None = None,
    resume: Place | None = None,
    address: str | None = None,
    steps: Names = (),
    order: Names = (),
    independent: bool = False,
    five_steps: bool = False,
    all_steps: bool = False,
    extended: bool = False,
    seeds: int | None = None,
    progress: bool = False,
) -> TriageResult:
    """Find out why a model fails its gate, and what fixes it, on a Ray cluster here or elsewhere.

    Every verdict is a result, also BLOCKED and NOT_FIXED. An interrupt raises KeyboardInterrupt and
    keeps what was done: `triage(resume=FOLDER)` continues.
    """
    options = _options(TriageOptions, locals())
    from lvm.jobs.doors import triaged

    return triaged(options, progress=progress)


def train(
    *,
    out: Place,
    data: Place | None = None,
    recipe: Place | None = None,
    plugin: Names = (),
    preset: str = DEFAULT_PRESET,
    workers: int | None = None,
    address: str | None = None,
    progress: bool = False,
) -> TrainResult:
    """Train one recipe in full and judge it on the test split; the same `out` continues it.

    Without `workers` and `address` it trains in this process, else on Ray Train's workers.
    """
    options = _options(TrainOptions, locals())
    from lvm.jobs import training
    from lvm.jobs.audience import of_call

    return training.train(options, of_call(progress=progress))


def evaluate(
    model: Place | np.ndarray | torch.Tensor,
    *,
    ar_only: Place | np.ndarray | torch.Tensor | None = None,
    data: Place | None = None,
    train: Place | None = None,
    eval: Place | None = None,
    payload: Place | None = None,
    other_data: bool = False,
    plugin: Names = (),
    recipe: Place | None = None,
    preset: str = DEFAULT_PRESET,
) -> EvaluationResult:
    """Judge a model on the test split, together with the ladder.

    `model` is a checkpoint, a .npy file of predictions, or predictions [M, D] with one row per test
    window in order. With `ar_only`, in the same forms, the success gate is judged. The recipe says
    the context length of predictions and the bounds of the gate.
    """
    from lvm.core.plugins import load_given
    from lvm.jobs.judging import compared
    from lvm.jobs.presets import load_config

    load_given(_names(plugin))
    config = load_config(preset, None if recipe is None else recipe_file(recipe))
    named = DataOptions(
        data=_path(data), train=_path(train), eval=_path(eval), payload=_path(payload)
    )
    return compared(
        _model(model),
        named.request,
        config,
        ar_only=None if ar_only is None else _model(ar_only),
        other_data=other_data,
    )


# --- from keywords to options ---------------------------------------------------------------------


def _options(kind: type[Options], given: Mapping[str, Given]) -> Options:
    """Return options from the arguments of a function, which are named like their fields."""
    hints = typing.get_type_hints(kind)
    names = [field.name for field in fields(kind) if field.name in given]
    values: dict[str, Any] = {name: _value(name, hints[name], given[name]) for name in names}
    return kind(**values)


def _value(name: str, hint: object, value: Given) -> Given:
    """Return the value of a field: paths from strings, tuples from lists or a single name."""
    if hint == tuple[str, ...] and value is not None and not isinstance(value, int):
        return _names(value)
    if Path in (hint, *typing.get_args(hint)) and isinstance(value, str | os.PathLike):
        return recipe_file(value) if name == "recipe" else Path(value)
    return value


def _names(value: Names) -> tuple[str, ...]:
    return (str(value),) if isinstance(value, str | Path) else tuple(map(str, value))


def _path(place: Place | None) -> Path | None:
    return None if place is None else Path(place)


def _model(model: Place | np.ndarray | torch.Tensor) -> Path | np.ndarray | torch.Tensor:
    return Path(model) if isinstance(model, str | Path) else model
