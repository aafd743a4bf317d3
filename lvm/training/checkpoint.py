"""Checkpoints: safetensors weights, a JSON manifest, and the optimiser state to resume from.

    DIR/model.safetensors   weights of the model and the head
    DIR/manifest.json       recipe, width, bank and data, articles and text seen, epoch, probes
    DIR/state.pt            optimiser moments (tensors and numbers only; read with weights_only)

A checkpoint is written next to its place and renamed, so a kill leaves the old or the new one.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from lvm.core.config.plain import from_dict, to_dict
from lvm.core.config.recipe import Recipe
from lvm.core.errors import CheckpointError, ConfigError
from lvm.core.outside import regular
from lvm.core.packages import VERSION
from lvm.core.plugins import digests, missing
from lvm.core.randomness import torch_generator
from lvm.models.predictor import Predictor
from lvm.training import manifest
from lvm.training.extent import check_pickles
from lvm.training.manifest import Manifest, Stated

NUM_PROBES = 8
PROBE_TOLERANCE = 1e-4
# Of safetensors: the last two for types of numbers that torch or its reader does not know.
UNREADABLE = (OSError, safetensors.SafetensorError, AttributeError, KeyError)


def probe_outputs(predictor: Predictor, context_length: int, width: int) -> list[list[float]]:
    """Return the first 8 values of the predictions for 8 fixed random unit contexts."""
    generator = torch_generator(0, "probe", context_length, width)
    contexts = torch.randn(NUM_PROBES, context_length, width, generator=generator)
    contexts = torch.nn.functional.normalize(contexts, dim=-1)
    device = next(predictor.parameters()).device
    was_training = predictor.training
    predictor.eval()
    with torch.no_grad():
        outputs: Tensor = predictor.model(contexts.to(device)).float().cpu()
    predictor.train(was_training)
    return [[float(v) for v in row] for row in outputs[:, :8]]


def save_checkpoint(
    folder: Path,
    predictor: Predictor,
    recipe: Recipe,
    *,
    stated: Stated,
    optimizer_state: Mapping[str, object] | None = None,
) -> None:
    """Write a checkpoint to `folder`, replacing an older one in one rename."""
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    weights = {name: t.detach().cpu().contiguous() for name, t in predictor.state_dict().items()}
    # Both through memory: the libraries' own files hide a full disk in an error of their own.
    (fresh / "model.safetensors").write_bytes(safetensors.torch.save(weights))
    width = predictor.model.width
    full = {
        **msgspec.structs.asdict(stated),
        "format": stated.format or 1,
        "lvm": VERSION,
        "recipe": to_dict(recipe),
        "width": width,
        "plugins": digests() or None,
        "probe_outputs": probe_outputs(predictor, recipe.context_length, width),
    }
    (fresh / manifest.FILE_NAME).write_text(Manifest(**full).to_json())
    if optimizer_state is not None:
        moments = io.BytesIO()
        torch.save(dict(optimizer_state), moments)
        (fresh / "state.pt").write_bytes(moments.getbuffer())
    old = folder.with_name(f".{folder.name}.old")
    if folder.exists():  # else a kill left the older copy as the only one
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    os.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def _complete(folder: Path) -> Path | None:
    """Return `folder`, or the older copy a kill between two renames left, or None."""
    for candidate in (folder, folder.with_name(f".{folder.name}.old")):
        if (candidate / manifest.FILE_NAME).is_file():
            return candidate
    return None


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of the checkpoint at `folder`, or None when there is none."""
    place = _complete(folder)
    return None if place is None else manifest.read(place / manifest.FILE_NAME)


def load_checkpoint(folder: Path) -> tuple[Predictor, Recipe, Manifest]:
    """Return the predictor (eval mode, CPU), its recipe and its manifest.

    Raises CheckpointError when the folder is no checkpoint, when names or shapes differ from the
    model the manifest names, or when the stored probe outputs are not reproduced.
    """
    stated, weights = read_parts(folder)
    predictor, recipe = fit_parts(stated, weights, str(folder))
    worst = max(probe_differences(predictor, recipe, stated, str(folder)))
    if not worst <= PROBE_TOLERANCE:
        raise CheckpointError(
            f"{folder} does not reproduce its own probe outputs (largest difference "
            f"{worst:.2g}, limit {PROBE_TOLERANCE:g}); it was written by another "
            "model: train it again."
        )
    return predictor, recipe, stated


def read_parts(folder: Path) -> tuple[Manifest, dict[str, Tensor]]:
    """Return the manifest and the weights; CheckpointError when the folder cannot be read."""
    stated = read_manifest(folder)
    if stated is None:
        raise CheckpointError(
            f"{folder} holds no checkpoint (model.safetensors and manifest.json); give the folder "
            "of one, for example RUN/arms/ARM/checkpoint, or RUN/arms/ARM/stopped of an arm that "
            "was stopped early."
        )
    return stated, _read_weights(folder)


