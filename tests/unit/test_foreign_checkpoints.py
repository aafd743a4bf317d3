"""Checkpoints of other people's Mamba networks: loaded with their own numbers, or refused by name.

The references are the modules of Hugging Face transformers; what those do not compute (a norm
before the gate, limits of another package) is written out here, position by position.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import made
import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvm.audit.check import CHECKS
from lvm.audit.document import unverified
from lvm.audit.finding import Severity
from lvm.audit.loaded import open_checkpoint
from lvm.audit.material import Material
from lvm.audit.own_figure import exact, resolved
from lvm.core.errors import CheckpointError
from lvm.training.report_checkpoint import read_report_checkpoint
from lvm.training.report_fit import fit_report_checkpoint, ways_to_compute

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import Mamba2Config, Mamba2Model, MambaConfig, MambaModel

W, T, HEADS = tiny.WIDTH, 5, 8

Network = Callable[[Tensor], Tensor]  # contexts [B, T, D] -> unit predictions [B, D]


@pytest.fixture(scope="module")
def data():
    return tiny.dataset()


def hf(kind: int, groups: int = 1, layers: int = 2, **more: Any) -> nn.Module:
    """A network of transformers over vectors, with weights large enough for blocks to matter."""
    torch.manual_seed(kind * 10 + groups)
    sizes = {"hidden_size": W, "num_hidden_layers": layers, "vocab_size": 3, "expand": 2}
    if kind == 1:
        model = MambaModel(MambaConfig(**sizes, state_size=6, **more))
    else:
        heads = {"num_heads": HEADS, "head_dim": 2 * W // HEADS, "n_groups": groups}
        config = Mamba2Config(**sizes, **heads, state_size=32 // groups, chunk_size=8, **more)
        model = Mamba2Model(config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not name.endswith(("A_log", "dt_bias", "dt_proj.bias")):
                weight.copy_(
                    torch.randn(weight.shape, generator=generator) / weight.shape[-1] ** 0.5
                )
            if "norm" in name or name.endswith(".D"):
                weight.copy_(1 + 0.3 * torch.randn(weight.shape, generator=generator))
    return model.eval()


def last(model: nn.Module, scale: float = 1.0) -> Network:
    return lambda contexts: F.normalize(
        model(inputs_embeds=contexts * scale).last_hidden_state[:, -1], dim=-1
    )


def mean(model: nn.Module) -> Network:
    return lambda contexts: F.normalize(
        model(inputs_embeds=contexts).last_hidden_state.mean(1), dim=-1
    )


def weights(model: nn.Module, prefix: str = "", *, table: bool = False) -> dict[str, Tensor]:
    found = {n: w.clone() for n, w in model.state_dict().items() if table or "embed" not in n}
    return {prefix + name: weight for name, weight in found.items()}


def of_package(model: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """Names of a language model of mamba_ssm: one table, called embedding, and a tied lm_head."""
    found = weights(model, table=True)
    named = {
        f"{prefix}backbone.{n.replace('embeddings', 'embedding')}": w for n, w in found.items()
    }
    return {**named, f"{prefix}lm_head.weight": found["embeddings.weight"]}


def as_list(model: nn.Module) -> dict[str, Tensor]:
    """Names of a person's class with blocks of the package in one list and norms in another."""
    found = {}
    for name, weight in weights(model).items():
        if ".norm." in name and "mixer" not in name:
            own = f"norms.{name.split('.')[1]}.weight"
        else:
            own = name.replace("layers.", "mamba_layers.").replace(".mixer.", ".")
        found[own.replace("norm_f", "final_norm")] = weight
    return found


@dataclass(frozen=True)
class Case:
    content: dict[str, Any]
    network: Network
    kind: str = "mamba2"


def half(values: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: value.to(dtype) for name, value in values.items()}


