"""Maximum mean discrepancy: whether predictions are spread as the targets are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

MULTIPLIERS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the median squared distance


def mmd2_unbiased(
    x: Float[Tensor, "B D"],
    y: Float[Tensor, "C D"],
    *,
    bandwidths: Sequence[float] | None = None,
) -> Float[Tensor, ""]:
    """Return the unbiased estimate of MMD^2 between the samples `x` and `y`.

        mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)

    (Gretton et al. 2012, "A Kernel Two-Sample Test", Lemma 6, equation 3.) k is the mean over
    `bandwidths` s of exp(-|a - b|^2 / (2 s^2)). Its expectation is 0 for equal distributions, so
    single values may be negative. By default s^2 is 1/4 to 4 times the median squared distance of
    the pooled sample: it treats x and y alike, which keeps that expectation, and has no gradient.

    fp32 at least, also under autocast. ValueError: fewer than two rows in `x` or `y`.
    """
    m, n = len(x), len(y)
    if m < 2 or n < 2:
        raise ValueError(f"the unbiased MMD needs at least 2 rows on each side (got {m} and {n})")
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        squared = _squared_distances(torch.cat([x.to(dtype), y.to(dtype)]))
        variances: Sequence[Tensor] | Tensor
        if bandwidths is None:
            median = _median_off_diagonal(squared.detach())
            variances = [median * multiplier for multiplier in MULTIPLIERS]
        else:
            variances = squared.new_tensor(bandwidths).square()
        kernel = torch.stack([torch.exp(squared / (-2 * v)) for v in variances]).mean(dim=0)
        return (
            _mean_off_diagonal(kernel[:m, :m])
            + _mean_off_diagonal(kernel[m:, m:])
            - 2 * kernel[:m, m:].mean()
        )


def _squared_distances(z: Float[Tensor, "S D"]) -> Float[Tensor, "S S"]:
    norms = z.square().sum(dim=1)
    return (norms[:, None] + norms - 2 * z @ z.T).clamp_min(0)


def _median_off_diagonal(squared: Float[Tensor, "S S"]) -> Float[Tensor, ""]:
    # The floor lies above the rounding of equal unit rows, which would else set the bandwidth.
    return squared.clone().fill_diagonal_(torch.nan).nanmedian().clamp_min(1e-5)


def _mean_off_diagonal(kernel: Float[Tensor, "S S"]) -> Float[Tensor, ""]:
    size = len(kernel)
    return (kernel.sum() - kernel.diagonal().sum()) / (size * (size - 1))
