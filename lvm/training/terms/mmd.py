"""The anchor: predictions are spread as the targets are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lvm.config import Recipe
from lvm.losses.mmd import mmd2_unbiased
from lvm.training.forward import Outputs
from lvm.training.terms.base import TERMS, Term
from lvm.training.world import World


@TERMS.register("mmd")
@dataclass(frozen=True, kw_only=True)
class AnchorMMD(Term):
    """MMD^2 of predictions and targets; its options are objective.mmd_weight and mmd_balance."""

    title: ClassVar[str] = "MMD"

    @classmethod
    def of(cls, recipe: Recipe, name: str) -> Term:
        """Return the term with the keys of [objective]."""
        config = recipe.objective
        return cls(weight=config.mmd_weight, balance=config.mmd_balance)

    def value(self, outputs: Outputs, world: World, log: dict[str, Tensor]) -> Tensor:
        """Return the MMD^2 of the global batch."""
        return world.over_global_batch(mmd2_unbiased, outputs.predictions, outputs.targets)
