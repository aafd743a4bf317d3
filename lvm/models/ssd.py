"""The state-space recurrence of Mamba-2 in plain torch, in forms of equal result and unequal cost.

For one head with state S of shape [P, N] the recurrence is

    S_t = exp(dt_t A) S_(t-1) + dt_t x_t B_t^T        y_t = S_t C_t + D x_t

Unrolled, y = M x with M[t, s] = (C_t . B_s) exp(a_(s+1) + ... + a_t) dt_s for s <= t, a = dt A: the
dual form (Dao and Gu 2024, "Transformers are SSMs", sections 5 and 6).

    ssd_sequential   step by step; the reference, any dtype
    ssd_dual         the L x L matrix M; fastest up to about 128 positions
    ssd_chunked      M inside chunks, the recurrence between them; linear in L
    ssd_last         the last position only, one row of M; linear in L

All take x [B, L, H, P], dt [B, L, H] after softplus, A [H] negative, B_ and C [B, L, G, N], and
D [H], where head h reads group h // (H / G). Sums of dt A and their exponentials are taken in
float32 or wider, also when x is bfloat16. Every exponent is at most 0, because what lies above the
diagonal is masked before the exponential: exp of a large sum would give inf, and inf * 0 a NaN
gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

DUAL_LIMIT = 128  # positions up to which the quadratic form is the faster one
CHUNK = 64


def ssd_sequential(
    x: Float[Tensor, "B L H P"],
    dt: Float[Tensor, "B L H"],
    A: Float[Tensor, " H"],
    B_: Float[Tensor, "B L G N"],
    C: Float[Tensor, "B L G N"],
    D: Float[Tensor, " H"],
) -> Float[Tensor, "B L H P"]:
    """Return y [B, L, H, P] by the recurrence itself: the slow reference of the other forms."""
    heads_per_group = x.shape[2] // B_.shape[2]
    B_, C = (t.repeat_interleave(heads_per_group, dim=2) for t in (B_, C))
    state = x.new_zeros(x.shape[0], x.shape[2], x.shape[3], B_.shape[3])
    outputs = []
    for t in range(x.shape[1]):
        kept = torch.exp(dt[:, t] * A)[..., None, None] * state
        state = kept + torch.einsum("bh,bhp,bhn->bhpn", dt[:, t], x[:, t], B_[:, t])
        outputs.append(torch.einsum("bhpn,bhn->bhp", state, C[:, t]) + D[:, None] * x[:, t])
    return torch.stack(outputs, dim=1)


def ssd_dual(
    x: Float[Tensor, "B L H P"],
    dt: Float[Tensor, "B L H"],
    A: Float[Tensor, " H"],
    B_: Float[Tensor, "B L G N"],
    C: Float[Tensor, "B L G N"],
    D: Float[Tensor, " H"],
) -> Float[Tensor, "B L H P"]:
    """Return y [B, L, H, P] as one L x L matrix per head; memory grows with L squared."""
    batch, length, groups = x.shape[0], x.shape[1], B_.shape[2]
    dt = _wide(dt)
    total = torch.cumsum(dt * A, dim=1).transpose(1, 2)  # [B, H, L]
    later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
    exponent = total[..., :, None] - total[..., None, :]
    decay = exponent.masked_fill(later, -torch.inf).exp() * dt.transpose(1, 2)[..., None, :]
    scores = C.transpose(1, 2) @ B_.permute(0, 2, 3, 1)  # [B, G, L, L]
    mixing = decay.reshape(batch, groups, -1, length, length) * scores.unsqueeze(2)
    # D x goes on the diagonal of the small matrix: one pass over x less than adding it afterwards.
    mixing = mixing.flatten(1, 2) + torch.diag_embed(D[:, None].expand(-1, length))
    return _mix(mixing, x)


def ssd_chunked(
    x: Float[Tensor, "B L H P"],
    dt: Float[Tensor, "B L H"],
    A: Float[Tensor, " H"],
    B_: Float[Tensor, "B L G N"],
    C: Float[Tensor, "B L G N"],
    D: Float[Tensor, " H"],
    chunk: int = CHUNK,
) -> Float[Tensor, "B L H P"]:
    """Return y [B, L, H, P]: the dual form inside chunks, the recurrence from chunk to chunk."""
    batch, length, groups = x.shape[0], x.shape[1], B_.shape[2]
    chunk = min(chunk, length)
    # A padded step has dt = 0: it keeps the state and adds nothing to it.
    padding = -length % chunk
    padded = [F.pad(t, [0, 0] * (t.ndim - 2) + [0, padding]) for t in (x, _wide(dt), B_, C)]
    x, dt, B_, C = (t.reshape(-1, chunk, *t.shape[2:]) for t in padded)
    inside = ssd_dual(x, dt, A, B_, C, D)

    by_group = (batch, -1, chunk, groups, x.shape[2] // groups)  # [B, chunks, chunk, G, H / G]
    total = torch.cumsum(dt * A, dim=1)
    into_state = (torch.exp(total[:, -1:] - total) * dt).to(x.dtype)
    added = torch.einsum(
        "bcsgn,bcsghp->bcghnp",
        B_.reshape(batch, -1, *B_.shape[1:]),
        (into_state[..., None] * x).reshape(*by_group, x.shape[3]),
    )
    from_state = torch.exp(total).reshape(by_group)
    before = _states_before(added, from_state[:, :, -1]).to(C.dtype)
    carried = torch.einsum("bctgn,bcghnp->bctghp", C.reshape(batch, -1, *C.shape[1:]), before)
    carried = from_state.to(x.dtype)[..., None] * carried
    y = inside + carried.reshape(inside.shape)
    return y.reshape(batch, -1, *y.shape[2:])[:, :length]


def ssd_last(
    x: Float[Tensor, "B L H P"],
    dt: Float[Tensor, "B L H"],
    A: Float[Tensor, " H"],
    B_: Float[Tensor, "B L G N"],
    C: Float[Tensor, "B L G N"],
    D: Float[Tensor, " H"],
) -> Float[Tensor, "B 1 H P"]:
    """Return y of the last position, [B, 1, H, P]: a weighted sum of the positions, any L."""
    dt = _wide(dt)
    total = torch.cumsum(dt * A, dim=1)
    decay = (torch.exp(total[:, -1:] - total) * dt).transpose(1, 2)  # [B, H, L]
    scores = C[:, -1, :, None] @ B_.permute(0, 2, 3, 1)  # [B, G, 1, L]
    weights = decay.reshape(*scores.shape[:2], -1, x.shape[1]) * scores
    return _mix(weights.flatten(1, 2).unsqueeze(2), x) + D[:, None] * x[:, -1:]


def _mix(
    weights: Float[Tensor, "B H rows L"], x: Float[Tensor, "B L H P"]
) -> Float[Tensor, "B rows H P"]:
    """Return the weighted sums of the positions of x, head by head."""
    return torch.matmul(weights.to(x.dtype), x.transpose(1, 2)).transpose(1, 2)


def _states_before(
    added: Float[Tensor, "B chunks G R N P"], kept: Float[Tensor, "B chunks G R"]
) -> Float[Tensor, "B chunks G R N P"]:
    """Return the state that enters each chunk: S_(c+1) = kept_c S_c + added_c, S_0 = 0."""
    state = torch.zeros_like(added[:, 0], dtype=kept.dtype)
    states = []
    for c in range(added.shape[1]):
        states.append(state)
        state = kept[:, c, ..., None, None] * state + added[:, c]
    return torch.stack(states, dim=1)


def _wide(values: Tensor) -> Tensor:
    """Return the values as float32, or as float64 where they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
