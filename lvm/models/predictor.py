"""The trained whole: a next-vector model and, where the recipe has one, its projection head."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lvm.core.config.recipe import Recipe
from lvm.core.errors import CheckpointError
from lvm.models.base import build_model
from lvm.models.projection import build_head


class Predictor(nn.Module):
    """Predicts next vectors and places predictions and documents in a search space.

    The raw space is that of the bank; the projected space is behind the head, unit rows in both.
    """

    def __init__(self, recipe: Recipe, width: int) -> None:
        super().__init__()
        self.model = build_model(recipe.model, width, recipe.seed)
        self.head = build_head(recipe.head, width, recipe.seed) if recipe.has_head else None
        self.stop_gradient = recipe.objective.stop_gradient

    def forward(
        self, contexts: Float[Tensor, "B T D"], candidates: Float[Tensor, "C D"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B W"], Float[Tensor, "C W"]]:
        """Return predictions, and queries and candidates in the space of the contrastive loss.

        Everything that takes a gradient passes through here, so that DDP sees every parameter.
        """
        predictions = self.model(contexts)
        documents = self.model.encode_documents(candidates)
        if self.head is None:
            return predictions, predictions, documents
        queries = self.head(predictions)
        if self.stop_gradient == "target":
            with torch.no_grad():
                projected = self.head(documents)
        else:
            projected = self.head(documents)
        if self.stop_gradient == "prediction":
            queries = queries.detach()
        return predictions, queries, projected

    def queries(self, contexts: Float[Tensor, "B T D"], space: str) -> Float[Tensor, "B W"]:
        """Return predictions in the space of the search."""
        predictions: Tensor = self.model(contexts)
        return predictions if space == "raw" else self._project(predictions)

    def documents(self, vectors: Float[Tensor, "C D"], space: str) -> Float[Tensor, "C W"]:
        """Return bank rows in the space of the search."""
        documents: Tensor = self.model.encode_documents(vectors)
        return documents if space == "raw" else self._project(documents)

    def _project(self, vectors: Float[Tensor, "B D"]) -> Float[Tensor, "B W"]:
        if self.head is None:
            raise CheckpointError(
                "this model has no projection head, so no projected space; search the raw "
                "space, or train with objective.space = 'projected'."
            )
        projected: Tensor = self.head(vectors)
        return projected
