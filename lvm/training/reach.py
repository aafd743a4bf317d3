"""Which parameters the objective of a recipe reaches, and which it leaves as they were made."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lvm.core.config.recipe import Recipe
from lvm.models.predictor import Predictor
from lvm.training.forward import outputs_of
from lvm.training.objective import objective_terms
from lvm.training.world import World


def unreached(
    predictor: Predictor,
    recipe: Recipe,
    contexts: Float[Tensor, "B T D"],
    targets: Float[Tensor, "B D"],
    world: World,
    *,
    autocast: bool,
) -> list[nn.Parameter]:
    """Return the parameters that no term of the recipe's objective has a gradient for.

    Found by one pass over any windows on the predictor's device, every worker with its own: a
    document tower behind a stopped gradient, or one whose model learns by cosines alone, is asked
    and yet not trained.
    """
    rows = torch.arange(len(targets), device=targets.device)
    outputs = outputs_of(
        predictor,
        predictor,
        contexts,
        targets,
        targets,
        rows,
        rows.new_empty(0, 2),
        autocast=autocast,
    )
    terms, _ = objective_terms(recipe, outputs, world)
    reaching = [term for term in terms.values() if term.requires_grad]
    parameters = list(predictor.parameters())
    gradients = torch.autograd.grad(torch.stack(reaching).sum(), parameters, allow_unused=True)
    return [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is None]
