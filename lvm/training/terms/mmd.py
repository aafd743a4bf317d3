"""The anchor: predictions are spread as the targets are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lvm.losses.mmd import mmd2_unbiased
from lvm.training.forward import Outputs
from lvm.training.terms.base import TERMS, Term
from lvm.training.world import World


@TERMS.register("mmd")
@dataclass(frozen=True, kw_only=True)
class AnchorMMD(Term):
    """MMD^2 of predictions and targets."""

    title: ClassVar[str] = "MMD"
    keys: ClassVar[Mapping[str, str]] = {
        "weight": "objective.mmd_weight",
        "balance": "objective.mmd_balance",
    }

    def value(self, outputs: Outputs, world: World, log: dict[str, Tensor]) -> Tensor:
        """Return the MMD^2 of the global batch."""
        return world.over_global_batch(mmd2_unbiased, outputs.predictions, outputs.targets)