def rounded(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    model.load_state_dict(half(model.state_dict(), dtype))
    return model


def cases() -> dict[str, Case]:
    m1, one, eight = hf(1), hf(2, 1), hf(2, 8)
    half_1, half_8 = rounded(hf(1), torch.bfloat16), rounded(hf(2, 8), torch.float16)
    limited = hf(2, 8, time_step_limit=(0.01, 0.05))
    return {
        "HF Mamba-1": Case({"model_state_dict": weights(m1, "encoder.")}, last(m1), kind="mamba1"),
        "HF Mamba-1 of Lightning": Case(
            {
                "state_dict": weights(m1, "model.net."),
                "hyper_parameters": {"model": {"pool": "mean"}},
            },
            mean(m1),
            kind="mamba1",
        ),
        "package Mamba-1 of DDP": Case(of_package(m1, "module."), last(m1), kind="mamba1"),
        "package Mamba-1 in lists": Case(
            {"model_state_dict": as_list(m1)}, last(m1), kind="mamba1"
        ),
        "HF Mamba-2, groups 1": Case({"model": weights(one)}, last(one)),
        "HF Mamba-2, groups 8 stated": Case(
            {"model_state_dict": weights(eight), "config": {"n_groups": 8}}, last(eight)
        ),
        "HF Mamba-2, groups 8 by its state": Case(
            {"model_state_dict": weights(eight), "args": {"d_state": 4}}, last(eight)
        ),
        "HF Mamba-2, groups 8 stated nowhere": Case(
            {"model_state_dict": weights(eight, "model.")}, last(eight)
        ),
        "HF Mamba-2, groups and limits": Case(
            {
                "model_state_dict": weights(limited),
                "args": {"ngroups": 8, "dt_limit": [0.01, 0.05]},
            },
            last(limited),
        ),
        "package Mamba-2 compiled, groups 1": Case(
            of_package(one, "_orig_mod."), last(one, W**0.5)
        ),
        "package Mamba-2 of DDP, groups 8": Case(
            {"state_dict": of_package(eight, "module._orig_mod."), "args": {"ngroups": 8}},
            mean(eight),
        ),
        "half precision, Mamba-1": Case(
            {"model_state_dict": half(weights(half_1), torch.bfloat16)}, last(half_1), kind="mamba1"
        ),
        "half precision, Mamba-2": Case(
            {"model_state_dict": half(weights(half_8), torch.float16)}, last(half_8)
        ),
    }


CASES = cases()


def figure(network: Network, windows, bank) -> tuple[Tensor, float]:
    """Predictions for some windows, and their validation cosine."""
    contexts = torch.from_numpy(bank.rows(windows.contexts))
    targets = torch.from_numpy(bank.rows(windows.targets))
    with torch.no_grad():
        found = network(contexts)
    return found, float(torch.cosine_similarity(found, targets, dim=1).mean())


def opened(content, data, path):
    torch.save(content, path)
    return resolved(open_checkpoint(path, W, T), Material(dataset=data))


def loader(part, data):
    return list(CHECKS.get("LOADER").findings(Material(checkpoint=part, dataset=data)))


def with_figure(content: dict[str, Any], value: float) -> dict[str, Any]:
    """The file with its validation cosine; weights that are the whole file get a key."""
    whole = all(isinstance(v, Tensor) for v in content.values())
    return {**({"model_state_dict": content} if whole else content), "val_cosine": value}


# --- loaded with their own numbers ----------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_a_foreign_checkpoint_is_computed_as_it_was_trained(name, data, tmp_path) -> None:
    case = CASES[name]
    expected, value = figure(case.network, data.dev, data.bank)
    part = opened(with_figure(case.content, value), data, tmp_path / "m.pt")
    found, _ = figure(part.predictor.model, data.dev, data.bank)
    assert part.recipe.model.name == case.kind
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert part.figure.verified
    assert not [f for f in loader(part, data) if f.severity is not Severity.INFO]


@pytest.mark.parametrize("name", CASES)
def test_without_a_figure_none_passes_for_verified(name, data, tmp_path) -> None:
    part = opened(CASES[name].content, data, tmp_path / "m.pt")
    (finding,) = [f for f in loader(part, data) if f.severity is Severity.WARN]
    assert not part.figure.verified
    assert finding.values == {"not_verified": 1.0}
    assert unverified(made.audit(findings=[finding])) == [f"The checkpoint is {finding.seen}."]


@pytest.mark.parametrize("shift", [-0.3, 0.3])
def test_a_figure_that_does_not_come_back_blocks_either_way(shift, data, tmp_path) -> None:
    case = CASES["HF Mamba-2, groups 8 stated"]
    _, value = figure(case.network, data.dev, data.bank)
    stored = round(value + shift, 4)
    part = opened(with_figure(case.content, stored), data, tmp_path / "m.pt")
    (finding,) = [f for f in loader(part, data) if f.severity is Severity.BLOCK]
    assert finding.values["stored"] == pytest.approx(stored)
    assert abs(finding.values["recomputed"] - stored) > 0.1
    assert f"{stored:.4f}" in finding.seen
    assert f"{finding.values['recomputed']:.4f}" in finding.seen


def test_what_the_figure_decided_is_said(data, tmp_path) -> None:
    case = CASES["HF Mamba-2, groups 8 stated nowhere"]
    _, value = figure(case.network, data.dev, data.bank)
    part = opened(with_figure(case.content, value), data, tmp_path / "m.pt")
    (finding,) = loader(part, data)
    assert finding.severity is Severity.INFO
    assert "is reproduced on the dev windows with groups 8, gated_norm after_gate" in finding.seen


def test_the_likeliest_way_is_nothing_to_speak_of(data, tmp_path) -> None:
    case = CASES["HF Mamba-2, groups 8 stated"]
    _, value = figure(case.network, data.dev, data.bank)
    part = opened(with_figure(case.content, value), data, tmp_path / "m.pt")
    assert loader(part, data) == []


def test_a_figure_of_the_test_windows_is_recognised(data, tmp_path) -> None:
    case = CASES["HF Mamba-1"]
    _, value = figure(case.network, data.test, data.bank)
    part = opened(with_figure(case.content, value), data, tmp_path / "m.pt")
    assert (part.figure.verified, part.figure.windows) == (True, "test")


def test_a_figure_of_two_decimals_chooses_nothing() -> None:
    assert exact(0.51) is None
    assert exact(0.512) == pytest.approx(5.1e-4)
    assert exact(0.29741) == exact(0.297412345) == 5e-5


# --- refused by name ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ({"ngroups": 3}, "3 groups"),
        ({"pool": "attention"}, "'attention' as the read-out"),
        ({"hidden_act": "gelu"}, "'gelu' as the activation"),
        ({"dt_limit": "narrow"}, "narrow as limits"),
        ({"input_scale": 7.0}, "7.0 as the input's scale"),
    ],
)
def test_what_no_model_here_computes_is_refused(args, named, tmp_path) -> None:
    torch.save({"model_state_dict": weights(hf(2, 8)), "args": args}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=named):
        fit_report_checkpoint(read_report_checkpoint(tmp_path / "m.pt"), W, T)


