"""Which parameters the objective of a recipe reaches, and which it leaves as they were made."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lvm.config import Recipe
from lvm.models.predictor import Predictor


def unreached(
    predictor: Predictor,
    recipe: Recipe,
    contexts: Float[Tensor, "B T D"],
    candidates: Float[Tensor, "C D"],
    *,
    autocast: bool,
) -> list[nn.Parameter]:
    """Return the parameters that no term of the recipe's objective has a gradient for.

    Found by one pass over any rows on the predictor's device: a document tower behind a stopped
    gradient, or one whose model learns by cosines alone, is asked and yet not trained.
    """
    objective = recipe.objective
    with torch.autocast(contexts.device.type, dtype=torch.bfloat16, enabled=autocast):
        predictions, queries, documents = predictor(contexts, candidates)
    used = [predictions] if objective.ar_weight > 0 or objective.mmd_weight > 0 else []
    if objective.contrastive_weight > 0:
        used += [queries, documents]
    sums = [rows.float().sum() for rows in used if rows.requires_grad]
    parameters = list(predictor.parameters())
    gradients = torch.autograd.grad(torch.stack(sums).sum(), parameters, allow_unused=True)
    return [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is None]
