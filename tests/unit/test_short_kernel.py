"""The Triton kernels of a short window against the dual form in float64, in Triton's interpreter.

The interpreter has to be asked for before Triton is imported, and takes seconds for what a GPU does
in microseconds: all cases are computed once, by another process, and each test reads its own.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from lvm.core.config.recipe import ModelConfig
from lvm.models import forms, short, short_gradients, short_kernel
from lvm.models.base import NORM_EPS
from lvm.models.conv import causal_conv
from lvm.models.mamba2 import Mamba2Encoder, Mamba2Layer
from lvm.models.short_gradients import Launch
from lvm.models.short_sizes import Sizes
from lvm.models.ssd import ssd_dual

UNIT = Path(__file__).parent
NAMES = ("output", "proj", "z", "taps", "tap_bias", "dt_bias", "A_log", "D", "norm")
OTHER = Launch(backward_heads=4, score_windows=2, norm_rows=2)  # divide nothing that follows
# Name: windows, positions, heads, taps, last alone, dtype, how kernels are started.
CASES = {
    "one position": (3, 1, 3, 4, False, "float32", Launch()),
    "two positions": (5, 2, 3, 4, False, "float32", OTHER),
    "five positions": (2, 5, 3, 4, False, "float32", Launch()),
    "five, last alone": (3, 5, 3, 4, True, "float32", OTHER),
    "five, rounded": (3, 5, 4, 3, False, "bfloat16", OTHER),
    "five, rounded, last alone": (2, 5, 8, 1, True, "bfloat16", OTHER),
    "sixteen positions": (1, 16, 2, 4, False, "float32", Launch()),
    "sixteen, last alone": (1, 16, 2, 4, True, "float32", Launch()),
}
ENCODERS = {"an encoder": False, "an encoder under autocast": True}
EXTREME = Sizes(2, 8, 16, 3, 2, 0)


def between_products(proj, z, taps, tap_bias, dt_bias, A_log, D, norm, sizes):
    """The same in plain operations: what lies between in_proj and out_proj of Mamba2Block."""
    if z is None:
        z, proj = proj.split([sizes.inner, proj.shape[2] - sizes.inner], -1)
    mixed, dt = proj.split([sizes.mixed, sizes.H], -1)
    mixed = torch.nn.functional.silu(causal_conv(mixed, taps, tap_bias))
    x, B_, C = mixed.split([sizes.inner, sizes.N, sizes.N], -1)
    dt = torch.nn.functional.softplus(dt + dt_bias)
    heads = x.unflatten(2, (sizes.H, sizes.P))
    y = ssd_dual(heads, dt, -A_log.exp(), B_.unsqueeze(2), C.unsqueeze(2), D).flatten(2)
    gated = y[:, sizes.first :] * torch.nn.functional.silu(z)
    return torch.nn.functional.rms_norm(gated, gated.shape[-1:], norm, NORM_EPS)


def mix_errors(windows, length, heads, taps, last_only, dtype, launch):
    """Return the relative error of the output and of each gradient."""
    torch.manual_seed(length)
    sizes = Sizes(heads, 8, 16, length, taps, length - 1 if last_only else 0)
    rows, inner, mixed = length - sizes.first, sizes.inner, sizes.mixed
    proj = torch.randn(windows, length, mixed + heads + (0 if last_only else inner))
    z = torch.randn(windows, rows, inner) if last_only else None
    products = [None if p is None else p.to(getattr(torch, dtype)) for p in (proj, z)]
    weights = [
        torch.randn(mixed, 1, taps),
        torch.randn(mixed),
        torch.randn(heads) - 1,
        torch.rand(heads),
        torch.randn(heads),
        1 + 0.3 * torch.randn(inner),
    ]
    probe = torch.randn(windows, rows, inner).to(getattr(torch, dtype))

    def outcome(function, cast):
        inputs = [
            None if p is None else cast(p.detach()).requires_grad_() for p in [*products, *weights]
        ]
        output = function(*inputs)
        real = [p for p in inputs if p is not None]
        grads = dict(
            zip(map(id, real), torch.autograd.grad(output, real, cast(probe)), strict=True)
        )
        return [output, *(None if p is None else grads[id(p)] for p in inputs)]

    wanted = outcome(lambda *a: between_products(*a, sizes), lambda p: p.double())
    short_gradients.launch = launch
    got = outcome(lambda *a: short_gradients._Mix.apply(*a, sizes, NORM_EPS), lambda p: p.clone())
    return errors_of(got, wanted)


def errors_of(got, wanted):
    found = {}
    for name, g, w in zip(NAMES, got, wanted, strict=True):
        if w is not None:  # of one position, A_log has no part in the output
            found[name] = float(
                (g.detach().double() - w.detach()).norm() / w.norm().clamp(min=1e-9)
            )
    return found


def encoder_errors(*, rounded):
    """Return the errors of an encoder of two layers, and those of its dual form, in float32."""
    import test_short

    torch.manual_seed(1)
    exact = Mamba2Encoder(ModelConfig(**{**test_short.SIZES, "num_layers": 2}), 16).double()
    with torch.no_grad():
        for parameter in exact.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    contexts, probe = torch.randn(2, 5, 16).double(), torch.randn(2, 16).double()

    def outcome(encoder, dtype):
        inputs = [contexts.to(dtype).requires_grad_(), *encoder.parameters()]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=rounded and encoder is not exact):
            output = encoder(inputs[0])
        return [output, *torch.autograd.grad((output.double() * probe).sum(), inputs)]

    narrow, wanted = copy.deepcopy(exact).float(), outcome(exact, torch.float64)
    plain = test_short.largest_error(outcome(narrow, torch.float32), wanted)
    first = mock.patch.object(forms, "choose", lambda about, ways, u, weights: next(iter(ways)))
    calls = mock.patch.object(short_kernel, "kernel_layer", wraps=short_kernel.kernel_layer)
    on_gpu = mock.patch.object(Mamba2Layer, "_is_fused", return_value=True)
    with on_gpu, first, calls as called:
        found = test_short.largest_error(outcome(narrow, torch.float32), wanted)
    return {"dual": plain, "kernel": found, "calls": called.call_count}


def measured():
    """Return the errors of every case; for the process that interprets."""
    found = {name: mix_errors(*case) for name, case in CASES.items()}
    short_gradients.launch = Launch()
    extreme = [parameter.detach() for parameter in extreme_weights()]
    for tensor in extreme:
        tensor.requires_grad_()
    output = short_gradients._Mix.apply(*extreme[:1], None, *extreme[1:], EXTREME, NORM_EPS)
    grads = torch.autograd.grad(output.sum(), extreme)
    found["extreme"] = {"finite": all(bool(t.isfinite().all()) for t in (output, *grads))}
    for name, rounded in ENCODERS.items():
        found[name] = encoder_errors(rounded=rounded)
    return found


def extreme_weights():
    """Step sizes of 1,000 and products far out on either side of what exp can hold."""
    proj = 200 * torch.randn(2, 3, 2 * EXTREME.inner + 2 * EXTREME.N + EXTREME.H)
    mixed = EXTREME.mixed
    return [
        proj,
        torch.randn(mixed, 1, 2),
        torch.randn(mixed),
        torch.tensor([1000.0, -1000.0]),
        torch.ones(2),
        torch.ones(2),
        torch.ones(EXTREME.inner),
    ]


def built():
    """Return the kernels that a layer's passes start, each built for an H100, which is not here."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    class Driver:
        get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))
        get_current_device = get_current_stream = staticmethod(lambda *device: 0)

    run, started = JITFunction.run, []

    def build(self, *args, grid, warmup, **options):
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        started.append([self.fn.__name__, "cubin" in kernel.asm])

    driver.set_active(Driver())
    layer = Mamba2Layer(ModelConfig(hidden=24, state=16, head_dim=16))
    with mock.patch.object(JITFunction, "run", build):
        for last_only, dtype in ((False, torch.bfloat16), (True, torch.float32)):
            u = torch.randn(5, 3, 24, requires_grad=True)
            arguments = {"state": 16, "dropout": 0.1, "eps": NORM_EPS, "last_only": last_only}
            output = short_kernel.kernel_layer(u, layer._weights, dtype=dtype, **arguments)
            torch.autograd.grad(output, [u, *layer._weights], torch.ones_like(output))
    return started


