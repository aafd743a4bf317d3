"""The smaller Triton kernels of a Mamba-2 layer over a short window: scores and norms.

As `mix`, whose helpers these use: imported only where they are about to run. Here a
program takes several windows or rows at a time, as many as WINDOWS or ROWS says.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lvm.models.kernels.pieces import conv, filter_sums, put, rows_of, sigmoid, write_back, zeros


@triton.jit
def score_forward(
    proj,
    scores,
    taps_at,
    bias_at,
    batch,
    ROW: tl.constexpr,
    X: tl.constexpr,
    INNER: tl.constexpr,
    N: tl.constexpr,
    L: tl.constexpr,
    K: tl.constexpr,
    FIRST: tl.constexpr,
    WINDOWS: tl.constexpr,
):
    """Write C_t . B_s of the pairs, [B, pairs]."""
    MIXED: tl.constexpr = INNER + 2 * N
    PAIRS: tl.constexpr = L * (L + 1) // 2
    window = tl.program_id(0).to(tl.int64) * WINDOWS + tl.arange(0, WINDOWS)
    inside = window < batch
    n = tl.arange(0, N)
    start = proj + X + INNER + window[:, None] * (L * ROW) + n[None, :]
    taps_B = rows_of(taps_at + INNER + n[None, :], None, MIXED, K)
    taps_C = rows_of(taps_at + INNER + N + n[None, :], None, MIXED, K)
    bias_B = tl.load(bias_at + INNER + n)[None, :]
    bias_C = tl.load(bias_at + INNER + N + n)[None, :]
    rows_B = rows_of(start, inside[:, None], ROW, L)
    rows_C = rows_of(start + N, inside[:, None], ROW, L)
    Bs = ()
    for s in tl.static_range(L):
        c = conv(rows_B, taps_B, bias_B, s, K)
        Bs = Bs + (c * sigmoid(c),)
    for t in tl.static_range(FIRST, L):
        c = conv(rows_C, taps_C, bias_C, t, K)
        C = c * sigmoid(c)
        for s in tl.static_range(t + 1):
            tl.store(
                scores + window * PAIRS + t * (t + 1) // 2 + s,
                tl.sum(C * Bs[s], axis=1),
                mask=inside,
            )


@triton.jit
def score_backward(
    proj,
    d_scores,
    d_proj,
    d_channels,
    taps_at,
    bias_at,
    batch,
    ROW: tl.constexpr,
    X: tl.constexpr,
    INNER: tl.constexpr,
    N: tl.constexpr,
    L: tl.constexpr,
    K: tl.constexpr,
    FIRST: tl.constexpr,
    WINDOWS: tl.constexpr,
    CUTS: tl.constexpr,
    PAD: tl.constexpr,
    ROUNDS: tl.constexpr,
):
    """Write the gradients of B and C and, summed, of their taps and bias, [n, K + 1, 2 N].

    `d_scores` [B, pairs, CUTS] holds what each cut of heads gave; PAD is the power of two from
    CUTS on.
    """
    MIXED: tl.constexpr = INNER + 2 * N
    PAIRS: tl.constexpr = L * (L + 1) // 2
    n, cut = tl.arange(0, N), tl.arange(0, PAD)
    taps_B = rows_of(taps_at + INNER + n[None, :], None, MIXED, K)
    taps_C = rows_of(taps_at + INNER + N + n[None, :], None, MIXED, K)
    bias_B = tl.load(bias_at + INNER + n)[None, :]
    bias_C = tl.load(bias_at + INNER + N + n)[None, :]
    none = tl.zeros((WINDOWS, N), tl.float32)
    sums_B, sums_C = zeros(none, K + 1), zeros(none, K + 1)
    for number in range(ROUNDS):
        turn = tl.program_id(0).to(tl.int64) + number * tl.num_programs(0)
        window = turn * WINDOWS + tl.arange(0, WINDOWS)
        inside = (window < batch)[:, None]
        start = window[:, None] * (L * ROW) + X + INNER + n[None, :]
        rows_B = rows_of(proj + start, inside, ROW, L)
        rows_C = rows_of(proj + start + N, inside, ROW, L)
        Bs, slopes_B, d_Bs = (), (), zeros(none, L)
        for s in tl.static_range(L):
            c = conv(rows_B, taps_B, bias_B, s, K)
            share = sigmoid(c)
            Bs = Bs + (c * share,)
            slopes_B = slopes_B + (share * (1.0 + c * (1.0 - share)),)
        d_cs = zeros(none, FIRST)
        for t in tl.static_range(FIRST, L):
            c = conv(rows_C, taps_C, bias_C, t, K)
            share = sigmoid(c)
            C, d_C = c * share, none
            for s in tl.static_range(t + 1):
                place = (
                    d_scores
                    + (window[:, None] * PAIRS + t * (t + 1) // 2 + s) * CUTS
                    + cut[None, :]
                )
                parts = tl.load(place, mask=inside & (cut < CUTS)[None, :], other=0.0)
                d_score = tl.sum(parts, axis=1)[:, None]
                d_C += d_score * Bs[s]
                d_Bs = put(d_Bs, s, d_Bs[s] + d_score * C)
            d_cs = d_cs + (d_C * (share * (1.0 + c * (1.0 - share))),)
        sums_C = filter_sums(sums_C, d_cs, rows_C, L, K)
        write_back(d_proj + start + N, d_cs, taps_C, inside, ROW, L, K)
        d_cs = ()
        for s in tl.static_range(L):
            d_cs = d_cs + (d_Bs[s] * slopes_B[s],)
        sums_B = filter_sums(sums_B, d_cs, rows_B, L, K)
        write_back(d_proj + start, d_cs, taps_B, inside, ROW, L, K)
    place = d_channels + tl.program_id(0) * ((K + 1) * 2 * N) + n
    for k in tl.static_range(K + 1):
        tl.store(place + k * 2 * N, tl.sum(sums_B[k], axis=0))
        tl.store(place + k * 2 * N + N, tl.sum(sums_C[k], axis=0))


@triton.jit
def along(out, grad, result, count, WIDTH: tl.constexpr, PAD: tl.constexpr, ROWS: tl.constexpr):
    """Write the product of every row with its gradient, summed over the width."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    e = tl.arange(0, PAD)
    mask = (row < count)[:, None] & (e < WIDTH)[None, :]
    place = row[:, None] * WIDTH + e[None, :]
    values = tl.load(out + place, mask=mask, other=0.0).to(tl.float32)
    grads = tl.load(grad + place, mask=mask, other=0.0).to(tl.float32)
    tl.store(result + row, tl.sum(values * grads, axis=1), mask=row < count)


