"""What the Triton kernels have in common: functions of one number, and the convolution."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def exp(values):
    # Two instructions; tl.exp takes six, for results so small that they are not normal numbers.
    return tl.exp2(values * 1.4426950408889634)


@triton.jit
def sigmoid(values):
    root = tl.rsqrt(1.0 + exp(-values))  # its square is the reciprocal, in 2 instructions, not 8
    return root * root


@triton.jit
def softplus(values):
    # log(1 + e) as log(u) e / (u - 1), u = 1 + e rounded: right for the smallest e too.
    e = exp(-tl.abs(values))
    u = 1.0 + e
    tail = tl.where(u == 1.0, e, tl.log(u) * (e / tl.where(u == 1.0, 1.0, u - 1.0)))
    return tl.maximum(values, 0.0) + tail


@triton.jit
def put(values, place: tl.constexpr, value):
    """Return the tuple with one value exchanged."""
    return values[:place] + (value,) + values[place + 1 :]


@triton.jit
def zeros(like, COUNT: tl.constexpr):
    values = ()
    for _ in tl.static_range(COUNT):
        values = values + (tl.zeros_like(like),)
    return values


@triton.jit
def rows_of(start, mask, STRIDE: tl.constexpr, L: tl.constexpr):
    rows = ()
    for t in tl.static_range(L):
        row = tl.load(start + t * STRIDE, mask=mask, other=None if mask is None else 0.0)
        rows = rows + (row.to(tl.float32),)
    return rows


@triton.jit
def conv(rows, taps, bias, t: tl.constexpr, K: tl.constexpr):
    """Return the causal convolution at t; the last tap is that of the position."""
    output = bias
    for back in tl.static_range(K):
        if back <= t:
            output = output + taps[K - 1 - back] * rows[t - back]
    return output


@triton.jit
def conv_back(grads, taps, s: tl.constexpr, L: tl.constexpr, K: tl.constexpr):
    """Return the gradient of the convolution's input at s."""
    total = grads[s] * taps[K - 1]
    for later in tl.static_range(1, K):
        if s + later < L:
            total += grads[s + later] * taps[K - 1 - later]
    return total


@triton.jit
def filter_sums(sums, grads, rows, L: tl.constexpr, K: tl.constexpr):
    """Return the sums with the gradients of the taps and, at last, of the bias added."""
    for t in tl.static_range(L):
        sums = put(sums, K, sums[K] + grads[t])
        for back in tl.static_range(K):
            if back <= t:
                sums = put(sums, K - 1 - back, sums[K - 1 - back] + grads[t] * rows[t - back])
    return sums


@triton.jit
def write_back(start, grads, taps, mask, STRIDE: tl.constexpr, L: tl.constexpr, K: tl.constexpr):
    """Write the gradients of the convolution's input."""
    for s in tl.static_range(L):
        d_row = conv_back(grads, taps, s, L, K).to(start.dtype.element_ty)
        tl.store(start + s * STRIDE, d_row, mask=mask)
