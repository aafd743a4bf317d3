"""The objective of a recipe: contrastive + autoregressive cosine + MMD, term by term."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lvm.config import Recipe
from lvm.losses.cosine import ar_cosine
from lvm.losses.infonce import infonce
from lvm.losses.mmd import mmd2_unbiased
from lvm.training.world import World


@dataclass(frozen=True, eq=False)
class Outputs:
    """What one forward pass hands to the objective, unit rows throughout."""

    predictions: Float[Tensor, "B D"]
    targets: Float[Tensor, "B D"]
    queries: Float[Tensor, "B W"]  # predictions in the space of the contrastive loss
    candidates: Float[Tensor, "C W"]
    raw_candidates: Float[Tensor, "C D"]
    positive: Int[Tensor, " B"]  # column of every row's target among the candidates
    excluded: Int[Tensor, "E 2"]  # (row, column) pairs that are no negatives


@dataclass(frozen=True, eq=False)
class Objective:
    """The total loss, its unweighted terms, and the number of negatives really seen per row."""

    total: Tensor
    terms: dict[str, Tensor]
    num_negatives: float


def objective(recipe: Recipe, outputs: Outputs, world: World) -> Objective:
    """Return the weighted loss of the rows of this worker.

    The mean over workers of every term equals the term of the global batch: InfoNCE and cosine are
    means over rows against global candidates, MMD is computed on the gathered predictions.
    """
    config, terms, num_negatives = recipe.objective, {}, 0.0
    parts: list[Tensor] = []
    if config.contrastive_weight > 0:
        margin = recipe.negatives.false_negative_margin
        result = infonce(
            outputs.queries,
            outputs.candidates,
            outputs.positive,
            temperature=config.temperature,
            excluded=outputs.excluded,
            false_negative_margin=margin,
            reference=(outputs.targets, outputs.raw_candidates) if margin is not None else None,
        )
        terms["contrastive"], num_negatives = result.loss, result.num_negatives
        parts.append(config.contrastive_weight * result.loss)
    if config.ar_weight > 0:
        terms["ar"] = ar_cosine(outputs.predictions, outputs.targets)
        parts.append(config.ar_weight * terms["ar"])
    total = torch.stack(parts).sum() if parts else outputs.predictions.new_zeros(())
    if config.mmd_weight > 0:
        terms["mmd"] = _global_mmd(outputs.predictions, outputs.targets, world)
        weight = config.mmd_weight
        if config.mmd_balance == "gradient" and parts:
            weight *= _gradient_ratio(total, terms["mmd"], outputs.predictions, world)
        total = total + weight * terms["mmd"]
    return Objective(total, terms, num_negatives)


def _global_mmd(predictions: Tensor, targets: Tensor, world: World) -> Tensor:
    """Return the MMD of the global batch, with the gradient of this worker's share of it.

    Each worker differentiates by its own rows alone, so nothing is communicated in the backward
    pass, beside DDP's own reductions. DDP averages over workers where this gradient must be summed:
    hence the factor on the gradient, and none on the value.
    """
    if world.size == 1:
        return mmd2_unbiased(predictions, targets)
    value = mmd2_unbiased(world.gather(predictions), world.gather(targets))
    return value.detach() + world.size * (value - value.detach())


def _gradient_ratio(rest: Tensor, term: Tensor, predictions: Tensor, world: World) -> float:
    """Return |d rest / d predictions| / |d term / d predictions| over the global batch."""
    norms = [
        torch.autograd.grad(loss, predictions, retain_graph=True)[0].square().sum()
        for loss in (rest, term)
    ]
    squared = world.sum(torch.stack(norms))
    return float((squared[0] / squared[1].clamp_min(1e-24)).sqrt())
