"""The autoregressive term: predictions point at the next vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lvm.config import Recipe
from lvm.losses.cosine import ar_cosine
from lvm.training.forward import Outputs
from lvm.training.terms.base import TERMS, Term
from lvm.training.world import World


@TERMS.register("ar")
@dataclass(frozen=True, kw_only=True)
class Autoregressive(Term):
    """1 - cosine of prediction and target; its weight is objective.ar_weight."""

    title: ClassVar[str] = "AR"

    @classmethod
    def of(cls, recipe: Recipe, name: str) -> Term:
        """Return the term with the weight of [objective]."""
        return cls(weight=recipe.objective.ar_weight)

    def value(self, outputs: Outputs, world: World, log: dict[str, Tensor]) -> Tensor:
        """Return the mean over this worker's rows."""
        return ar_cosine(outputs.predictions, outputs.targets)