def in_another_process(function, **environment):
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed; a CUDA build of torch brings it")
    program = f"import json, test_short_kernel as t; print(json.dumps(t.{function.__name__}()))"
    path = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=UNIT,
        text=True,
        capture_output=True,
        env={**os.environ, **path, **environment},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def errors():
    return in_another_process(measured, TRITON_INTERPRET="1")


def test_every_kernel_can_be_built_for_a_gpu(tmp_path) -> None:
    """The interpreter runs Python; what Triton's own compiler refuses shows here."""
    started = in_another_process(built, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))
    assert all(is_built for _, is_built in started)
    assert [name for name, _ in started] == 2 * [
        "norm_forward",
        "score_forward",
        "mix_forward",
        "along",
        "mix_backward",
        "score_backward",
        "norm_backward",
    ]


@pytest.mark.parametrize("case", CASES)
def test_the_kernels_are_the_dual_form_with_its_gradients(errors, case) -> None:
    bound = 1e-5 if CASES[case][5] == "float32" else 1e-2
    found = errors[case]
    assert set(found) == set(NAMES) - (set() if CASES[case][4] else {"z"})
    if CASES[case][1] == 1:  # of one position: no decay, and its gradient is zero
        assert found.pop("A_log") == 0
    assert all(error < bound for error in found.values()), found


@pytest.mark.parametrize("case", ENCODERS)
def test_an_encoder_of_kernels_is_the_encoder(errors, case) -> None:
    found = errors[case]
    assert found["calls"] == 2
    assert found["kernel"] < (1.5 * found["dual"] if ENCODERS[case] else 1e-5)


def test_extreme_steps_and_products_keep_everything_finite(errors) -> None:
    assert errors["extreme"]["finite"]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({}, None),
        ({"installed": False}, "triton"),
        ({"device": "cpu"}, "device cpu"),
        ({"length": 8}, None),
        ({"length": 9}, "9 positions"),
        ({"dtype": torch.float64}, "float64"),
        ({"state": 24}, "state 24"),
        ({"weights": torch.bfloat16}, "weights"),
        ({"heads": 16}, "head_dim 96"),
        ({"heads": 480, "inner": 480 * 64}, "480 heads"),
    ],
)
def test_what_the_kernels_refuse_is_said(change, part, monkeypatch, shapes_checked_before) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(short_kernel, "is_installed", lambda: change.get("installed", True))
    one = torch.zeros(1, dtype=change.get("weights", torch.float32))
    heads, inner = change.get("heads", 24), change.get("inner", 1536)
    weights = short.Weights(*[one] * 9)._replace(D=one.expand(heads), out_proj=one.expand(8, inner))
    u = SimpleNamespace(
        shape=(2, change.get("length", 5), 8), device=torch.device(change.get("device", "cuda"))
    )
    dtype = change.get("dtype", torch.bfloat16)
    found = short_kernel.refusal(u, weights, change.get("state", 128), dtype)
    assert found is None if part is None else part in found