@pytest.mark.parametrize(
    "name", ["input_norm.weight", "layers.0.norm2.weight", "layers.0.mlp.fc1.weight", "gate.weight"]
)
def test_a_weight_that_has_no_place_here_is_named(name, tmp_path) -> None:
    content = {**weights(hf(1)), name: torch.ones(W)}
    torch.save({"model_state_dict": content}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=f"encoder.{name} is unknown"):
        fit_report_checkpoint(read_report_checkpoint(tmp_path / "m.pt"), W, T)


def test_layers_around_the_network_are_taken(data, tmp_path) -> None:
    model, generator = hf(1), torch.Generator().manual_seed(0)
    into, out = (torch.randn(W, W, generator=generator) / W**0.5 for _ in range(2))
    shift = torch.randn(W, generator=generator)

    def network(contexts: Tensor) -> Tensor:
        hidden = model(inputs_embeds=contexts @ into.T + shift).last_hidden_state[:, -1]
        return F.normalize(hidden @ out.T, dim=-1)

    around = {"input_proj.weight": into, "input_proj.bias": shift, "head.weight": out}
    content = {**weights(model, "backbone."), **around}
    expected, value = figure(network, data.dev, data.bank)
    part = opened(with_figure(content, value), data, tmp_path / "m.pt")
    found, _ = figure(part.predictor.model, data.dev, data.bank)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_the_ways_that_are_open_are_listed_likeliest_first(tmp_path) -> None:
    torch.save({"model_state_dict": weights(hf(2, 8))}, tmp_path / "m.pt")
    ways = ways_to_compute(read_report_checkpoint(tmp_path / "m.pt"), W)
    departures = [way.departures for way in ways]
    assert departures == sorted(departures)
    assert [way.config.form.groups for way in ways if way.departures == 0] == [1, 8, 2, 4]
    assert all(way.config.form.groups * way.config.state == 32 for way in ways)
    assert len({way.config for way in ways}) == len(ways)
