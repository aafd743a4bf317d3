from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from lvm.losses import infonce as module
from lvm.losses.infonce import PerRow, SameGroup, infonce

B, C, W, D = 7, 19, 5, 6
DENSE, BLOCKS = B, 3  # row_block: the whole batch at once, or 3 + 3 + 1 rows
TAU = 0.1


def unit_rows(seed, rows, width, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=generator, dtype=dtype), dim=1)


def positives():
    return torch.tensor([4, 0, 18, 7, 7, 2, 11])


def pairs():
    """Masks in no order, with repeats, a whole row but its positive, and two positives."""
    row_3 = [[3, column] for column in range(C)]
    return torch.tensor([[6, 1], [0, 4], [0, 5], [6, 1], [2, 0], [5, 2], [0, 9], *row_3])


def reference_vectors():
    candidates = unit_rows(5, C, D)
    candidates[13] = candidates[4]  # an exact copy of the target of row 0
    return candidates[positives()].clone(), candidates


def loop_reference(queries, candidates, positive, temperature, excluded, margin, reference):
    """Return the loss and the mean number of negatives, one row and one column at a time."""
    listed = set() if excluded is None else {tuple(pair) for pair in excluded.tolist()}
    losses, counts = [], []
    for b in range(len(queries)):
        target = int(positive[b])
        kept = [target]
        for j in range(len(candidates)):
            far = margin is None or float(reference[0][b] @ reference[1][j]) <= margin
            if j != target and (b, j) not in listed and far:
                kept.append(j)
        scores = torch.stack([queries[b] @ candidates[j] / temperature for j in kept])
        losses.append(torch.log(torch.exp(scores - scores.max()).sum()) + scores.max() - scores[0])
        counts.append(len(kept) - 1)
    return torch.stack(losses).mean(), sum(counts) / len(counts)


CASES = [(False, None), (True, None), (False, 0.3), (True, 0.3), (True, 0.999)]


@pytest.mark.parametrize("row_block", [DENSE, BLOCKS, 1])
@pytest.mark.parametrize(("masked", "margin"), CASES)
def test_both_paths_match_a_plain_loop(row_block, masked, margin):
    queries, candidates = unit_rows(1, B, W), unit_rows(2, C, W)
    excluded = pairs() if masked else None
    reference = reference_vectors()
    ours = queries.clone().requires_grad_(), candidates.clone().requires_grad_()
    theirs = queries.clone().requires_grad_(), candidates.clone().requires_grad_()

    result = infonce(
        *ours,
        positives(),
        temperature=TAU,
        excluded=excluded,
        false_negative_margin=margin,
        reference=reference,
        row_block=row_block,
    )
    loss, count = loop_reference(*theirs, positives(), TAU, excluded, margin, reference)
    (3 * result.loss).backward()
    (3 * loss).backward()

    assert float(result.num_negatives) == pytest.approx(count, abs=1e-12)
    torch.testing.assert_close(result.loss, loss, rtol=1e-12, atol=1e-12)
    for got, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got.grad, wanted.grad, rtol=1e-10, atol=1e-12)


def test_the_cases_differ():
    """Guard of the parity test: every mask changes the loss, so none is ignored by both sides."""
    queries, candidates, reference = unit_rows(1, B, W), unit_rows(2, C, W), reference_vectors()
    losses = {
        float(
            loop_reference(
                queries,
                candidates,
                positives(),
                TAU,
                pairs() if masked else None,
                margin,
                reference,
            )[0]
        )
        for masked, margin in CASES
    }
    assert len(losses) == len(CASES)


@pytest.mark.parametrize("row_block", [DENSE, BLOCKS])
def test_in_batch_loss_is_cross_entropy(row_block):
    """The multiple negatives ranking loss with scale 1 / tau: cross entropy on the diagonal."""
    queries, targets = unit_rows(1, B, W), unit_rows(2, B, W)
    positive = torch.arange(B)
    wanted = F.cross_entropy(queries @ targets.T / TAU, positive)
    got = infonce(queries, targets, positive, temperature=TAU, row_block=row_block)
    torch.testing.assert_close(got.loss, wanted, rtol=1e-12, atol=1e-12)
    assert got.num_negatives == B - 1


@pytest.mark.parametrize("row_block", [DENSE, BLOCKS])
def test_gradcheck(row_block):
    def loss(queries, candidates):
        return infonce(
            queries,
            candidates,
            positives(),
            temperature=0.5,
            excluded=pairs(),
            row_block=row_block,
        ).loss

    inputs = unit_rows(1, B, W).requires_grad_(), unit_rows(2, C, W).requires_grad_()
    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("row_block", [DENSE, BLOCKS])
@pytest.mark.parametrize("frozen", ["queries", "candidates"])
def test_a_frozen_side_gets_no_gradient_and_changes_nothing(row_block, frozen):
    queries, candidates = unit_rows(1, B, W), unit_rows(2, C, W)
    both = queries.clone().requires_grad_(), candidates.clone().requires_grad_()
    infonce(*both, positives(), temperature=TAU, row_block=row_block).loss.backward()
    one = [queries.clone(), candidates.clone()]
    moving = 1 if frozen == "queries" else 0
    one[moving].requires_grad_()
    infonce(*one, positives(), temperature=TAU, row_block=row_block).loss.backward()
    assert one[1 - moving].grad is None
    torch.testing.assert_close(one[moving].grad, both[moving].grad, rtol=0, atol=0)


