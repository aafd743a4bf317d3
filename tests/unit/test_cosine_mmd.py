from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from lvm.core.randomness import torch_generator
from lvm.losses.cosine import ar_cosine
from lvm.losses.mmd import MULTIPLIERS, mmd2_unbiased


def sample(seed, rows, width=8, dtype=torch.float64):
    return torch.randn(rows, width, generator=torch_generator(seed, "test"), dtype=dtype)


# --- cosine ---------------------------------------------------------------------------------------


def test_cosine_of_known_directions():
    predictions = torch.tensor([[3.0, 0.0], [0.0, 2.0], [-0.5, 0.0], [1.0, 1.0]])
    targets = torch.tensor([[1.0, 0.0]]).expand(4, 2)
    wanted = (0 + 1 + 2 + (1 - math.sqrt(0.5))) / 4
    assert ar_cosine(predictions, targets).item() == pytest.approx(wanted, rel=1e-6)


def test_cosine_gradient():
    predictions = sample(1, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: ar_cosine(p, sample(2, 4)), (predictions,))


def test_cosine_stays_in_fp32_under_autocast():
    predictions, targets = sample(1, 64).float(), sample(2, 64).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = ar_cosine(predictions, targets)
    assert under.dtype == torch.float32
    assert torch.equal(under, ar_cosine(predictions, targets))
    assert ar_cosine(predictions.bfloat16(), targets).dtype == torch.float32


# --- MMD ------------------------------------------------------------------------------------------


def loop_reference(x, y, bandwidths):
    def kernel(a, b):
        squared = sum((float(p) - float(q)) ** 2 for p, q in zip(a, b, strict=True))
        return sum(math.exp(-squared / (2 * s * s)) for s in bandwidths) / len(bandwidths)

    m, n = len(x), len(y)
    xx = sum(kernel(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    yy = sum(kernel(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    xy = sum(kernel(a, b) for a in x for b in y) / (m * n)
    return xx + yy - 2 * xy


def median_bandwidths(x, y):
    pooled = torch.cat([x, y])
    squared = sorted(
        float((pooled[i] - pooled[j]).square().sum()) for i in range(len(pooled)) for j in range(i)
    )
    median = squared[(len(squared) - 1) // 2]
    return [math.sqrt(median * factor) for factor in MULTIPLIERS]


@pytest.mark.parametrize(("m", "n"), [(6, 9), (2, 2)])
def test_mmd_matches_a_double_loop(m, n):
    x, y = sample(1, m, 4), 0.5 * sample(2, n, 4) + 0.3
    given = mmd2_unbiased(x, y, bandwidths=[0.7, 2.0])
    assert given.item() == pytest.approx(loop_reference(x, y, [0.7, 2.0]), abs=1e-12)
    default = mmd2_unbiased(x, y)
    assert default.item() == pytest.approx(loop_reference(x, y, median_bandwidths(x, y)), abs=1e-12)


def test_mmd_of_equal_distributions_is_zero_on_average():
    """Unbiased: the mean of 400 draws lies within 4 standard errors of 0, both signs occur.

    The biased estimate would be off by about 2 (1 - E k) / m = .06, more than 50 standard errors.
    """
    values = torch.stack(
        [mmd2_unbiased(sample(2 * i, 24), sample(2 * i + 1, 24)) for i in range(400)]
    )
    error = values.std() / math.sqrt(len(values))
    assert abs(values.mean()) < 4 * error
    assert error < 1e-3
    assert 0.2 < (values < 0).double().mean() < 0.8


def test_mmd_sees_shrunk_predictions():
    """Predictions at 40 % of the spread of unit targets, as a collapsing model makes them."""
    targets = F.normalize(sample(1, 256, 64), dim=1)
    others = F.normalize(sample(2, 256, 64), dim=1)
    null = mmd2_unbiased(others, targets).item()
    shrunk = mmd2_unbiased(0.4 * others, targets).item()
    assert abs(null) < 0.003
    assert 0.01 < shrunk < 0.3


def test_mmd_is_symmetric():
    x, y = sample(1, 12), 1 + sample(2, 15)
    assert mmd2_unbiased(x, y).item() == pytest.approx(mmd2_unbiased(y, x).item(), abs=1e-12)


def test_mmd_gradient_and_a_bandwidth_without_one():
    x, y = sample(1, 5, 3).requires_grad_(), sample(2, 6, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: mmd2_unbiased(a, b, bandwidths=[1.3]), (x, y))
    (default,) = torch.autograd.grad(mmd2_unbiased(x, y), x)
    fixed = median_bandwidths(x.detach(), y.detach())
    (constant,) = torch.autograd.grad(mmd2_unbiased(x, y, bandwidths=fixed), x)
    torch.testing.assert_close(default, constant, rtol=1e-9, atol=1e-12)


def test_a_step_down_the_gradient_undoes_the_shrinking():
    targets = F.normalize(sample(1, 128, 16), dim=1)
    predictions = (0.4 * F.normalize(sample(2, 128, 16), dim=1)).requires_grad_()
    (gradient,) = torch.autograd.grad(mmd2_unbiased(predictions, targets), predictions)
    stepped = predictions.detach() - 5 * gradient
    assert stepped.norm(dim=1).mean() > predictions.detach().norm(dim=1).mean()
    assert mmd2_unbiased(stepped, targets) < mmd2_unbiased(predictions, targets)


def test_mmd_of_collapsed_samples_is_finite():
    point = F.normalize(torch.ones(8, 16), dim=1).requires_grad_()
    value = mmd2_unbiased(point, point.detach())
    value.backward()
    assert abs(value.item()) < 0.05
    assert torch.isfinite(point.grad).all()


def test_mmd_stays_in_fp32_under_autocast():
    x, y = sample(1, 32).float(), sample(2, 32).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = mmd2_unbiased(x, y)
    assert under.dtype == torch.float32
    assert torch.equal(under, mmd2_unbiased(x, y))


def test_mmd_needs_two_rows_on_each_side():
    with pytest.raises(ValueError, match="at least 2 rows"):
        mmd2_unbiased(sample(1, 1), sample(2, 4))
