"""The `ctx` of a torch.autograd.Function, which torch leaves untyped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from torch import Tensor
from torch.autograd.function import FunctionCtx

Saved = TypeVar("Saved")
Kept = TypeVar("Kept")

if TYPE_CHECKING:

    class Context(FunctionCtx, Generic[Saved, Kept]):
        """What a forward pass leaves for its backward pass: tensors, and what is `kept`."""

        saved_tensors: Saved
        needs_input_grad: tuple[bool, ...]
        kept: Kept  # None where there are tensors alone

        def save_for_backward(self, *tensors: Tensor | None) -> None:
            """Keep tensors; torch's own type forgets that None may be among them."""

else:

    class Context:
        """FunctionCtx, to what checks types at run time: a class of torch's own is derived."""

        def __class_getitem__(cls, _: object) -> type:
            return FunctionCtx
