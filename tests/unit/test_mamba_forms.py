"""Mamba-1 and the forms of Mamba-2 against modules of others, in values and gradients."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvm.core.config.recipe import ModelConfig
from lvm.core.errors import ConfigError
from lvm.core.form import MambaForm
from lvm.models import forms
from lvm.models.base import build_model
from lvm.models.mamba1 import Mamba1Block, selective_scan, selective_scan_last
from lvm.models.mamba2 import Mamba2Layer
from lvm.models.mamba2_block import GatedRMSNorm, Mamba2Block

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import Mamba2Config, Mamba2Model, MambaConfig, MambaModel

W, T = 32, 5
TOLERANCE = 1e-5


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- the scan of Mamba-1 --------------------------------------------------------------------------


def by_definition(x, dt, A, B_, C, D):
    """Every channel and state on its own, without a tensor operation over positions."""
    rows = []
    for t in range(x.shape[1]):
        total = D * x[:, t]
        for s in range(t + 1):
            kept = torch.exp(dt[:, s + 1 : t + 1].sum(1)[..., None] * A)
            total = total + (kept * (C[:, t] * B_[:, s])[:, None]).sum(-1) * dt[:, s] * x[:, s]
        rows.append(total)
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("length", [1, 2, 5, 16])
def test_the_scan_is_its_definition(length) -> None:
    wide = torch.float64
    given = [
        drawn(3, length, 6, dtype=wide),
        F.softplus(drawn(3, length, 6, seed=1, dtype=wide)),
        -drawn(6, 4, seed=2, dtype=wide).exp(),
        drawn(3, length, 4, seed=3, dtype=wide),
        drawn(3, length, 4, seed=4, dtype=wide),
        drawn(6, seed=5, dtype=wide),
    ]
    weight = drawn(3, length, 6, seed=6, dtype=wide)

    def run(scan, last: bool) -> list[Tensor]:
        inputs = [t.clone().requires_grad_() for t in given]
        y = scan(*inputs)
        (y * (weight[:, -1:] if last else weight)).sum().backward()
        return [y.detach(), *(t.grad for t in inputs)]

    def last_by_definition(*inputs):
        return by_definition(*inputs)[:, -1:]

    for scan, reference, last in (
        (selective_scan, by_definition, False),
        (selective_scan_last, last_by_definition, True),
    ):
        for ours, theirs in zip(run(scan, last), run(reference, last), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_huge_steps_give_finite_gradients() -> None:
    x, B_, C = drawn(2, 9, 3), drawn(2, 9, 4), drawn(2, 9, 4)
    dt = torch.full((2, 9, 3), 3e3, requires_grad=True)
    A = torch.full((3, 4), -16.0, requires_grad=True)
    for scan in (selective_scan, selective_scan_last):
        scan(x, dt, A, B_, C, torch.ones(3)).sum().backward()
        assert dt.grad.isfinite().all()
        assert A.grad.isfinite().all()


# --- networks of transformers ---------------------------------------------------------------------

GROUPS = (1, 2, 8)


def hugging_face(kind: str, groups: int, **more: Any) -> nn.Module:
    sizes = {"hidden_size": W, "num_hidden_layers": 2, "vocab_size": 3, "expand": 2}
    torch.manual_seed(3)
    if kind == "mamba1":
        model = MambaModel(MambaConfig(**sizes, state_size=8, **more))
    else:
        heads = {"num_heads": 8, "head_dim": 8, "n_groups": groups, "state_size": 8}
        model = Mamba2Model(Mamba2Config(**sizes, **heads, chunk_size=8, **more))
    with torch.no_grad():
        for number, (name, weight) in enumerate(sorted(model.named_parameters())):
            if not name.endswith(("A_log", "dt_bias", "dt_proj.bias")):
                weight.add_(0.2 * drawn(*weight.shape, seed=number))
    model.embeddings = None
    return model


def ours(kind: str, groups: int, **form: Any) -> nn.Module:
    return build_model(
        ModelConfig(
            name=kind,
            hidden=W,
            num_layers=2,
            state=8,
            head_dim=8,
            form=MambaForm(groups=groups, input_scale="one", **form),
        ),
        W,
        0,
    )


CASES = [
    ("mamba1", 1, {}, {}),
    ("mamba1", 1, {"use_bias": True}, {"projection_bias": True}),
    *(("mamba2", groups, {}, {}) for groups in GROUPS),
    ("mamba2", 8, {"time_step_limit": (0.02, 0.2)}, {"dt_min": 0.02, "dt_max": 0.2}),
    ("mamba2", 2, {"layer_norm_epsilon": 0.1}, {"norm_eps": 0.1}),
    ("mamba2", 2, {"use_bias": True}, {"projection_bias": True}),
]


@pytest.mark.parametrize(("kind", "groups", "theirs", "form"), CASES)
@pytest.mark.parametrize("readout", ["last", "mean"])
def test_a_network_of_transformers_is_reproduced(kind, groups, theirs, form, readout) -> None:
    model, own = hugging_face(kind, groups, **theirs), ours(kind, groups, readout=readout, **form)
    own.encoder.load_state_dict(model.state_dict())
    contexts, weight = drawn(6, T, W), drawn(6, W, seed=1)
    states = model(inputs_embeds=contexts).last_hidden_state
    expected = F.normalize(states[:, -1] if readout == "last" else states.mean(1), dim=-1)
    found = own(contexts)
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)
    (expected * weight).sum().backward()
    (found * weight).sum().backward()
    gradients = dict(own.encoder.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            gradients[name].grad, parameter.grad, rtol=1e-4, atol=TOLERANCE, msg=name
        )


# --- forms that transformers lacks ----------------------------------------------------------------


def test_a_norm_before_the_gate_and_by_group() -> None:
    y, z, weight = drawn(2, 3, 8), drawn(2, 3, 8, seed=1), drawn(8, seed=2)
    norm = GatedRMSNorm(8, 0.01, groups=2, before_gate=True)
    norm.load_state_dict({"weight": weight})
    for b in range(2):
        for t in range(3):
            for half in (slice(0, 4), slice(4, 8)):
                size = (y[b, t, half].square().mean() + 0.01).sqrt()
                expected = y[b, t, half] / size * weight[half] * F.silu(z[b, t, half])
                torch.testing.assert_close(norm(y, z)[b, t, half], expected)


@pytest.mark.parametrize(
    "form",
    [
        {"gated_norm": "before_gate"},
        {"gated_norm": "none"},
        {"groups": 4},
        {"groups": 4, "norm_per_group": False},
        {"dt_min": 0.5, "dt_max": 0.6},
        {"block_norm": "after"},
        {"block_norm": "none"},
        {"block_residual": False},
        {"norm_kind": "layer"},
        {"final_norm": False},
        {"adapters": "both"},
        {"input_scale": "one"},
        {"readout": "mean"},
        {"norm_eps": 0.5},
        {"projection_bias": True},
    ],
    ids=str,
)
def test_every_setting_of_the_form_changes_the_answer(form) -> None:
    def model(**form: Any) -> nn.Module:
        sizes = {"hidden": W, "num_layers": 2, "state": 8, "head_dim": 8}
        built = build_model(ModelConfig(**sizes, form=MambaForm(**form)), W, 0)
        with torch.no_grad():  # an even scale goes unseen in a prediction of unit length
            for name, weight in built.named_parameters():
                if name.endswith("norm_f.weight"):
                    weight.copy_(drawn(W))
        return built

    contexts = F.normalize(drawn(4, T, W), dim=-1)
    plain, other = model(), model(**form)
    if form.get("norm_per_group") is False:
        plain = model(groups=4)  # what differs from this is the norm alone
    assert (plain(contexts) - other(contexts)).abs().max() > 1e-4


@pytest.mark.parametrize("kind", [Mamba1Block, Mamba2Block])
@pytest.mark.parametrize("bias", [False, True])
def test_the_last_position_alone_is_that_of_all(kind, bias) -> None:
    form = MambaForm(groups=4 if kind is Mamba2Block else 1, projection_bias=bias)
    block = kind(ModelConfig(hidden=W, state=8, head_dim=8, form=form))
    u = drawn(3, 7, W)
    torch.testing.assert_close(block(u, last_only=True), block(u)[:, -1:], rtol=0, atol=1e-5)


# --- backends -------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["compiled", "kernel"])
def test_a_backend_that_would_compute_another_model_is_refused(backend) -> None:
    config = ModelConfig(hidden=W, head_dim=8, backend=backend, form=MambaForm(groups=4))
    with pytest.raises(ConfigError, match=r"does not support model\.form\.groups = 4"):
        Mamba2Layer(config)


def test_auto_stays_with_the_dual_form_and_says_why(caplog) -> None:
    forms.note_dual_alone.cache_clear()
    layer = Mamba2Layer(ModelConfig(hidden=W, head_dim=8, form=MambaForm(dt_max=0.1)))
    with caplog.at_level("INFO", logger="lvm.models.forms"):
        assert layer._form(drawn(2, T, W), last_only=False) == "dual"
    assert "model.form.dt_max = 0.1" in caplog.text


def test_groups_that_do_not_divide_the_heads_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"must divide the 8 heads \(got 3\)"):
        Mamba2Block(ModelConfig(hidden=W, head_dim=8, form=MambaForm(groups=3)))


@pytest.mark.parametrize("kind", ["in", "out", "none"])
def test_a_layer_that_the_widths_need_is_not_left_out(kind) -> None:
    with pytest.raises(ConfigError, match=r"model\.form\.adapters must be auto or both"):
        build_model(ModelConfig(hidden=W, head_dim=8, form=MambaForm(adapters=kind)), W + 1, 0)
