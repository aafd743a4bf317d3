"""The objective of a recipe: contrastive + autoregressive cosine + MMD, term by term.

And the forward pass that makes what it is computed from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lvm.config import Recipe
from lvm.data.windows import Windows
from lvm.device import ids_on
from lvm.losses.cosine import ar_cosine
from lvm.losses.infonce import Excluded, infonce
from lvm.losses.mmd import mmd2_unbiased
from lvm.models.predictor import Predictor
from lvm.training.negatives import Candidates
from lvm.training.world import World


@dataclass(frozen=True, eq=False)
class Outputs:
    """What one forward pass hands to the objective, unit rows throughout."""

    predictions: Float[Tensor, "B D"]
    targets: Float[Tensor, "B D"]
    queries: Float[Tensor, "B W"]  # predictions in the space of the contrastive loss
    candidates: Float[Tensor, "C W"]
    documents: Float[Tensor, "C D"]  # candidates in the space of the targets, without a gradient
    positive: Int[Tensor, " B"]  # column of every row's target among the candidates
    excluded: Excluded  # candidates that are no negatives of a row
    products: torch.dtype | None = None  # what the products of very many candidates are rounded to


@dataclass(frozen=True, eq=False)
class Objective:
    """The total loss, its terms, and the number of negatives really seen per row."""

    total: Tensor
    terms: dict[str, Tensor]  # unweighted
    weights: dict[str, Any]  # of each term in the total, after any balancing; number or tensor
    num_negatives: Float[Tensor, ""]


def forward_pass(
    network: nn.Module,
    predictor: Predictor,
    vectors: Float[Tensor, "N D"],
    windows: Windows,
    local: Int[np.ndarray, " B"],
    drawn: Candidates,
    *,
    autocast: bool,
) -> Outputs:
    """Return what the objective needs of the windows `local` against the candidates drawn for them.

    `network` is the predictor, or DDP around it. `vectors` is the bank on the predictor's device.
    """
    device = vectors.device
    return outputs_of(
        network,
        predictor,
        vectors[ids_on(windows.contexts[local], device)],
        vectors[ids_on(windows.targets[local], device)],
        vectors[ids_on(drawn.ids, device)],
        ids_on(drawn.positive, device),
        ids_on(drawn.excluded, device),
        autocast=autocast,
    )


def outputs_of(
    network: nn.Module,
    predictor: Predictor,
    contexts: Float[Tensor, "B T D"],
    targets: Float[Tensor, "B D"],
    raw_candidates: Float[Tensor, "C D"],
    positive: Int[Tensor, " B"],
    excluded: Excluded,
    *,
    autocast: bool,
    products: torch.dtype | None = None,
) -> Outputs:
    """Return what the objective needs, from rows of the bank on the predictor's device.

    Candidates that come out of the network in the dtype of `products` stay in it.
    """
    with torch.autocast(contexts.device.type, dtype=torch.bfloat16, enabled=autocast):
        predictions, queries, candidates = network(contexts, raw_candidates)
        with torch.no_grad():  # a document tower learns from the contrastive term alone
            targets = predictor.model.encode_documents(targets)
            documents = _documents(predictor, raw_candidates, candidates)
    return Outputs(
        predictions=predictions.float(),
        targets=targets.float(),
        queries=queries.float(),
        candidates=candidates if candidates.dtype == products else candidates.float(),
        documents=documents,
        positive=positive,
        excluded=excluded,
        products=products,
    )


def _documents(
    predictor: Predictor, raw_candidates: Float[Tensor, "C D"], candidates: Float[Tensor, "C W"]
) -> Float[Tensor, "C D"]:
    """Return what the model makes of the bank's rows before any head looks at them.

    A margin compares them with the targets, which a document tower moves too.
    """
    if predictor.head is None:
        return candidates.detach()
    return predictor.model.encode_documents(raw_candidates)


def objective(recipe: Recipe, outputs: Outputs, world: World) -> Objective:
    """Return the weighted loss of the rows of this worker.

    The mean over workers of every term equals the term of the global batch: InfoNCE and cosine are
    means over rows against global candidates, MMD is computed on the gathered predictions.
    """
    config = recipe.objective
    terms, num_negatives = objective_terms(recipe, outputs, world)
    weights: dict[str, Any] = {name: getattr(config, f"{name}_weight") for name in terms}
    parts = [weights[name] * terms[name] for name in ("contrastive", "ar") if name in terms]
    total = torch.stack(parts).sum() if parts else outputs.predictions.new_zeros(())
    if "mmd" in terms:
        if config.mmd_balance == "gradient" and parts:
            ratio = _gradient_ratio(total, terms["mmd"], outputs.predictions, world)
            weights["mmd"] *= _without_waiting(ratio)
        total = total + weights["mmd"] * terms["mmd"]
    return Objective(total, terms, weights, num_negatives)


def objective_terms(
    recipe: Recipe, outputs: Outputs, world: World
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the unweighted terms that the recipe gives a weight, and the negatives per row."""
    config, terms = recipe.objective, {}
    num_negatives = outputs.predictions.new_zeros((), dtype=torch.float64)
    if config.contrastive_weight > 0:
        margin = recipe.negatives.false_negative_margin
        result = infonce(
            outputs.queries,
            outputs.candidates,
            outputs.positive,
            temperature=config.temperature,
            excluded=outputs.excluded,
            false_negative_margin=margin,
            reference=(outputs.targets, outputs.documents) if margin is not None else None,
            products=outputs.products,
        )
        terms["contrastive"], num_negatives = result.loss, result.num_negatives
    if config.ar_weight > 0:
        terms["ar"] = ar_cosine(outputs.predictions, outputs.targets)
    if config.mmd_weight > 0:
        terms["mmd"] = _global_mmd(outputs.predictions, outputs.targets, world)
    return terms, num_negatives


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


def _gradient_ratio(
    rest: Tensor, term: Tensor, predictions: Tensor, world: World
) -> Float[Tensor, ""]:
    """Return |d rest / d predictions| / |d term / d predictions| over the global batch."""
    norms = [
        torch.autograd.grad(loss, predictions, retain_graph=True)[0].square().sum()
        for loss in (rest, term)
    ]
    squared = world.sum(torch.stack(norms))
    return (squared[0] / squared[1].clamp_min(1e-24)).sqrt()


def _without_waiting(value: Float[Tensor, ""]) -> float | Tensor:
    """Return a number on the CPU, where it is there already, and the tensor on a GPU."""
    return float(value) if value.device.type == "cpu" else value
