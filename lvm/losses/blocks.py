"""One block of rows of a softmax over very many candidates: its logits, weights and products.

Two ways, of one interface: in the precision of the inputs, and with what goes into a matrix product
rounded to half precision while everything that comes out of one is float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lvm.core.compiled import Compiled

# Parts in which a product over all candidates is summed: it has too few results to give every
# processor of a GPU one.
SUM_PARTS = 32
ALIGNMENT = 16 * SUM_PARTS  # columns: a row of logits, and each part of it, starts at 16 bytes


class FullBlock:
    """The products of a block of rows in the precision of its inputs, fp32 at least."""

    def __init__(self, candidates: Float[Tensor, "C W"]) -> None:
        self.candidates = candidates

    def logits(self, rows: Float[Tensor, "b W"], temperature: float) -> Float[Tensor, "b C"]:
        """Return what the softmax is taken of."""
        return (rows / temperature) @ self.candidates.T

    def softmax_minus_one_hot(
        self, logits: Float[Tensor, "b C"], positive: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b C"]]:
        """Return the sum of the losses, and softmax - one_hot; may work in place."""
        return _softmax_minus_one_hot_(logits, positive), logits

    def over_candidates(self, weights: Float[Tensor, "b C"]) -> Float[Tensor, "b W"]:
        """Return the weighted sums of the candidates."""
        return weights @ self.candidates

    def add_(self, total: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
        """Add the scaled product of `left` and `right` to `total`."""
        total.addmm_(left, right, alpha=scale)


class HalfBlock:
    """The same with inputs of products rounded, and all that comes out of them in fp32."""

    def __init__(self, candidates: Float[Tensor, "C W"], half: torch.dtype) -> None:
        self.half, self.size = half, len(candidates)
        self.candidates = F.pad(candidates.to(half), (0, 0, 0, -self.size % ALIGNMENT))

    def logits(self, rows: Float[Tensor, "b W"], temperature: float) -> Float[Tensor, "b padded"]:
        """Return what the softmax is taken of; columns that fill up are -inf."""
        logits = wide_product((rows / temperature).to(self.half), self.candidates.T)
        logits[:, self.size :] = -torch.inf
        return logits

    def softmax_minus_one_hot(
        self, logits: Float[Tensor, "b padded"], positive: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "b padded"]]:
        """Return the sum of the losses, and softmax - one_hot, rounded."""
        column = positive[:, None]
        on_gpu = logits.device.type == "cuda"
        total = (_log_sum if on_gpu else _log_sum.plain)(logits)
        surprise = total - logits.gather(1, column)
        weights = (_softmax if on_gpu else _softmax.plain)(logits, total, self.half)
        # p - 1 of the positive from fp32: a p near 1 would lose all that is left of it.
        weights.scatter_(1, column, torch.expm1(-surprise).to(self.half))
        return surprise.sum(), weights

    def over_candidates(self, weights: Float[Tensor, "b padded"]) -> Float[Tensor, "b W"]:
        """Return the weighted sums of the candidates."""
        parts = weights.view(len(weights), SUM_PARTS, -1).transpose(0, 1)
        candidates = self.candidates.view(SUM_PARTS, -1, self.candidates.shape[1])
        return wide_product(parts, candidates).sum(0)

    def add_(self, total: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
        """Add the scaled product of `left` and `right` to `total`."""
        total.add_(wide_product(left, right.to(self.half)), alpha=scale)


def wide_product(
    left: Float[Tensor, "*batch m k"], right: Float[Tensor, "*batch k n"]
) -> Float[Tensor, "*batch m n"]:
    """Return the float32 sums of products of rounded numbers."""
    if left.device.type == "cuda" and hasattr(torch.ops.aten.bmm, "dtype"):
        multiply = torch.bmm if left.ndim == 3 else torch.mm
        return multiply(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()


@Compiled
def _log_sum(logits: Float[Tensor, "b C"]) -> Float[Tensor, "b 1"]:
    return torch.logsumexp(logits, dim=1, keepdim=True)


@Compiled
def _softmax(
    logits: Float[Tensor, "b C"], total: Float[Tensor, "b 1"], dtype: torch.dtype
) -> Float[Tensor, "b C"]:
    return torch.exp(logits - total).to(dtype)


def _softmax_minus_one_hot_(
    logits: Float[Tensor, "b C"], positive: Int[Tensor, " b"]
) -> Float[Tensor, ""]:
    """Turn logits into softmax - one_hot(positive) in place and return the sum of the losses."""
    column = positive[:, None]
    logits -= logits.amax(dim=1, keepdim=True)
    at_positive = logits.gather(1, column)
    total = logits.exp_().sum(dim=1, keepdim=True)
    logits /= total
    logits.scatter_add_(1, column, torch.full_like(at_positive, -1.0))
    return (total.log() - at_positive).sum()