def fit_parts(
    stated: Manifest, weights: Mapping[str, Tensor], source: str
) -> tuple[Predictor, Recipe]:
    """Return the predictor that the manifest names, with these weights, in eval mode on the CPU.

    Probe outputs are not compared. Raises CheckpointError when the recipe cannot be used, or when
    names or shapes differ.
    """
    try:
        recipe = from_dict(Recipe, stated.recipe)
        _require_size(recipe, stated.width, weights, source)
        predictor = Predictor(recipe, stated.width)
    except ConfigError as error:
        lacking = missing(stated.plugins)
        told = f"{source} was {lacking}." if lacking else f"{source}: {error}"
        raise CheckpointError(told) from None
    _fill(predictor, weights, source)
    return predictor.eval(), recipe


def probe_differences(
    predictor: Predictor, recipe: Recipe, stated: Stated, source: str
) -> list[float]:
    """Return the largest difference from the stored output for each of the 8 probes.

    A difference that is not a number comes back as infinity. Raises CheckpointError when the
    manifest holds no probe outputs of that form.
    """
    width = predictor.model.width
    found = torch.tensor(probe_outputs(predictor, recipe.context_length, width))
    try:
        stored = torch.tensor(stated.probe_outputs or [], dtype=torch.float32)
    except ValueError:  # rows of several lengths
        stored = torch.empty(0)
    if stored.shape != found.shape:
        raise CheckpointError(
            f"{source}/manifest.json has no probe_outputs of shape {tuple(found.shape)} to "
            "verify the saved model with; train it again."
        )
    worst = (stored - found).abs().amax(dim=1)
    return [float(v) for v in worst.nan_to_num(nan=torch.inf, posinf=torch.inf)]


def load_weights(predictor: Predictor, folder: Path) -> None:
    """Load weights strictly; CheckpointError says which names or shapes differ."""
    _fill(predictor, _read_weights(folder), str(folder))


def _read_weights(folder: Path) -> dict[str, Tensor]:
    place = _complete(folder) or folder
    try:
        return safetensors.torch.load_file(regular(place / "model.safetensors"))
    except UNREADABLE as error:
        raise CheckpointError(
            f"{folder}/model.safetensors cannot be read ({error}); train the model again."
        ) from None


def _require_size(recipe: Recipe, width: int, weights: Mapping[str, Tensor], source: str) -> None:
    """Refuse a manifest whose model is larger than its weights, before allocating memory."""
    if recipe.model.num_layers > len(weights) or width < 1:
        raise CheckpointError(
            f"{source}: the manifest says {recipe.model.num_layers} layers and width {width}, "
            f"but the file holds {len(weights)} weights; use the recipe it was trained with."
        )
    try:
        with torch.device("meta"):  # shapes without memory
            sketch = Predictor(recipe, width)
    except RuntimeError as error:  # a product of sizes that no tensor has
        raise CheckpointError(
            f"{source}: no model can have the sizes in the manifest "
            f"({str(error).splitlines()[0]}); use the recipe it was trained with."
        ) from None
    _require_same(sketch, weights, source)


def _fill(predictor: Predictor, weights: Mapping[str, Tensor], source: str) -> None:
    _require_same(predictor, weights, source)
    predictor.load_state_dict(weights)


def _require_same(predictor: Predictor, weights: Mapping[str, Tensor], source: str) -> None:
    own = predictor.state_dict()
    differing = sorted(
        (set(own) ^ set(weights))
        | {n for n in set(own) & set(weights) if own[n].shape != weights[n].shape}
    )
    if differing:
        raise CheckpointError(
            f"{source}: {len(differing)} weights differ in name or shape from the model "
            f"{type(predictor.model).__name__} (first: {differing[0]}); use the recipe it was "
            "trained with, or train it again."
        )


def load_optimizer_state(folder: Path) -> dict[str, object]:
    """Return the saved optimiser state; nothing but tensors and plain values is ever unpickled."""
    place = _complete(folder) or folder
    # torch.save writes a zip; anything else would be taken for a bare pickle, so it is not read.
    with contextlib.suppress(Exception):  # a damaged file can raise anything at all
        if zipfile.is_zipfile(regular(place / "state.pt")):
            check_pickles(place / "state.pt")
            state = torch.load(place / "state.pt", weights_only=True, map_location="cpu")
            if isinstance(state, dict):
                return state
    raise CheckpointError(
        f"{place}/state.pt is missing or unreadable, so training cannot resume; start the arm "
        "again in a new folder."
    )
