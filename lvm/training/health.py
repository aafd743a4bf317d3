"""The health of a training, measured while it runs: whether its verdict can be trusted.

Nothing here draws from a random stream of the training or changes a number of it. Per epoch, in
`EpochRecord.health` (what is missing could not be measured):

    updates, warmup_updates     made so far; of the schedule
    columns                     of the logits of the first batch, the right one included
    configured_negatives        per row, by the recipe; train["num_negatives"] has those really seen
    gradient_ratio_TERM         |w_i dL_i/dp| / |w_ref dL_ref/dp| on the first batch: p are the
                                predictions, the only way of a term into the shared network; the
                                reference is the contrastive term, else the AR term
    train_cosine                mean cosine of prediction and target on the last batch
    dev_loss, dev_TERM, dev_cosine   the objective on the same few batches of dev windows, with
                                their targets as candidates; no weight is balanced

and in the record of epoch 1 alone

    first_TERM                  terms of the very first update
    dead_all, dead_PART         share of the rows (dim 0) of the parameters without any gradient
                                after the first backward: of all, of each part (model, head)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lvm.core.config.recipe import NegativesConfig, Recipe
from lvm.core.randomness import numpy_generator
from lvm.data.windows import Dataset
from lvm.models.base import NextVectorModel
from lvm.models.predictor import Predictor
from lvm.models.transformer import RecencyEmbedding
from lvm.training.forward import Outputs, forward_pass
from lvm.training.negatives import NegativeSampler
from lvm.training.objective import Objective, objective_terms
from lvm.training.world import World

MAX_DEV_BATCHES = 4
TRAIN_PER_DEV = 16  # train windows per dev window: a forward pass on 1/16 costs 2 % of an epoch


@dataclass
class Probe:
    """Looks at the first and the last update of one epoch; every worker calls it alike."""

    recipe: Recipe
    world: World
    is_first: bool  # epoch of the run
    num_updates: int  # of the epoch
    values: dict[str, float] = field(default_factory=dict)
    update: int = 0  # how many were looked at

    def before_backward(self, outputs: Outputs, result: Objective) -> None:
        """Measure the first batch of the epoch, and the fit of the last one."""
        self.update += 1
        if self.update == 1:
            if "contrastive" in result.terms:
                self.values["columns"] = float(len(outputs.candidates))
            self.values |= gradient_ratios(outputs.predictions, result, self.world)
            if self.is_first:
                self.values |= _first_terms(result, self.world)
        if self.update == self.num_updates:
            cosine = (outputs.predictions.detach() * outputs.targets).sum(dim=1).mean()
            self.values["train_cosine"] = float(self.world.sum(cosine)) / self.world.size

    def after_backward(self, predictor: Predictor) -> None:
        """Count the parameters without a gradient, once per run."""
        if self.is_first and self.update == 1:
            self.values |= dead_shares(predictor, self.recipe)


def gradient_ratios(
    predictions: Float[Tensor, "B D"], result: Objective, world: World
) -> dict[str, float]:
    """Return how strongly each weighted term pulls at the predictions, against the reference.

    A term that the recipe keeps from the predictions (stop_gradient = "prediction") has no ratio.
    Predictions have unit length, so a pull along them is undone and not counted.
    """
    squared = {
        name: result.weights[name] ** 2 * _tangential(predictions, term)
        for name, term in result.terms.items()
    }
    summed = world.sum(torch.stack(list(squared.values()))).double().sqrt().tolist()
    norms = {n: v for n, v in zip(squared, summed, strict=True) if math.isfinite(v) and v > 0}
    reference = next((norms[name] for name in ("contrastive", "ar") if name in norms), 0.0)
    if len(norms) < 2 or reference == 0:
        return {}
    return {f"gradient_ratio_{name}": norm / reference for name, norm in norms.items()}


def _tangential(predictions: Float[Tensor, "B D"], loss: Tensor) -> Tensor:
    """Return the squared norm of d loss / d predictions across the predictions."""
    unconnected = predictions.new_zeros(())
    if not loss.requires_grad:
        return unconnected
    (gradient,) = torch.autograd.grad(loss, predictions, retain_graph=True, allow_unused=True)
    if gradient is None:
        return unconnected
    across = gradient - (gradient * predictions).sum(dim=1, keepdim=True) * predictions
    return across.detach().square().sum()


def _first_terms(result: Objective, world: World) -> dict[str, float]:
    summed = world.sum(torch.stack([term.detach() for term in result.terms.values()]))
    values = (summed / world.size).tolist()
    return {f"first_{n}": v for n, v in zip(result.terms, values, strict=True) if math.isfinite(v)}


def dead_shares(predictor: Predictor, recipe: Recipe) -> dict[str, float]:
    """Return the share of parameter rows without gradient, of all and of each part.

    Not counted are rows that the recipe does not use: positions beyond its context length, and a
    document tower when no contrastive term trains it.
    """
    counts: dict[str, list[int]] = {}
    idle = _idle_rows(predictor, recipe)
    for name, parameter in predictor.named_parameters():
        rows = idle.get(id(parameter), len(_rows(parameter)))
        part = counts.setdefault(name.split(".")[0], [0, 0])
        part[0] += rows - _moving_rows(parameter, rows)
        part[1] += rows
    dead, total = (sum(part[i] for part in counts.values()) for i in (0, 1))
    shares = {f"dead_{name}": part[0] / max(1, part[1]) for name, part in counts.items()}
    return {"dead_all": dead / max(1, total), **shares}


def _moving_rows(parameter: nn.Parameter, rows: int) -> int:
    if parameter.grad is None:
        return 0
    return int(_rows(parameter.grad)[:rows].any(dim=1).sum())


def _rows(tensor: Tensor) -> Float[Tensor, "R C"]:
    """Return a parameter of any rank as rows, those of its first dimension."""
    return tensor.reshape(tensor.shape[0] if tensor.ndim else 1, -1)


def _idle_rows(predictor: Predictor, recipe: Recipe) -> dict[int, int]:
    """Return, by the id of a parameter, how many of its first rows the recipe uses."""
    used: dict[int, int] = {}
    for module in predictor.modules():
        if isinstance(module, RecencyEmbedding):
            used[id(module.weight)] = recipe.context_length
        if isinstance(module, NextVectorModel) and module.residual:
            used[id(module.residual_logits)] = recipe.context_length
    if recipe.objective.contrastive_weight == 0:
        tower = predictor.model.document_parameters()
        used |= {id(parameter): 0 for parameter in tower if parameter.grad is None}
    return used


def configured_negatives(recipe: Recipe, dataset: Dataset) -> int:
    """Return how many candidates the recipe puts against each target, before any mask."""
    if recipe.objective.contrastive_weight == 0:
        return 0
    if recipe.negatives.candidates == "bank":
        articles = np.unique(dataset.train.articles)
        return int(np.isin(dataset.bank.articles, articles).sum()) - 1
    return recipe.training.batch_size * (1 + recipe.negatives.sampled) - 1


def dev_batches(recipe: Recipe, num_dev: int, num_train: int) -> list[np.ndarray]:
    """Return the positions of the dev windows whose loss is followed: the same at every epoch."""
    size = min(recipe.training.batch_size, num_dev)
    if size < 2:  # one candidate alone is always right
        return []
    count = min(MAX_DEV_BATCHES, num_dev // size, max(1, num_train // (TRAIN_PER_DEV * size)))
    order = numpy_generator(recipe.seed, "dev_loss").permutation(num_dev)
    return [order[i * size : (i + 1) * size] for i in range(count)]


class DevLoss:
    """The recipe's objective on a few batches of dev windows, with their targets as candidates."""

    def __init__(self, recipe: Recipe, dataset: Dataset, vectors: Float[Tensor, "N D"]) -> None:
        self._recipe, self._windows, self._vectors = recipe, dataset.dev, vectors
        self._batches = dev_batches(recipe, len(dataset.dev), len(dataset.train))
        if self._batches:
            plain = NegativesConfig()
            self._sampler = NegativeSampler(dataset.bank, dataset.dev, plain, recipe.seed)
            self._sampler.refresh(1)

    @torch.no_grad()
    def measure(self, predictor: Predictor, autocast: bool) -> dict[str, float]:
        """Return dev_loss, its terms and dev_cosine, in the precision of the training."""
        was_training = predictor.training
        predictor.eval()
        rows = [self._terms(predictor, batch, autocast) for batch in self._batches]
        predictor.train(was_training)
        means = {f"dev_{n}": float(np.mean([row[n] for row in rows])) for n in (rows or [{}])[0]}
        return {name: value for name, value in means.items() if math.isfinite(value)}

    def _terms(self, predictor: Predictor, batch: np.ndarray, autocast: bool) -> dict[str, float]:
        drawn = self._sampler.candidates(batch, slice(0, len(batch)))
        outputs = forward_pass(
            predictor, predictor, self._vectors, self._windows, batch, drawn, autocast=autocast
        )
        # A world of one: only the first worker is here.
        alone = World(device=self._vectors.device)
        terms, _ = objective_terms(self._recipe, outputs, alone)
        values = {name: float(term) for name, term in terms.items()}
        weights = self._recipe.objective.weights
        values["loss"] = sum(weights[name] * value for name, value in values.items())
        values["cosine"] = float((outputs.predictions * outputs.targets).sum(dim=1).mean())
        return values