@triton.jit
def norm_forward(
    u,
    weight,
    out,
    scale_at,
    count,
    eps,
    WIDTH: tl.constexpr,
    PAD: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Write u / rms(u) * weight in the dtype of `out`, and 1 / rms(u)."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    e = tl.arange(0, PAD)
    mask = (row < count)[:, None] & (e < WIDTH)[None, :]
    place = row[:, None] * WIDTH + e[None, :]
    values = tl.load(u + place, mask=mask, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(values * values, axis=1) / WIDTH + eps)
    weights = tl.load(weight + e, mask=e < WIDTH, other=0.0)[None, :]
    tl.store(out + place, (values * scale[:, None] * weights).to(out.dtype.element_ty), mask=mask)
    tl.store(scale_at + row, scale, mask=row < count)


@triton.jit
def norm_backward(
    u,
    weight,
    scale_at,
    grad,
    passed,
    d_u,
    d_weight,
    count,
    WIDTH: tl.constexpr,
    PAD: tl.constexpr,
    ROWS: tl.constexpr,
    HAS_PASSED: tl.constexpr,
    ROUNDS: tl.constexpr,
):
    """Write the gradient of u, that of the residual stream added, and of the weight, [n, E]."""
    e = tl.arange(0, PAD)
    weights = tl.load(weight + e, mask=e < WIDTH, other=0.0)[None, :]
    sums = tl.zeros((ROWS, PAD), tl.float32)
    for number in range(ROUNDS):
        turn = tl.program_id(0).to(tl.int64) + number * tl.num_programs(0)
        row = turn * ROWS + tl.arange(0, ROWS)
        mask = (row < count)[:, None] & (e < WIDTH)[None, :]
        place = row[:, None] * WIDTH + e[None, :]
        values = tl.load(u + place, mask=mask, other=0.0).to(tl.float32)
        grads = tl.load(grad + place, mask=mask, other=0.0).to(tl.float32)
        scale = tl.load(scale_at + row, mask=row < count, other=0.0)[:, None]
        unit = values * scale
        sums += grads * unit
        grads = grads * weights
        mean = tl.sum(grads * unit, axis=1)[:, None] / WIDTH
        total = scale * (grads - unit * mean)
        if HAS_PASSED:
            total += tl.load(passed + place, mask=mask, other=0.0).to(tl.float32)
        tl.store(d_u + place, total.to(d_u.dtype.element_ty), mask=mask)
    tl.store(d_weight + tl.program_id(0) * WIDTH + e, tl.sum(sums, axis=0), mask=e < WIDTH)
