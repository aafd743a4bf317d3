"""The autoregressive term: predictions point at the next vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lvm.losses.cosine import ar_cosine
from lvm.training.forward import Outputs
from lvm.training.terms.base import TERMS, Term
from lvm.training.world import World


@TERMS.register("ar")
@dataclass(frozen=True, kw_only=True)
class Autoregressive(Term):
    """1 - cosine of prediction and target."""

    title: ClassVar[str] = "AR"
    keys: ClassVar[Mapping[str, str]] = {"weight": "objective.ar_weight"}

    def value(self, outputs: Outputs, world: World, log: dict[str, Tensor]) -> Tensor:
        """Return the mean over this worker's rows."""
        return ar_cosine(outputs.predictions, outputs.targets)
