"""The causal depthwise convolution in front of a state-space recurrence, fast on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from lvm.core.autograd import Context

Ctx = Context[tuple[Tensor, Tensor], None]  # x and the weight


class _CausalConv(torch.autograd.Function):
    """Shifted multiply-adds with a backward of the same kind.

    Left to autograd, every shifted slice costs a zero-filled tensor of full size in the backward
    pass, which took more time than all matrix products of the model together.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        output = torch.addcmul(bias, x, weight[-1])
        for shift in range(1, min(len(weight), x.shape[1])):
            output[:, shift:].addcmul_(x[:, :-shift], weight[-1 - shift])
        return output

    @staticmethod
    def setup_context(ctx: Ctx, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], inputs[1])

    @staticmethod
    def backward(ctx: Ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad_x, grad_weight = grad * weight[-1], torch.zeros_like(weight)
        product = grad * x  # one buffer for all taps: a fresh one costs more than its multiply
        grad_weight[-1] = product.sum((0, 1))
        for shift in range(1, min(len(weight), x.shape[1])):
            later, earlier = grad[:, shift:], x[:, :-shift]
            grad_x[:, :-shift].addcmul_(later, weight[-1 - shift])
            torch.mul(later, earlier, out=product[:, shift:])
            grad_weight[-1 - shift] = product[:, shift:].sum((0, 1))
        return grad_x, grad_weight, grad.sum((0, 1))


def causal_conv(
    x: Float[Tensor, "B L E"], weight: Float[Tensor, "E 1 K"], bias: Float[Tensor, " E"]
) -> Float[Tensor, "B L E"]:
    """Return the causal depthwise convolution along L, as K shifted multiply-adds.

    Equals conv1d(groups=E) with K - 1 zeros on the left, which is slow on a CPU.
    """
    taps = weight[:, 0].t().contiguous()  # [K, E]
    apply = cast(Callable[..., Tensor], _CausalConv.apply)
    return apply(x, taps.to(x.dtype), bias.to(x.dtype))
