"""Triton kernels of a Mamba-2 layer over a short window: all that lies between its products.

Imported where a kernel is about to run, and only there: it imports Triton. `short_gradients` holds
the tensors and starts these. Positions are unrolled; what belongs to them is in tuples, and
pairs s <= t, counted row by row, are in tuples of their own. Sums are float32, each over channels
of one program; no two programs write to one place, so that a result repeats to the last bit.

Letters as in lvm/models/ssd.py; `proj` [B, L, ROW] is what in_proj gives, its part from column X on
x, B and C, from DT on dt.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lvm.models.kernels.pieces import (
    conv,
    exp,
    filter_sums,
    put,
    rows_of,
    sigmoid,
    softplus,
    write_back,
    zeros,
)


@triton.jit
def steps_of(raw, dt_bias, L: tl.constexpr):
    steps = ()
    for t in tl.static_range(L):
        steps = steps + (softplus(raw[t] + dt_bias),)
    return steps


@triton.jit
def decays_of(steps, A, L: tl.constexpr):
    """Return exp(a_(s+1) + ... + a_t) of the pairs, as products: each factor is at most 1."""
    row, decays = (), ()
    for t in tl.static_range(L):
        kept = exp(steps[t] * A)
        longer = ()
        for s in tl.static_range(t):
            longer = longer + (row[s] * kept,)
        row = longer + (tl.full(kept.shape, 1.0, tl.float32),)
        decays = decays + row
    return decays


@triton.jit
def scores_of(start, t: tl.constexpr):
    """Return C_t . B_s of s <= t."""
    scores = ()
    for s in tl.static_range(t + 1):
        scores = scores + (tl.load(start + t * (t + 1) // 2 + s),)
    return scores


@triton.jit
def read(xs, steps, decays, scores, D, t: tl.constexpr):
    """Return y at t."""
    y = (decays[t * (t + 1) // 2 + t] * steps[t] * scores[t] + D)[:, None] * xs[t]
    for s in tl.static_range(t):
        y += (decays[t * (t + 1) // 2 + s] * steps[s] * scores[s])[:, None] * xs[s]
    return y


@triton.jit
def mix_forward(
    proj,
    z_at,
    scores,
    out,
    scale_at,
    taps_at,
    bias_at,
    dt_bias_at,
    A_log_at,
    D_at,
    norm_at,
    eps,
    ROW: tl.constexpr,
    Z_ROW: tl.constexpr,
    X: tl.constexpr,
    MIXED: tl.constexpr,
    H: tl.constexpr,
    P: tl.constexpr,
    L: tl.constexpr,
    K: tl.constexpr,
    FIRST: tl.constexpr,
    HEADS: tl.constexpr,
):
    """Write norm(y silu(z)) [B, L - FIRST, H P] and the norm's scale: one window, all heads."""
    PAIRS: tl.constexpr = L * (L + 1) // 2
    b = tl.program_id(0).to(tl.int64)
    h = tl.arange(0, HEADS)
    has = h < H
    mask = has[:, None]
    channel = h[:, None] * P + tl.arange(0, P)[None, :]
    start = proj + b * (L * ROW) + X
    rows = rows_of(start + channel, mask, ROW, L)
    taps = rows_of(taps_at + channel, mask, MIXED, K)
    bias = tl.load(bias_at + channel, mask=mask, other=0.0)
    xs = ()
    for t in tl.static_range(L):
        c = conv(rows, taps, bias, t, K)
        xs = xs + (c * sigmoid(c),)
    raw = rows_of(start + MIXED + h, has, ROW, L)
    steps = steps_of(raw, tl.load(dt_bias_at + h, mask=has, other=0.0), L)
    A = -tl.exp(tl.load(A_log_at + h, mask=has, other=0.0))
    decays = decays_of(steps, A, L)
    D = tl.load(D_at + h, mask=has, other=0.0)
    gated = ()
    for t in tl.static_range(L - 1, FIRST - 1, -1):  # x_t is needed no more after y_t
        y = read(xs, steps, decays, scores_of(scores + b * PAIRS, t), D, t)
        z = tl.load(z_at + (b * (L - FIRST) + t - FIRST) * Z_ROW + channel, mask=mask, other=0.0)
        z = z.to(tl.float32)
        gated = gated + (y * (z * sigmoid(z)),)
    norm = tl.load(norm_at + channel, mask=mask, other=0.0)
    for back in tl.static_range(L - FIRST):
        row = b * (L - FIRST) + L - 1 - FIRST - back
        g = gated[back]
        square = tl.sum(tl.sum(g * g, axis=1), axis=0) / (H * P)
        scale = 1.0 / tl.sqrt(square + eps)
        tl.store(scale_at + row, scale)
        value = (g * scale * norm).to(out.dtype.element_ty)
        tl.store(out + row * (H * P) + channel, value, mask=mask)


