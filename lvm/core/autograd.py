"""The `ctx` of a torch.autograd.Function, which torch leaves untyped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from torch import Tensor
from torch.autograd.function import FunctionCtx

Saved = TypeVar("Saved", covariant=True)
Kept = TypeVar("Kept")

if TYPE_CHECKING:

    class Context(Protocol[Saved, Kept]):
        """What a forward pass leaves for its backward pass: tensors, and what is `kept`."""

        kept: Kept  # set by the forward pass; a Context of None has nothing there

        @property
        def saved_tensors(self) -> Saved:
            """What `save_for_backward` was given."""

        @property
        def needs_input_grad(self) -> tuple[bool, ...]:
            """Whether each argument of the forward pass needs a gradient."""

        def save_for_backward(self, *tensors: Tensor | None) -> None:
            """Keep tensors until the backward pass."""

        def mark_non_differentiable(self, *tensors: Tensor) -> None:
            """Name the outputs that have no gradient."""

        def set_materialize_grads(self, value: bool) -> None:
            """Say whether a missing gradient comes as zeros, and not as None."""

else:

    class Context:
        """FunctionCtx, to what checks types at run time: nothing is set at first."""

        def __class_getitem__(cls, _: object) -> type:
            return FunctionCtx
