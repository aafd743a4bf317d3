"""The objective of a recipe: the weighted sum of the terms that its table holds."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from lvm.core.config.recipe import Recipe
from lvm.core.parts import TERMS
from lvm.training.forward import Outputs
from lvm.training.terms.base import Term
from lvm.training.world import World


@dataclass(frozen=True, eq=False)
class Objective:
    """The total loss, its terms, and what else they measured."""

    total: Tensor
    terms: dict[str, Tensor]  # unweighted
    weights: dict[str, float | Tensor]  # of each term in the total, after any balancing
    logged: dict[str, Tensor]

    @property
    def measured(self) -> dict[str, Tensor]:
        """All numbers of an update for its record, by name, without gradients."""
        return {name: term.detach() for name, term in self.terms.items()} | self.logged


@functools.lru_cache(maxsize=16)  # asked at every update
def terms_of(recipe: Recipe) -> Mapping[str, Term]:
    """Return the terms that the recipe gives a weight, by their names."""
    return {
        name: cast(type[Term], TERMS.get(name)).of(recipe, name) for name in recipe.objective.table
    }


def objective(recipe: Recipe, outputs: Outputs, world: World) -> Objective:
    """Return the weighted loss of the rows of this worker.

    The mean over workers of every term equals the term of the global batch. The weight of a
    balanced term is its share of the gradient norm of all terms that are not balanced.
    """
    table = terms_of(recipe)
    terms, logged = objective_terms(recipe, outputs, world)
    weights: dict[str, float | Tensor] = {name: term.weight for name, term in table.items()}
    fixed = [weights[n] * terms[n] for n, term in table.items() if term.balance == "fixed"]
    rest = total = functools.reduce(operator.add, fixed)
    for name, term in table.items():
        if term.balance == "gradient":
            ratio = _gradient_ratio(rest, terms[name], outputs.predictions, world)
            weights[name] *= _without_waiting(ratio)
            total = total + weights[name] * terms[name]
    return Objective(total, terms, weights, logged)


def objective_terms(
    recipe: Recipe, outputs: Outputs, world: World
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the unweighted terms that the recipe gives a weight, and what they log with it."""
    logged = {"num_negatives": outputs.predictions.new_zeros((), dtype=torch.float64)}
    terms = {n: term.value(outputs, world, logged) for n, term in terms_of(recipe).items()}
    return terms, {name: value.detach() for name, value in logged.items()}


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
