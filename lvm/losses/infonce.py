"""InfoNCE: how well a prediction picks its target out of many candidates.

    loss = mean_b  -log( exp(q_b . c_p(b) / tau) / sum_j exp(q_b . c_j / tau) )

The sum runs over every candidate j that is not masked for row b. Also known as NT-Xent without the
symmetric half, or the multiple negatives ranking loss (van den Oord et al. 2018, section 2.3).

Two paths give the same value and gradients. The dense one builds the [B, C] logits and lets
autograd work. The other takes a block of rows at a time and computes the gradients while its
softmax is at hand, so that it keeps dQ and dC and never a [B, C] matrix.

Nothing here waits for a GPU, unless `excluded` is a list of pairs: how many each block of rows has
is read on the host. `SameGroup` and `PerRow` say the same in shapes that are known beforehand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from lvm.core.autograd import Context
from lvm.losses.blocks import FullBlock, HalfBlock

MAX_DENSE_LOGITS = 2**20  # 4 MB in fp32; above it blocks are as fast and leaner
MAX_LOGITS_ON_GPU = 2**27  # 512 MB: fewer would leave a part of the GPU without work
MIN_BLOCK_ROWS = 64  # fewer rows would read all candidates for too little work


@dataclass(frozen=True)
class InfoNCEOutput:
    """The loss and how hard the question was."""

    loss: Float[Tensor, ""]
    # Negatives per row after masking, mean over rows; float64.
    num_negatives: Float[Tensor, ""]


@dataclass(frozen=True, eq=False)
class SameGroup:
    """Excluded is a candidate whose group is among those of the row; the positive never is."""

    rows: Int[Tensor, "B F"]
    columns: Int[Tensor, " C"]


@dataclass(frozen=True, eq=False)
class PerRow:
    """Excluded are the listed columns of each row; repeats and the row's positive are harmless."""

    columns: Int[Tensor, "B X"]


Excluded = Int[Tensor, "E 2"] | SameGroup | PerRow


def infonce(
    queries: Float[Tensor, "B W"],
    candidates: Float[Tensor, "C W"],
    positive: Int[Tensor, " B"],
    *,
    temperature: float,
    excluded: Excluded | None = None,
    false_negative_margin: float | None = None,
    reference: tuple[Float[Tensor, "B D"], Float[Tensor, "C D"]] | None = None,
    row_block: int | None = None,
    products: torch.dtype | None = None,
) -> InfoNCEOutput:
    """Return the InfoNCE loss of unit `queries` against unit `candidates`.

    `positive` [B] is the column of the right candidate of each row; no mask ever drops it.
    `excluded` [E, 2] lists (row, column) pairs that get no probability; repeats are harmless.
    `SameGroup` and `PerRow` are other ways to say which.
    With `false_negative_margin`, a candidate is dropped from a row when its cosine to the row's
    target in `reference` = (targets, candidates), unit rows of the raw space, is above the margin
    (the guided rule of GISTEmbed, Solatorio 2024, with the bank as the guide). No gradient flows
    through `reference`.

    `row_block` is the number of rows worked on at once; B or more is the dense path, and by default
    the size of the problem and the device decide. The arithmetic is fp32 at least, also under
    autocast. With `products` = bfloat16 the block path rounds what goes into its matrix products
    (queries, candidates, softmax) and nothing else: sums, softmax and loss stay fp32, and the
    gradients are within 1e-2. The block path has no second derivative. ValueError: a margin without
    a reference.
    """
    if false_negative_margin is not None and reference is None:
        raise ValueError("a false_negative_margin needs reference vectors; pass reference=")
    if not torch.is_grad_enabled():
        queries, candidates = queries.detach(), candidates.detach()
    num_rows, num_columns = len(queries), len(candidates)
    block = row_block or _rows_per_block(num_rows, num_columns, queries.device)
    with torch.autocast(queries.device.type, enabled=False):
        guide = None if false_negative_margin is None else reference
        masks = _Masks.build(positive, num_columns, excluded, false_negative_margin, guide)
        if block >= num_rows:
            q, c = _full_precision(queries), _full_precision(candidates)
            loss, num_dropped = _dense(q, c, masks, temperature)
        else:
            q, half = _full_precision(queries), products or torch.float32
            c = candidates if candidates.dtype == half else _full_precision(candidates)
            apply = cast(Callable[..., tuple[Tensor, Tensor]], _RowBlocks.apply)
            loss, num_dropped = apply(q, c, masks, temperature, block, products)
    return InfoNCEOutput(loss, num_columns - 1 - num_dropped.double() / num_rows)


