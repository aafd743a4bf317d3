"""What a term of the objective is: options that a recipe gives it, and a value with a gradient.

A new term is one file, in this folder or outside the package:

    @TERMS.register("uniformity")
    @dataclass(frozen=True, kw_only=True)
    class Uniformity(Term):
        sharpness: float = 2.0

        def value(self, outputs, world, log):
            return world.over_global_batch(self._of, outputs.predictions)

and a recipe adds it with [objective.terms.uniformity] weight = 0.1. Its value is recorded under its
name; what else it measures it puts into `log`. It must wait for no GPU: updates are captured as a
CUDA graph.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import ClassVar, cast

from torch import Tensor

from lvm.core.config.recipe import Recipe
from lvm.core.parts import TERMS as TERMS
from lvm.core.parts import TermOptions
from lvm.training.forward import Outputs
from lvm.training.world import World


@dataclass(frozen=True, kw_only=True)
class Term(TermOptions, ABC):
    """One term of the objective; its fields are its options."""

    keys: ClassVar[Mapping[str, str]] = {}  # options that are elsewhere in a recipe, and where

    @classmethod
    def of(cls, recipe: Recipe, name: str) -> Term:
        """Return the term as a recipe sets it, in [objective.terms.NAME] or by keys of its own."""
        if not cls.keys:
            return cast(Term, recipe.objective.terms[name])
        return cls(**{option: attrgetter(key)(recipe) for option, key in cls.keys.items()})

    @abstractmethod
    def value(self, outputs: Outputs, world: World, log: dict[str, Tensor]) -> Tensor:
        """Return the unweighted loss of this worker's rows, whose mean over workers is the loss.

        `World.over_global_batch` is for a loss that is no mean over rows.
        """
