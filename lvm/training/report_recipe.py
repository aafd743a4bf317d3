"""What model a foreign state dict is of: read from the shapes of its weights and from its `args`.

Shapes decide wherever they can; `args` tells the rest (loss, schedule, dropout, heads of an
attention). Names are those of lvm.models, after wrappers such as "module." have been taken off.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from lvm.core.config.plain import with_changes
from lvm.core.config.recipe import ModelConfig, Recipe
from lvm.core.errors import ConfigError
from lvm.models.base import MODELS, build_model, declared
from lvm.models.foreign_forms import STATE, Args, Shapes, first, num_parts
from lvm.training.foreign_names import OWN_NAMES

Config = TypeVar("Config", ModelConfig, Recipe)

# Spellings of a setting in training scripts, the first that is present counts.
SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "objective.temperature": ("temperature", "tau", "temp"),
    "objective.contrastive_weight": ("lambda_con", "lambda_contrastive", "lambda_infonce"),
    "objective.ar_weight": ("lambda_ar",),
    "objective.mmd_weight": ("lambda_mmd",),
    "training.batch_size": ("batch_size",),
    "training.epochs": ("epochs", "num_epochs"),
    "training.learning_rate": ("lr", "learning_rate"),
    "training.weight_decay": ("weight_decay",),
    "context_length": ("context_length", "context_len", "seq_len"),
    "seed": ("seed",),
}
MODEL_SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "hidden": ("d_model", "hidden", "hidden_dim", "hidden_size"),
    "num_layers": ("n_layers", "num_layers", "n_layer"),
    "state": STATE,
    "head_dim": ("headdim", "head_dim"),
    "expand": ("expand",),
    "conv_kernel": ("d_conv", "conv_kernel"),
    "dropout": ("dropout",),
}
ACCUMULATION_NAMES = (
    "grad_accum",
    "grad_accum_steps",
    "gradient_accumulation_steps",
    "accumulation_steps",
    "accum_steps",
)
EFFECTIVE_NAMES = ("effective_batch", "effective_batch_size")


def shapes_of(weights: Mapping[str, Tensor]) -> Shapes:
    """Return the shape of every weight."""
    return {name: tuple(weight.shape) for name, weight in weights.items()}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A registered model, sized like the weights as far as it can be, and what still differs."""

    config: ModelConfig
    width: int  # D of the vectors that it reads
    shared: int  # weights that it knows by name
    differing: tuple[str, ...]  # one phrase per weight


def closest_model(shapes: Shapes, args: Args, width: int) -> Candidate:
    """Return the registered model that fits, else the one that knows the most weights by name."""
    names = sorted(MODELS.names(), key=lambda name: name != ModelConfig().name)
    candidates = [_candidate(name, shapes, args, width) for name in names]
    return min(candidates, key=lambda c: (bool(c.differing), -c.shared, len(c.differing)))


def _candidate(name: str, shapes: Shapes, args: Args, width: int) -> Candidate:
    config = _from_args(ModelConfig(name=name), MODEL_SPELLINGS, args)
    config = with_changes(config, {**_shared_sizes(shapes), "residual": OWN_NAMES[0] in shapes})
    with contextlib.suppress(LookupError, ValueError, ZeroDivisionError, ConfigError):
        read = declared(name).sizes_of  # without it a model is sized by `args` alone
        config = with_changes(config, read(shapes, args) if read is not None else {})
    own_width = (shapes.get("encoder.project_in.weight") or (0,))[-1] or config.hidden
    try:
        wanted = _shapes_of(config, own_width)
    except ConfigError:  # sizes that do not go together, so not those of this model
        config, own_width = ModelConfig(name=name), width
        wanted = _shapes_of(config, own_width)
    return Candidate(
        config=config,
        width=own_width,
        shared=len(wanted.keys() & shapes.keys()),
        differing=differences(wanted, shapes),
    )


def _shapes_of(config: ModelConfig, width: int) -> Shapes:
    with torch.device("meta"):  # no memory
        model = build_model(config, width, 0)
    return shapes_of(model.state_dict())


def differences(wanted: Shapes, found: Shapes) -> tuple[str, ...]:
    """Return a phrase for every weight that is missing, unknown, or of another shape, in turns."""
    kinds = (
        [f"{n} is missing" for n in sorted(wanted.keys() - found.keys())],
        [f"{n} is unknown" for n in sorted(found.keys() - wanted.keys())],
        [
            f"{n} has shape {list(found[n])} for {list(wanted[n])}"
            for n in sorted(wanted.keys() & found.keys())
            if found[n] != wanted[n]
        ],
    )
    return tuple(phrase for turn in itertools.zip_longest(*kinds) for phrase in turn if phrase)


# --- sizes from shapes ----------------------------------------------------------------------------


def _shared_sizes(shapes: Shapes) -> dict[str, object]:
    """Return what most models have in common, so that a misfit names the real difference."""
    layers = num_parts(shapes, "encoder.layers.")
    sizes: dict[str, object] = {"num_layers": layers} if layers else {}
    for name in ("encoder.project_in.weight", "encoder.norm_f.weight"):
        if shapes.get(name) and shapes[name][0]:
            return {**sizes, "hidden": shapes[name][0]}
    return sizes


# --- settings from args ---------------------------------------------------------------------------


def recipe_of(
    config: ModelConfig,
    head: Mapping[str, Tensor] | None,
    args: Args,
    context_length: int,
) -> Recipe:
    """Return the recipe of a fitted model; `head` holds its projection head, or is None.

    A setting of `args` that no recipe allows is left at the default: it describes how the model was
    made, and does not change what it computes. Without a head the loss looked at the raw space.
    """
    recipe = _from_args(Recipe(model=config, context_length=context_length), SPELLINGS, args)
    if head is None:
        stated = first(args, SPELLINGS["objective.contrastive_weight"]) is not None
        alone = {} if stated else {"objective.contrastive_weight": 0.0, "objective.ar_weight": 1.0}
        return recipe.with_changes({"objective.space": "raw", **alone})
    sizes: dict[str, object] = {}
    with contextlib.suppress(KeyError, IndexError):
        sizes["head.hidden"] = head["net.0.weight"].shape[0]
        sizes["head.width"] = head["net.3.weight"].shape[0]
    return recipe.with_changes(sizes)


def _from_args(config: Config, spellings: Mapping[str, tuple[str, ...]], args: Args) -> Config:
    for key, names in spellings.items():
        value = first(args, names)
        if value is not None:
            with contextlib.suppress(ConfigError):
                config = with_changes(config, {key: value})
    return config


def accumulated_negatives(args: Args) -> tuple[int, int] | None:
    """Return (negatives seen, negatives stated) where gradient accumulation made them differ.

    `args` are those of a .pt file: with a batch of 256 and 4 steps of accumulation, 255 rows are
    against the target, not 1023. None without accumulation, or without a contrastive loss.
    """
    batch = _whole(args, ("batch_size", "micro_batch_size"))
    steps = _whole(args, ACCUMULATION_NAMES) or 1
    if any(args.get(name) == 0 for name in ("lambda_con", "lambda_contrastive")) or not batch:
        return None
    stated = max(batch * steps, _whole(args, EFFECTIVE_NAMES) or 0)
    return (batch - 1, stated - 1) if stated > batch else None


def _whole(args: Args, names: tuple[str, ...]) -> int | None:
    values = (args.get(name) for name in names)
    return next((v for v in values if type(v) is int and v > 0), None)
