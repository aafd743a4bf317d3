"""A foreign checkpoint as a registered model: its weights by our names, sized by their shapes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from lvm.core.config.recipe import ModelConfig, Recipe
from lvm.core.errors import CheckpointError
from lvm.core.outside import listed
from lvm.models.base import declared
from lvm.models.foreign_forms import Alternative
from lvm.models.predictor import Predictor
from lvm.training.foreign_names import canonical, renamed
from lvm.training.manifest import Stated
from lvm.training.report_checkpoint import NUM_NAMED, RETRAIN, ReportCheckpoint, unreadable
from lvm.training.report_recipe import Candidate, closest_model, differences, recipe_of, shapes_of


def fit_report_checkpoint(
    checkpoint: ReportCheckpoint, width: int, context_length: int
) -> tuple[Predictor, Recipe]:
    """Return the registered model that the weights fit strictly (eval mode, CPU) and its recipe.

    `width` is D of the vectors it shall read, `context_length` T where `args` does not say. Raises
    CheckpointError that lists which names or shapes differ from the closest registered model.
    """
    return fit_as(checkpoint, _fitting(checkpoint, width).config, width, context_length)


def ways_to_compute(checkpoint: ReportCheckpoint, width: int) -> list[Alternative]:
    """Return the ways to compute the weights that shapes and args leave open, likeliest first.

    The first is that of `fit_report_checkpoint`, whose errors it raises.
    """
    config = _fitting(checkpoint, width).config
    open_ways = declared(config.name).ways_to_compute
    if open_ways is None:
        return [Alternative(config=config, departures=0, words="")]
    return open_ways(config, checkpoint.args)


def fit_as(
    checkpoint: ReportCheckpoint, config: ModelConfig, width: int, context_length: int
) -> tuple[Predictor, Recipe]:
    """Return the model of this config with the weights, and its recipe; errors as above."""
    path = checkpoint.path
    weights = renamed(checkpoint.model).weights
    head = None if checkpoint.head is None else canonical(checkpoint.head, "net.")
    recipe = recipe_of(config, head, checkpoint.args, context_length)
    predictor = Predictor(recipe, width)
    _fill(path, predictor.model, weights)
    if predictor.head is not None and head is not None:
        _fill(path, predictor.head, head)
    return predictor.eval(), recipe


def own_width(checkpoint: ReportCheckpoint) -> int:
    """Return the width D of the vectors that the closest registered model would read."""
    shapes = shapes_of(renamed(checkpoint.model).weights)
    return closest_model(shapes, checkpoint.args, 1).width


def fitted_manifest(checkpoint: ReportCheckpoint) -> Stated:
    """Return what a .pt file states, and the weights that the model it was fitted to leaves out."""
    unused = [*renamed(checkpoint.model).unused] or None
    return msgspec.structs.replace(checkpoint.stated, unused_weights=unused)


def _fitting(checkpoint: ReportCheckpoint, width: int) -> Candidate:
    """Return the registered model that the weights fit."""
    shapes = shapes_of(renamed(checkpoint.model).weights)
    try:
        best = closest_model(shapes, checkpoint.args, width)
    except CheckpointError as error:  # args and weights that contradict each other
        raise CheckpointError(f"{checkpoint.path}: {error}") from None
    _require_fit(checkpoint.path, best, width)
    return best


def _require_fit(path: Path, best: Candidate, width: int) -> None:
    if best.differing:
        raise CheckpointError(
            f"{path} fits no registered model; from the closest, {best.config.name}, "
            f"{_listed(best.differing)}; names and shapes must agree; {RETRAIN}."
        )
    if best.width != width:
        raise CheckpointError(
            f"{path} reads vectors of width {best.width}, but the data have width {width}; give "
            "data from the encoder it was trained with, or another checkpoint."
        )


def _fill(path: Path, module: torch.nn.Module, weights: Mapping[str, Tensor]) -> None:
    differing = differences(shapes_of(module.state_dict()), shapes_of(weights))
    if differing:
        raise CheckpointError(
            f"{path}: in the {type(module).__name__} {_listed(differing)}; names and shapes must "
            f"agree; {RETRAIN}."
        )
    if odd := [name for name, weight in weights.items() if not weight.is_floating_point()]:
        raise CheckpointError(
            f"{path}: {len(odd)} weights are not real numbers (first: {listed(odd[:1])}, "
            f"{weights[odd[0]].dtype}); {RETRAIN}."
        )
    try:
        spoilt = [name for name, weight in weights.items() if not weight.isfinite().all()]
        module.load_state_dict(weights)
    except RuntimeError as error:  # sparse, quantised or empty storages
        raise unreadable(path, error) from None
    if spoilt:
        raise CheckpointError(
            f"{path}: {len(spoilt)} weights hold NaN or infinite values (first: {spoilt[0]}); "
            f"give an earlier checkpoint, or {RETRAIN}."
        )


def _listed(differing: tuple[str, ...]) -> str:
    more = len(differing) - NUM_NAMED
    named = "; ".join(differing[:NUM_NAMED]) + (f"; and {more} more" if more > 0 else "")
    return f"{len(differing)} weights differ ({named})"
