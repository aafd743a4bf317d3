"""InfoNCE: how well a prediction picks its target out of many candidates.

    loss = mean_b  -log( exp(q_b . c_p(b) / tau) / sum_j exp(q_b . c_j / tau) )

The sum runs over every candidate j that is not masked for row b. Also known as NT-Xent without the
symmetric half, or the multiple negatives ranking loss (van den Oord et al. 2018, section 2.3).

Two paths give the same value and gradients. The dense one builds the [B, C] logits and lets
autograd work. The other takes a block of rows at a time and computes the gradients while its
softmax is at hand, so that it keeps dQ and dC and never a [B, C] matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

MAX_DENSE_LOGITS = 2**20  # 4 MB in fp32; above it blocks are as fast and leaner
MIN_BLOCK_ROWS = 64  # fewer rows would read all candidates for too little work


@dataclass(frozen=True)
class InfoNCEOutput:
    """The loss and how hard the question was."""

    loss: Float[Tensor, ""]
    num_negatives: float  # candidates that stood against the positive, mean over rows, after masks


def infonce(
    queries: Float[Tensor, "B W"],
    candidates: Float[Tensor, "C W"],
    positive: Int[Tensor, " B"],
    *,
    temperature: float,
    excluded: Int[Tensor, "E 2"] | None = None,
    false_negative_margin: float | None = None,
    reference: tuple[Float[Tensor, "B D"], Float[Tensor, "C D"]] | None = None,
    row_block: int | None = None,
) -> InfoNCEOutput:
    """Return the InfoNCE loss of unit `queries` against unit `candidates`.

    `positive` [B] is the column of the right candidate of each row; no mask ever drops it.
    `excluded` [E, 2] lists (row, column) pairs that get no probability; repeats are harmless.
    With `false_negative_margin`, a candidate is dropped from a row when its cosine to the row's
    target in `reference` = (targets, candidates), unit rows of the raw space, is above the margin
    (the guided rule of GISTEmbed, Solatorio 2024, with the bank as the guide). No gradient flows
    through `reference`.

    `row_block` is the number of rows worked on at once; B or more is the dense path, and by default
    the size of the problem decides. The arithmetic is fp32 at least, also under autocast. The block
    path has no second derivative. ValueError: a margin without a reference.
    """
    if false_negative_margin is not None and reference is None:
        raise ValueError("a false_negative_margin needs reference vectors; pass reference=")
    if not torch.is_grad_enabled():
        queries, candidates = queries.detach(), candidates.detach()
    num_rows, num_columns = len(queries), len(candidates)
    block = row_block or _rows_per_block(num_rows, num_columns)
    with torch.autocast(queries.device.type, enabled=False):
        guide = None if false_negative_margin is None else reference
        masks = _Masks.build(positive, num_columns, excluded, false_negative_margin, guide)
        q, c = _full_precision(queries), _full_precision(candidates)
        path = _dense if block >= num_rows else _RowBlocks.apply
        loss, num_dropped = cast(Any, path)(q, c, masks, temperature, block)
    return InfoNCEOutput(loss, num_columns - 1 - num_dropped.item() / num_rows)


def _rows_per_block(num_rows: int, num_columns: int) -> int:
    if num_rows * num_columns <= MAX_DENSE_LOGITS:
        return num_rows
    return max(MIN_BLOCK_ROWS, MAX_DENSE_LOGITS // num_columns)


def _full_precision(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


@dataclass(frozen=True)
class _Masks:
    """Which candidates are dropped from which rows, built for one block of rows at a time."""

    positive: Int[Tensor, " B"]
    num_columns: int
    rows: Int[Tensor, " E"]  # of the excluded pairs, sorted
    columns: Int[Tensor, " E"]
    offsets: list[int]  # [B + 1]: the pairs of rows a..b-1 are offsets[a] to offsets[b]
    margin: float | None
    reference: tuple[Float[Tensor, "B D"], Float[Tensor, "C D"]] | None

    @classmethod
    def build(
        cls,
        positive: Int[Tensor, " B"],
        num_columns: int,
        excluded: Int[Tensor, "E 2"] | None,
        margin: float | None,
        reference: tuple[Tensor, Tensor] | None,
    ) -> _Masks:
        if excluded is None:
            excluded = positive.new_empty((0, 2))
        rows, order = excluded[:, 0].contiguous().sort()
        if reference is not None:
            targets, candidates = reference
            reference = _full_precision(targets.detach()), _full_precision(candidates.detach())
        numbers = torch.arange(len(positive) + 1, device=rows.device, dtype=rows.dtype)
        offsets = torch.searchsorted(rows, numbers).tolist()
        return cls(positive, num_columns, rows, excluded[order, 1], offsets, margin, reference)

    def block(self, start: int, stop: int) -> Bool[Tensor, "b C"]:
        """Return what rows start..stop drop."""
        positive = self.positive[start:stop]
        if self.reference is not None and self.margin is not None:
            targets, candidates = self.reference
            mask = targets[start:stop] @ candidates.T > self.margin
        else:
            size = (len(positive), self.num_columns)
            mask = torch.zeros(size, dtype=torch.bool, device=positive.device)
        low, high = self.offsets[start], self.offsets[stop]
        mask[self.rows[low:high] - start, self.columns[low:high]] = True
        mask.scatter_(1, positive[:, None], False)
        return mask


def _dense(
    queries: Float[Tensor, "B W"],
    candidates: Float[Tensor, "C W"],
    masks: _Masks,
    temperature: float,
    row_block: int,
) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
    mask = masks.block(0, len(queries))
    logits = ((queries / temperature) @ candidates.T).masked_fill_(mask, -torch.inf)
    return F.cross_entropy(logits, masks.positive), mask.sum()


class _RowBlocks(torch.autograd.Function):
    """Loss and gradients of one block of rows after the other; saves dQ and dC alone."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Float[Tensor, "B W"],
        candidates: Float[Tensor, "C W"],
        masks: _Masks,
        temperature: float,
        row_block: int,
    ) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        # Frozen candidates (the bank itself) cost neither the memory nor the product of dC.
        needs_queries, needs_candidates = ctx.needs_input_grad[:2]
        grad_queries = torch.empty_like(queries) if needs_queries else None
        grad_candidates = torch.zeros_like(candidates) if needs_candidates else None
        num_rows = len(queries)
        loss, num_dropped = queries.new_zeros(()), masks.positive.new_zeros(())
        for start in range(0, num_rows, row_block):
            stop = min(start + row_block, num_rows)
            mask = masks.block(start, stop)
            logits = (queries[start:stop] / temperature) @ candidates.T
            logits.masked_fill_(mask, -torch.inf)
            num_dropped += mask.sum()
            loss += _softmax_minus_one_hot_(logits, masks.positive[start:stop]) / num_rows
            scale = 1 / (temperature * num_rows)
            if grad_queries is not None:
                grad_queries[start:stop] = (logits @ candidates).mul_(scale)
            if grad_candidates is not None:
                grad_candidates.addmm_(logits.T, queries[start:stop], alpha=scale)
        ctx.save_for_backward(grad_queries, grad_candidates)
        ctx.mark_non_differentiable(num_dropped)
        return loss, num_dropped

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        grads = (None if g is None else g * grad_loss for g in ctx.saved_tensors)
        return *grads, None, None, None


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