def _rows_per_block(num_rows: int, num_columns: int, device: torch.device) -> int:
    limit = MAX_DENSE_LOGITS if device.type == "cpu" else MAX_LOGITS_ON_GPU
    if num_rows * num_columns <= limit:
        return num_rows
    block = max(MIN_BLOCK_ROWS, limit // num_columns)
    # A power of two: blocks of one size, for which what is compiled is compiled once.
    return block if device.type == "cpu" else 1 << (block.bit_length() - 1)


def _full_precision(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


@dataclass(frozen=True)
class _Pairs:
    """Excluded pairs, sorted by row."""

    rows: Int[Tensor, " E"]
    columns: Int[Tensor, " E"]
    offsets: list[int]  # [B + 1]: the pairs of rows a..b-1 are offsets[a] to offsets[b]

    @classmethod
    def of(cls, pairs: Int[Tensor, "E 2"], num_rows: int) -> _Pairs:
        rows, order = pairs[:, 0].contiguous().sort()
        numbers = torch.arange(num_rows + 1, device=rows.device, dtype=rows.dtype)
        return cls(rows, pairs[order, 1], torch.searchsorted(rows, numbers).tolist())


@dataclass(frozen=True)
class _Masks:
    """Which candidates are dropped from which rows, built for one block of rows at a time."""

    positive: Int[Tensor, " B"]
    num_columns: int
    excluded: _Pairs | SameGroup | PerRow | None
    margin: float | None
    reference: tuple[Float[Tensor, "B D"], Float[Tensor, "C D"]] | None

    @classmethod
    def build(
        cls,
        positive: Int[Tensor, " B"],
        num_columns: int,
        excluded: Excluded | None,
        margin: float | None,
        reference: tuple[Tensor, Tensor] | None,
    ) -> _Masks:
        if reference is not None:
            targets, candidates = reference
            reference = _full_precision(targets.detach()), _full_precision(candidates.detach())
        if isinstance(excluded, Tensor):
            pairs = _Pairs.of(excluded, len(positive))
            return cls(positive, num_columns, pairs, margin, reference)
        return cls(positive, num_columns, excluded, margin, reference)

    def block(self, start: int, stop: int) -> Bool[Tensor, "b C"]:
        """Return what rows start..stop drop."""
        positive, excluded = self.positive[start:stop], self.excluded
        if self.reference is not None and self.margin is not None:
            targets, candidates = self.reference
            mask = targets[start:stop] @ candidates.T > self.margin
        else:
            size = (len(positive), self.num_columns)
            mask = torch.zeros(size, dtype=torch.bool, device=positive.device)
        if isinstance(excluded, _Pairs):
            low, high = excluded.offsets[start], excluded.offsets[stop]
            mask[excluded.rows[low:high] - start, excluded.columns[low:high]] = True
        elif isinstance(excluded, PerRow):
            mask.scatter_(1, excluded.columns[start:stop], True)
        elif isinstance(excluded, SameGroup):
            for group in excluded.rows[start:stop].T:
                mask |= group[:, None] == excluded.columns
        mask.scatter_(1, positive[:, None], False)
        return mask

    def drop_(self, logits: Float[Tensor, "b C"], start: int, stop: int) -> Int[Tensor, ""]:
        """Set what rows start..stop drop to -inf and return how many that are."""
        if self.margin is not None or not isinstance(self.excluded, PerRow):
            mask = self.block(start, stop)
            logits.masked_fill_(mask, -torch.inf)
            return mask.sum()
        # A few columns per row: no mask of all candidates is written and read for them.
        positive = self.positive[start:stop, None]
        kept = logits.gather(1, positive)
        columns = self.excluded.columns[start:stop].sort(dim=1).values
        logits.scatter_(1, columns, -torch.inf).scatter_(1, positive, kept)
        dropped = columns != positive
        dropped[:, 1:] &= columns[:, 1:] != columns[:, :-1]
        return dropped.sum()


def _dense(
    queries: Float[Tensor, "B W"],
    candidates: Float[Tensor, "C W"],
    masks: _Masks,
    temperature: float,
) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
    mask = masks.block(0, len(queries))
    logits = ((queries / temperature) @ candidates.T).masked_fill_(mask, -torch.inf)
    return F.cross_entropy(logits, masks.positive), mask.sum()


Ctx = Context[tuple[Tensor | None, Tensor | None], None]  # gradients, where they are needed


class _RowBlocks(torch.autograd.Function):
    """Loss and gradients of one block of rows after the other; saves dQ and dC alone."""

    @staticmethod
    def forward(
        ctx: Ctx,
        queries: Float[Tensor, "B W"],
        candidates: Float[Tensor, "C W"],
        masks: _Masks,
        temperature: float,
        row_block: int,
        products: torch.dtype | None,
    ) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        # Frozen candidates (the bank itself) cost neither the memory nor the product of dC.
        needs_queries, needs_candidates = ctx.needs_input_grad[:2]
        grad_queries = torch.empty_like(queries) if needs_queries else None
        grad_candidates = None
        if needs_candidates:
            grad_candidates = torch.zeros(
                candidates.shape, dtype=queries.dtype, device=queries.device
            )
        num_rows = len(queries)
        loss, num_dropped = queries.new_zeros(()), masks.positive.new_zeros(())
        step = HalfBlock(candidates, products) if products is not None else FullBlock(candidates)
        for start in range(0, num_rows, row_block):
            stop = min(start + row_block, num_rows)
            rows, scale = queries[start:stop], 1 / (temperature * num_rows)
            logits = step.logits(rows, temperature)
            num_dropped += masks.drop_(logits[:, : len(candidates)], start, stop)
            part, weights = step.softmax_minus_one_hot(logits, masks.positive[start:stop])
            loss += part / num_rows
            if grad_queries is not None:
                grad_queries[start:stop] = step.over_candidates(weights).mul_(scale)
            if grad_candidates is not None:
                step.add_(grad_candidates, weights[:, : len(candidates)].T, rows, scale)
        ctx.save_for_backward(grad_queries, grad_candidates)
        ctx.mark_non_differentiable(num_dropped)
        return loss, num_dropped

    @staticmethod
    @once_differentiable
    def backward(ctx: Ctx, grad_loss: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        grads = (None if g is None else g * grad_loss for g in ctx.saved_tensors)
        return *grads, None, None, None, None