def saved_shapes(queries, candidates):
    loss = infonce(queries, candidates, positives(), temperature=TAU, row_block=BLOCKS).loss
    node = loss.grad_fn
    while not hasattr(node, "saved_tensors"):
        node = node.next_functions[0][0]
    return [None if t is None else tuple(t.shape) for t in node.saved_tensors]


def test_blocks_keep_only_the_gradients_that_are_needed():
    queries, candidates = unit_rows(1, B, W).requires_grad_(), unit_rows(2, C, W)
    assert saved_shapes(queries, candidates) == [(B, W), None]
    assert saved_shapes(queries, candidates.requires_grad_()) == [(B, W), (C, W)]


@pytest.mark.parametrize(("with_gradient", "products"), [(False, 1), (True, 2)])
def test_blocks_compute_only_the_products_that_are_needed(with_gradient, products):
    """2 B C W operations for the logits and as many for dQ; frozen candidates add none."""
    queries, candidates = unit_rows(1, B, W).requires_grad_(), unit_rows(2, C, W)
    counter = FlopCounterMode(display=False)
    with torch.set_grad_enabled(with_gradient), counter:
        loss = infonce(queries, candidates, positives(), temperature=TAU, row_block=BLOCKS).loss
    assert loss.requires_grad == with_gradient
    assert counter.get_total_flops() == products * 2 * B * C * W


