"""The forms of the state-space recurrence against each other and against the definition."""

from __future__ import annotations

import math

import pytest
import torch

from lvm.core.randomness import torch_generator
from lvm.models.ssd import ssd_chunked, ssd_dual, ssd_last, ssd_sequential

FORMS = {"dual": ssd_dual, "chunked": ssd_chunked}


def draw(length, *, batch=3, heads=4, groups=1, dtype=torch.float64, rate=1.0):
    """Random inputs of the forms; `rate` scales dt."""
    generator = torch_generator(7, "ssd", length, groups)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return (
        normal(batch, length, heads, 8),
        rate * torch.nn.functional.softplus(normal(batch, length, heads) - 2),
        -torch.linspace(1, 16, heads, dtype=dtype),
        normal(batch, length, groups, 6),
        normal(batch, length, groups, 6),
        normal(heads),
    )


def test_sequential_is_the_closed_sum_for_one_head():
    """y_t = sum_s (C_t . B_s) exp(sum_(s < r <= t) dt_r A) dt_s x_s + D x_t, by plain loops."""
    x, dt, A, B_, C, D = draw(4, batch=1, heads=1)
    y = ssd_sequential(x, dt, A, B_, C, D)
    for t in range(4):
        expected = D[0] * x[0, t, 0]
        for s in range(t + 1):
            decay = math.exp(sum(float(dt[0, r, 0] * A[0]) for r in range(s + 1, t + 1)))
            score = float(C[0, t, 0] @ B_[0, s, 0])
            expected = expected + score * decay * dt[0, s, 0] * x[0, s, 0]
        torch.testing.assert_close(y[0, t, 0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 2, 5, 64, 65, 130])
def test_forms_equal_the_recurrence(form, groups, length):
    inputs = draw(length, groups=groups)
    expected = ssd_sequential(*inputs)
    torch.testing.assert_close(FORMS[form](*inputs), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(ssd_last(*inputs), expected[:, -1:], rtol=0, atol=1e-10)


@pytest.mark.parametrize("form", [*FORMS.values(), ssd_last])
@pytest.mark.parametrize("length", [5, 64, 200])
def test_float32_stays_within_1e_5(form, length):
    expected = ssd_sequential(*draw(length))
    actual = form(*draw(length, dtype=torch.float32))
    assert actual.dtype == torch.float32
    expected = expected[:, -actual.shape[1] :]
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("chunk", [1, 3, 16])
def test_the_chunk_size_does_not_matter(chunk):
    inputs = draw(17, groups=2)
    expected = ssd_sequential(*inputs)
    torch.testing.assert_close(ssd_chunked(*inputs, chunk=chunk), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("form", [ssd_dual, ssd_last, lambda *a: ssd_chunked(*a, chunk=2)])
def test_gradients_are_those_of_finite_differences(form):
    inputs = [t.requires_grad_() for t in draw(5, batch=1, heads=2, groups=2)]
    assert torch.autograd.gradcheck(form, inputs)


@pytest.mark.parametrize("form", [ssd_dual, ssd_chunked, ssd_last])
def test_gradients_equal_those_of_the_recurrence(form):
    inputs = [t.requires_grad_() for t in draw(70, groups=2)]
    actual = form(*inputs)
    probe = torch.randn(actual.shape, generator=torch_generator(1), dtype=actual.dtype)
    reference = ssd_sequential(*inputs)[:, -actual.shape[1] :]
    expected = torch.autograd.grad((reference * probe).sum(), inputs)
    for got, want in zip(
        torch.autograd.grad((actual * probe).sum(), inputs), expected, strict=True
    ):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("form", [ssd_dual, ssd_chunked, ssd_last])
def test_extreme_decay_keeps_output_and_gradients_finite(form):
    # dt * A reaches several thousand per step: exp of its negative is inf in float32.
    inputs = [t.requires_grad_() for t in draw(70, dtype=torch.float32, rate=1000.0)]
    assert float((inputs[1] * inputs[2]).detach().min()) < -1000
    output = form(*inputs)
    assert output.isfinite().all()
    for gradient in torch.autograd.grad(output.sum(), inputs):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_inputs_keep_float32_decays(form):
    inputs = draw(100)
    rounded = [t.bfloat16() if i in (0, 3, 4) else t.float() for i, t in enumerate(inputs)]
    expected = ssd_sequential(*(t.double() for t in rounded))
    actual = FORMS[form](*rounded)
    assert actual.dtype == torch.bfloat16
    error = (actual.double() - expected).norm() / expected.norm()
    assert error < 0.01