@triton.jit
def mix_backward(
    proj,
    z_at,
    scores,
    grad_at,
    scale_at,
    along_at,
    taps_at,
    bias_at,
    dt_bias_at,
    A_log_at,
    D_at,
    norm_at,
    d_proj,
    d_z,
    d_scores,
    d_channels,
    d_heads,
    batch,
    ROW: tl.constexpr,
    Z_ROW: tl.constexpr,
    X: tl.constexpr,
    MIXED: tl.constexpr,
    H: tl.constexpr,
    P: tl.constexpr,
    L: tl.constexpr,
    K: tl.constexpr,
    FIRST: tl.constexpr,
    HEADS: tl.constexpr,
    ROUNDS: tl.constexpr,
):
    """Write the gradients of x, z, dt, of scores and, summed, of the parameters.

    A program takes HEADS heads of every n-th window. `along` [B, rows] is the sum of the output
    times its gradient, all that the norm needs to know of the other heads. `d_scores` is
    [B, pairs, cuts of the heads], `d_channels` [n, K + 2, H P] (taps, bias, norm) and `d_heads`
    [n, 3, H] (dt_bias, A_log, D); whoever calls adds them up.
    """
    PAIRS: tl.constexpr = L * (L + 1) // 2
    INNER: tl.constexpr = H * P
    h = tl.program_id(0) * HEADS + tl.arange(0, HEADS)
    has = h < H
    mask = has[:, None]
    channel = h[:, None] * P + tl.arange(0, P)[None, :]
    taps = rows_of(taps_at + channel, mask, MIXED, K)
    bias = tl.load(bias_at + channel, mask=mask, other=0.0)
    norm = tl.load(norm_at + channel, mask=mask, other=0.0)
    dt_bias = tl.load(dt_bias_at + h, mask=has, other=0.0)
    A = -tl.exp(tl.load(A_log_at + h, mask=has, other=0.0))
    D = tl.load(D_at + h, mask=has, other=0.0)
    sums, d_norm = zeros(bias, K + 1), tl.zeros_like(bias)  # taps, then bias
    d_dt_bias, d_A, d_D = tl.zeros_like(D), tl.zeros_like(D), tl.zeros_like(D)
    for number in range(ROUNDS):
        b = tl.program_id(1).to(tl.int64) + number * tl.num_programs(1)
        valid = b < batch
        has = (h < H) & valid
        mask = has[:, None]
        b = tl.minimum(b, batch - 1)  # what is read there counts for nothing
        start = b * (L * ROW) + X
        rows = rows_of(proj + start + channel, mask, ROW, L)
        raw = rows_of(proj + start + MIXED + h, has, ROW, L)
        xs, slopes = (), ()
        for t in tl.static_range(L):
            c = conv(rows, taps, bias, t, K)
            share = sigmoid(c)
            xs = xs + (c * share,)
            slopes = slopes + (share * (1.0 + c * (1.0 - share)),)
        steps = steps_of(raw, dt_bias, L)
        decays = decays_of(steps, A, L)
        d_xs = zeros(bias, L)
        d_steps = zeros(D, L)
        d_exponents = zeros(D, L)
        first = b * (L - FIRST)
        next_z = tl.load(z_at + first * Z_ROW + channel, mask=mask, other=0.0)
        next_grad = tl.load(grad_at + first * INNER + channel, mask=mask, other=0.0)
        for t in tl.static_range(FIRST, L):
            row = first + t - FIRST
            z, grad = next_z.to(tl.float32), next_grad.to(tl.float32)
            if t + 1 < L:  # under way before anything is written: no load passes a store
                next_z = tl.load(z_at + (row + 1) * Z_ROW + channel, mask=mask, other=0.0)
                next_grad = tl.load(grad_at + (row + 1) * INNER + channel, mask=mask, other=0.0)
            scale, along = tl.load(scale_at + row), tl.load(along_at + row) / INNER
            row_scores = scores_of(scores + b * PAIRS, t)
            y = read(xs, steps, decays, row_scores, D, t)
            share = sigmoid(z)
            gate = z * share
            gated = y * gate * scale
            d_norm += grad * gated
            d_gated = scale * (grad * norm - gated * along)
            d_gate = d_gated * y * (share * (1.0 + z * (1.0 - share)))
            tl.store(d_z + row * Z_ROW + channel, d_gate.to(d_z.dtype.element_ty), mask=mask)
            d_y = d_gated * gate
            passed = tl.zeros_like(D)  # through exponents that span what is still to come
            for s in tl.static_range(t + 1):
                score = row_scores[s]
                decay = decays[t * (t + 1) // 2 + s]
                weight = decay * steps[s] * score
                d_weight = tl.sum(d_y * xs[s], axis=1)
                if s == t:
                    d_D += d_weight
                    weight += D
                d_xs = put(d_xs, s, d_xs[s] + weight[:, None] * d_y)
                d_score = tl.sum(d_weight * decay * steps[s], axis=0)
                place = (b * PAIRS + t * (t + 1) // 2 + s) * tl.num_programs(0) + tl.program_id(0)
                tl.store(d_scores + place, d_score, mask=valid)
                d_decay = d_weight * score * decay
                d_steps = put(d_steps, s, d_steps[s] + d_decay)
                d_exponents = put(d_exponents, s, d_exponents[s] + passed)
                passed += d_decay * steps[s]
        d_cs = ()
        for t in tl.static_range(L):
            d_A += d_exponents[t] * steps[t]
            d_raw = (d_steps[t] + d_exponents[t] * A) * sigmoid(raw[t] + dt_bias)
            d_dt_bias += d_raw
            place = d_proj + start + MIXED + t * ROW + h
            tl.store(place, d_raw.to(d_proj.dtype.element_ty), mask=has)
            d_cs = d_cs + (d_xs[t] * slopes[t],)
        rows = rows_of(proj + start + channel, mask, ROW, L)  # from the cache: registers are short
        sums = filter_sums(sums, d_cs, rows, L, K)
        write_back(d_proj + start + channel, d_cs, taps, mask, ROW, L, K)
    has = h < H
    mask = has[:, None]
    place = d_channels + tl.program_id(1) * ((K + 2) * INNER) + channel
    for k in tl.static_range(K + 1):
        tl.store(place + k * INNER, sums[k], mask=mask)
    tl.store(place + (K + 1) * INNER, d_norm, mask=mask)
    place = d_heads + tl.program_id(1) * (3 * H) + h
    tl.store(place, d_dt_bias, mask=has)
    tl.store(place + H, d_A * A, mask=has)
    tl.store(place + 2 * H, d_D, mask=has)
