"""A checkpoint as the audit takes it: loaded where it fits a model, with its problem where not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from lvm.core.config.recipe import Recipe
from lvm.core.errors import LvmError
from lvm.data.bank import Bank
from lvm.data.windows import Dataset, leading
from lvm.models.predictor import Predictor
from lvm.training.checkpoint import fit_parts, read_parts
from lvm.training.manifest import Stated
from lvm.training.report_checkpoint import read_report_checkpoint
from lvm.training.report_fit import fit_report_checkpoint, fitted_manifest, own_width


@dataclass(frozen=True, kw_only=True)
class OwnFigure:
    """What the stored validation cosine of a foreign file says of how it is computed here."""

    verified: bool = False
    contradicted: bool = False  # the figures are too far apart for one model
    stored: float | None = None
    here: float | None = None
    allowed: float = 0.0  # difference
    windows: str = ""  # of which split the figure here is
    count: int = 0
    chosen: str = ""  # open settings that the figure decided
    assumed: str = ""  # open settings that nothing decided
    tried: int = 0  # ways of computing that were looked at
    reason: str = ""  # why it is not verified


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckpointPart:
    """A checkpoint as it was found: the predictor where it could be built, else the reason."""

    path: Path
    manifest: Stated
    predictor: Predictor | None = None
    recipe: Recipe | None = None
    problem: str = ""  # why no model could be built from it: names, shapes, width
    figure: OwnFigure | None = None  # of a foreign file


def open_checkpoint(path: Path, width: int | None, context_length: int) -> CheckpointPart:
    """Open a checkpoint folder of lvm or a .pt file for data of width D and contexts of T vectors.

    Without a width the checkpoint's own is taken: it is looked at alone. A misfit is kept as
    `problem`. Raises CheckpointError for a file that cannot be read, and UnsafePayloadError for one
    that names foreign classes.
    """
    if path.is_file():
        checkpoint = read_report_checkpoint(path)
        manifest = checkpoint.stated
        try:
            width = own_width(checkpoint) if width is None else width
            predictor, recipe = fit_report_checkpoint(checkpoint, width, context_length)
        except LvmError as misfit:
            return CheckpointPart(path=path, manifest=manifest, problem=str(misfit))
        manifest = fitted_manifest(checkpoint)
    else:
        own, weights = read_parts(path)
        if width is not None and own.width != width:
            seen = f"{path} reads vectors of width {own.width}, but the data have width {width}"
            return CheckpointPart(path=path, manifest=own, problem=seen)
        try:
            predictor, recipe = fit_parts(own, weights, str(path))
        except LvmError as misfit:
            return CheckpointPart(path=path, manifest=own, problem=str(misfit))
        manifest = own
    return CheckpointPart(path=path, predictor=predictor, recipe=recipe, manifest=manifest)


def names_data(manifest: Stated, bank: Bank | None, dataset: Dataset | None) -> bool:
    """Say whether a checkpoint names this bank, or these windows, as what it was trained on."""
    if manifest.bank is not None:  # its windows may have been cut for a longer context
        return bank is not None and manifest.bank == bank.fingerprint
    if dataset is None or manifest.data is None:
        return False
    return manifest.data == as_trained(dataset, manifest).fingerprint


def as_trained(dataset: Dataset, manifest: Stated) -> Dataset:
    """Return the dataset with those dev windows that a checkpoint says it was validated on.

    A run judges its epochs on a draw of the dev split (lvm/data/windows.py). A manifest that states
    none leaves the split as it is.
    """
    if manifest.val_articles is None:
        return dataset
    return replace(dataset, dev=leading(dataset.dev, dict(manifest.val_articles)))