@pytest.mark.parametrize("row_block", [DENSE, BLOCKS])
def test_autocast_does_not_touch_the_logits(row_block):
    queries, candidates = (unit_rows(s, n, W, torch.float32) for s, n in ((1, B), (2, C)))

    def step(context):
        moving = queries.clone().requires_grad_()
        with context:
            loss = infonce(
                moving,
                candidates,
                positives(),
                temperature=0.01,
                false_negative_margin=0.3,
                reference=reference_vectors(),
                row_block=row_block,
            ).loss
        loss.backward()
        return loss, moving.grad

    under = step(torch.autocast("cpu", dtype=torch.bfloat16))
    outside = step(torch.autocast("cpu", enabled=False))
    assert under[0].dtype == torch.float32
    for got, wanted in zip(under, outside, strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("row_block", [DENSE, BLOCKS])
def test_bf16_inputs_get_bf16_gradients_of_an_fp32_loss(row_block):
    half = unit_rows(1, B, W).bfloat16()
    candidates = unit_rows(2, C, W).float()
    moving, exact = half.clone().requires_grad_(), half.double().requires_grad_()
    got = infonce(moving, candidates, positives(), temperature=TAU, row_block=row_block).loss
    wanted = infonce(exact, candidates.double(), positives(), temperature=TAU).loss
    (got + 0).backward()
    wanted.backward()
    assert got.dtype == torch.float32
    assert moving.grad.dtype == torch.bfloat16
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-6)
    # bf16 keeps 8 bits: one rounding of the result is at most 2^-8 relative.
    torch.testing.assert_close(moving.grad.double(), exact.grad, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize(("row_block", "products"), [(2, None), (1, None), (1, torch.bfloat16)])
def test_extreme_temperature_stays_finite_and_exact(row_block, products):
    """Logits from -200 to 200: one row is sure and right, the other sure and wrong."""
    axis = torch.eye(4)
    candidates = torch.stack([axis[0], -axis[0], axis[1], axis[2]])
    queries = torch.stack([axis[0], axis[0]]).requires_grad_()
    positive = torch.tensor([0, 1])
    result = infonce(
        queries, candidates, positive, temperature=0.005, row_block=row_block, products=products
    )
    result.loss.backward()
    assert result.loss.item() == pytest.approx(200.0, rel=1e-6)  # mean of 0 and 400
    wanted = torch.zeros(2, 4)
    wanted[1, 0] = 2 / (0.005 * 2)  # (candidate 0 - candidate 1) / (tau B)
    torch.testing.assert_close(queries.grad, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("row_block", [DENSE, BLOCKS])
def test_a_row_with_no_negative_left_has_loss_zero(row_block):
    everything = torch.cartesian_prod(torch.arange(B), torch.arange(C))
    queries = unit_rows(1, B, W).requires_grad_()
    result = infonce(
        queries,
        unit_rows(2, C, W),
        positives(),
        temperature=TAU,
        excluded=everything,
        row_block=row_block,
    )
    result.loss.backward()
    assert result.loss.item() == pytest.approx(0, abs=1e-12)
    assert result.num_negatives == 0
    torch.testing.assert_close(queries.grad, torch.zeros(B, W, dtype=torch.float64))


def test_an_uninformed_prediction_costs_log_of_the_candidates():
    queries = torch.zeros(B, W)
    loss = infonce(queries, unit_rows(2, C, W, torch.float32), positives(), temperature=TAU).loss
    assert loss.item() == pytest.approx(math.log(C), rel=1e-6)


def same_group():
    """Groups of rows and columns, some shared; row 2 forbids nothing, row 5 its own positive."""
    columns = torch.arange(C) // 2
    rows = torch.tensor([[0, 3], [1, 1], [90, 91], [8, 4], [5, 0], [1, 2], [9, 6]])
    return SameGroup(rows, columns)


def per_row():
    """Columns of rows with repeats, and the positive where a row has fewer than others."""
    return PerRow(
        torch.tensor([[1, 2, 2], [0, 5, 5], [18, 18, 18], [1, 7, 3], [0, 1, 2], [2, 2, 4], [9] * 3])
    )


def as_pairs(excluded):
    """The pairs that another form of exclusion means."""
    if isinstance(excluded, PerRow):
        return torch.tensor(
            [[b, c] for b, row in enumerate(excluded.columns.tolist()) for c in row]
        )
    hit = (excluded.rows[:, :, None] == excluded.columns).any(1)
    return hit.nonzero()


@pytest.mark.parametrize("margin", [None, 0.3])
@pytest.mark.parametrize("form", [same_group, per_row])
@pytest.mark.parametrize("row_block", [DENSE, BLOCKS])
def test_every_way_to_exclude_means_the_same(row_block, form, margin):
    found = []
    for excluded in (form(), as_pairs(form())):
        moving = unit_rows(1, B, W).requires_grad_(), unit_rows(2, C, W).requires_grad_()
        result = infonce(
            *moving,
            positives(),
            temperature=TAU,
            excluded=excluded,
            false_negative_margin=margin,
            reference=reference_vectors(),
            row_block=row_block,
        )
        result.loss.backward()
        found.append([result.loss, result.num_negatives, *(t.grad for t in moving)])
    assert 0 < float(found[0][1]) < C - 1
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("tau", [0.07, 1.0])
@pytest.mark.parametrize("form", [same_group, per_row, pairs])
def test_half_precision_products_stay_within_1e_2(form, tau):
    """Loss and gradients of both sides against float64 of the unrounded numbers."""
    wide = 64
    found = []
    for dtype, products in ((torch.float64, None), (torch.float32, torch.bfloat16)):
        queries, candidates = unit_rows(1, B, wide), unit_rows(2, C, wide)
        queries = F.normalize(queries + candidates[positives()], dim=1)  # the target leads
        moving = [x.to(dtype).requires_grad_() for x in (queries, candidates)]
        result = infonce(
            *moving,
            positives(),
            temperature=tau,
            excluded=form(),
            row_block=BLOCKS,
            products=products,
        )
        result.loss.backward()
        found.append((result, moving))
    (exact, wanted), (result, moving) = found
    assert result.loss.dtype == torch.float32
    assert float(result.num_negatives) == float(exact.num_negatives)
    assert abs(float(result.loss.detach() - exact.loss.detach())) < 1e-2
    for got, want in zip(moving, wanted, strict=True):
        assert (got.grad - want.grad).norm() < 1e-2 * want.grad.norm()


def test_half_precision_products_of_frozen_half_precision_candidates_copy_no_gradient():
    queries = unit_rows(1, B, W, torch.float32).requires_grad_()
    candidates = unit_rows(2, C, W, torch.float32).bfloat16()
    infonce(
        queries, candidates, positives(), temperature=TAU, row_block=BLOCKS, products=torch.bfloat16
    ).loss.backward()
    exact = unit_rows(1, B, W, torch.float32).requires_grad_()
    infonce(exact, candidates.float(), positives(), temperature=TAU).loss.backward()
    assert (queries.grad - exact.grad).norm() < 1e-2 * exact.grad.norm()


def test_blocks_on_a_gpu_have_one_size():
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert module._rows_per_block(8192, 8192, gpu) == 8192  # as a whole
    assert module._rows_per_block(1024, 381_000, gpu) == 256
    assert module._rows_per_block(1024, 381_000, cpu) == module.MIN_BLOCK_ROWS


def test_large_problems_go_through_blocks(monkeypatch):
    monkeypatch.setattr(module, "MAX_DENSE_LOGITS", 2 * C)
    monkeypatch.setattr(module, "MIN_BLOCK_ROWS", 1)
    asked = []
    whole = module._Masks.block
    monkeypatch.setattr(
        module._Masks, "block", lambda m, a, b: (asked.append((a, b)), whole(m, a, b))[1]
    )
    queries, candidates = unit_rows(1, B, W), unit_rows(2, C, W)
    blocks = infonce(queries, candidates, positives(), temperature=TAU)
    assert asked == [(0, 2), (2, 4), (4, 6), (6, 7)]
    dense = infonce(queries, candidates, positives(), temperature=TAU, row_block=B)
    assert asked[-1] == (0, B)
    torch.testing.assert_close(blocks.loss, dense.loss, rtol=1e-12, atol=1e-12)


def test_a_margin_needs_reference_vectors():
    with pytest.raises(ValueError, match="reference"):
        infonce(
            unit_rows(1, B, W),
            unit_rows(2, C, W),
            positives(),
            temperature=TAU,
            false_negative_margin=0.9,
        )
