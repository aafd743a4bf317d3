"""The layer that a GPU compiles: equal to the dual form, one graph, and a way back when it fails.

The functions without `test_` run in another process: checks of shapes at run time are no part of
what is compiled.
"""

from __future__ import annotations

import pytest
import torch

from lvm.core import compiled
from lvm.core.config.recipe import ModelConfig
from lvm.core.randomness import torch_generator
from lvm.models import forms, short
from lvm.models.base import NORM_EPS
from lvm.models.mamba2 import Mamba2Encoder, Mamba2Layer

SIZES = {"hidden": 16, "num_layers": 3, "state": 8, "head_dim": 8}


def layer(length, *, dtype=torch.float64, **changes):
    torch.manual_seed(0)
    made = Mamba2Layer(ModelConfig(**{**SIZES, **changes})).to(torch.float64)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    u = torch.randn(4, length, 16, dtype=torch.float64, generator=torch_generator(1, "u", length))
    return made.to(dtype), u.to(dtype).requires_grad_()


def weights_of(made):
    block = made.mixer
    return short.Weights(
        made.norm.weight,
        block.in_proj.weight,
        block.conv1d.weight,
        block.conv1d.bias,
        block.dt_bias,
        block.A_log,
        block.D,
        block.norm.weight,
        block.out_proj.weight,
    )


def by_function(made, u, *, last_only=False, dtype=None):
    return short.short_layer(
        u,
        weights_of(made),
        state=made.mixer.state,
        dropout=0.0,
        eps=NORM_EPS,
        last_only=last_only,
        dtype=dtype or u.dtype,
    )


def with_gradients(output, made, u):
    probe = torch.randn(output.shape, generator=torch_generator(2), dtype=torch.float64)
    inputs = [u, *weights_of(made)]
    return [output, *torch.autograd.grad((output.double() * probe).sum(), inputs)]


def largest_error(got, wanted) -> float:
    """Norm of the difference over the norm, of the worst of the tensors."""
    pairs = ((g.detach().double(), w.detach().double()) for g, w in zip(got, wanted, strict=True))
    return max(float((g - w).norm() / w.norm()) for g, w in pairs)


@pytest.mark.parametrize("last_only", [False, True])
@pytest.mark.parametrize("length", [1, 2, 3, 5, 8, 16])
@pytest.mark.parametrize("taps", [1, 4, 7])
def test_it_is_the_dual_form_with_its_gradients(length, taps, last_only) -> None:
    made, u = layer(length, conv_kernel=taps)
    wanted = with_gradients(made(u, last_only=last_only), made, u)
    got = with_gradients(by_function(made, u, last_only=last_only), made, u)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("last_only", [False, True])
def test_float32_stays_within_1e_5_of_float64(last_only) -> None:
    exact, narrow = layer(5), layer(5, dtype=torch.float32)
    wanted = with_gradients(exact[0](exact[1], last_only=last_only), *exact)
    got = with_gradients(by_function(*narrow, last_only=last_only), *narrow)
    assert largest_error(got, wanted) < 1e-5


def test_bfloat16_products_stay_within_1e_2_and_round_no_more_than_autocast() -> None:
    exact, narrow = layer(5), layer(5, dtype=torch.float32)
    wanted = with_gradients(exact[0](exact[1]), *exact)
    got = with_gradients(by_function(*narrow, dtype=torch.bfloat16), *narrow)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = narrow[0](narrow[1])
    plain = with_gradients(output, *narrow)
    assert got[0].dtype == torch.float32  # the stream between layers
    assert largest_error(got[:1], wanted[:1]) < 1e-2
    assert largest_error(got, wanted) < 1.5 * largest_error(plain, wanted)


def test_extreme_decay_keeps_output_and_gradients_finite() -> None:
    made, u = layer(5, dtype=torch.float32)
    with torch.no_grad():
        made.mixer.dt_bias.fill_(1000.0)
    for tensor in with_gradients(by_function(made, u), made, u):
        assert tensor.isfinite().all()


def traced() -> dict:
    """Compile a training pass of a whole encoder, three layers, and count graphs and traces."""
    from unittest import mock

    import torch._dynamo.testing

    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    config = ModelConfig(**SIZES)
    torch.manual_seed(0)
    encoder = Mamba2Encoder(config, 16)
    contexts, probe = torch.randn(6, 5, 16), torch.randn(6, 16)
    on_gpu = mock.patch.object(Mamba2Layer, "_is_fused", lambda self, u: self.training)
    own = compiled.Compiled(short.short_layer)
    own.__dict__["_compiled"] = torch.compile(
        short.short_layer, dynamic=False, fullgraph=True, backend=counter
    )

    def step():
        encoder.zero_grad()
        output = encoder(contexts)
        (output * probe).sum().backward()
        return [output.detach(), *(p.grad.clone() for p in encoder.parameters())]

    wanted = step()
    first = mock.patch.object(forms, "choose", lambda about, ways, u, weights: next(iter(ways)))
    with on_gpu, first, mock.patch.object(short, "compiled_layer", own):
        got = step()
        step()
    error = largest_error(got, wanted)
    return {"graphs": counter.frame_count, "allowed": compiled.is_allowed(), "error": error}


def test_all_layers_share_one_graph_and_the_last_has_another(other_process) -> None:
    found = other_process(traced)
    assert found["allowed"]  # fullgraph: a break in the graph is an error
    assert found["graphs"] == 2
    assert found["error"] < 1e-5


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, True),
        ({"backend": "dual"}, False),
        ({"length": 17}, False),
        ({"device": "cpu"}, False),
        ({"eval": True}, False),
        ({"refused": True}, False),
    ],
)
def test_when_a_layer_is_fused(change, wanted, monkeypatch, shapes_checked_before) -> None:
    monkeypatch.setattr(compiled, "_refused", {"why": "x"} if "refused" in change else {})
    made = Mamba2Layer(ModelConfig(**SIZES, backend=change.get("backend", "auto")))
    made.train("eval" not in change)

    class Seen:  # of a GPU that is not there
        shape = (2, change.get("length", 5), 16)
        device = torch.device(change.get("device", "cuda"))

    assert made._is_fused(Seen()) is wanted
    with torch.no_grad():
        assert not made._is_fused(Seen())


def test_a_failing_compiler_is_named_once_and_training_goes_on(monkeypatch, caplog) -> None:
    monkeypatch.setattr(compiled, "_refused", {})
    calls = []

    def broken(x):
        calls.append(x)
        raise RuntimeError("no ptxas\nand a long trace")

    double = compiled.Compiled(lambda x: 2 * x)
    other = compiled.Compiled(lambda x: 3 * x)
    double.__dict__["_compiled"] = other.__dict__["_compiled"] = broken
    assert (double(3), double(4), other(5)) == (6, 8, 15)
    assert calls == [3]
    assert [record.message for record in caplog.records] == [
        "Compiling failed (RuntimeError: no ptxas); training runs uncompiled."
    ]
