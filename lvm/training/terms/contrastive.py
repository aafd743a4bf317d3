"""The contrastive term: a prediction picks its target out of many candidates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lvm.losses.infonce import infonce
from lvm.training.forward import Outputs
from lvm.training.terms.base import TERMS, Term
from lvm.training.world import World


@TERMS.register("contrastive")
@dataclass(frozen=True, kw_only=True)
class Contrastive(Term):
    """InfoNCE."""

    title: ClassVar[str] = "InfoNCE"
    keys: ClassVar[Mapping[str, str]] = {
        "weight": "objective.contrastive_weight",
        "temperature": "objective.temperature",
        "false_negative_margin": "negatives.false_negative_margin",
    }

    temperature: float
    false_negative_margin: float | None

    def value(self, outputs: Outputs, world: World, log: dict[str, Tensor]) -> Tensor:
        """Return the mean over this worker's rows; logs `num_negatives` per row."""
        guided = self.false_negative_margin is not None
        result = infonce(
            outputs.queries,
            outputs.candidates,
            outputs.positive,
            temperature=self.temperature,
            excluded=outputs.excluded,
            false_negative_margin=self.false_negative_margin,
            reference=(outputs.targets, outputs.documents) if guided else None,
            products=outputs.products,
        )
        log["num_negatives"] = result.num_negatives
        return result.loss
