"""The choice of a layer's form: by measurement, made once, kept, and nothing else changed by it."""

from __future__ import annotations

import json
import logging
import time

import pytest
import torch

from lvm.core import compiled
from lvm.core.config.recipe import ModelConfig
from lvm.core.errors import ConfigError
from lvm.models import forms
from lvm.models.mamba2 import Mamba2Layer
from lvm.models.mamba2_block import FUSED, resolve_backend


class Layer:
    """Counts the calls of one form and takes its time over each."""

    def __init__(self, seconds=0.0, error=None):
        self.seconds, self.error, self.calls = seconds, error, 0

    def __call__(self, u):
        self.calls += 1
        if self.error:
            raise self.error
        time.sleep(self.seconds)
        return u * WEIGHT + torch.rand(u.shape)


WEIGHT = torch.ones(3, requires_grad=True)


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    monkeypatch.setattr(forms, "_chosen", {})
    monkeypatch.setattr(forms, "SECONDS", 0.02)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "lvm" / "forms.json"


def choose(ways, about="2x5x3"):
    return forms.choose(about, ways, torch.zeros(2, 3), [WEIGHT])


@pytest.mark.parametrize("fastest", ["kernel", "dual"])
def test_the_fastest_form_is_chosen_and_named_once(fastest, caplog, fresh) -> None:
    ways = {name: Layer(0.0 if name == fastest else 0.01) for name in ("kernel", "dual")}
    caplog.set_level(logging.INFO)
    assert [choose(ways) for _ in range(3)] == [fastest] * 3
    assert len(caplog.records) == 1
    assert f"use the {fastest} form" in caplog.records[0].message
    assert list(json.loads(fresh.read_text()).values()) == [fastest]
    assert choose(ways, "4x5x3")
    assert len(json.loads(fresh.read_text())) == 2  # another shape is another question


def test_another_process_takes_the_answer_from_the_cache(monkeypatch, fresh) -> None:
    assert choose({"kernel": Layer(), "dual": Layer(0.01)}) == "kernel"
    monkeypatch.setattr(forms, "_chosen", {})
    ways = {"kernel": Layer(0.01), "dual": Layer()}
    assert choose(ways) == "kernel"
    assert ways["kernel"].calls == ways["dual"].calls == 0
    monkeypatch.setattr(forms, "_chosen", {})
    assert choose({"compiled": Layer(0.01), "dual": Layer()}) == "dual"  # the kernel is gone


@pytest.mark.parametrize("text", ["", "[]", "{", '{"x": {"y": 1}}'])
def test_a_broken_cache_is_measured_again(text, fresh) -> None:
    fresh.parent.mkdir()
    fresh.write_text(text)
    assert choose({"kernel": Layer(), "dual": Layer(0.01)}) == "kernel"
    assert "kernel" in json.loads(fresh.read_text()).values()


def test_without_a_cache_folder_the_process_remembers(monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    ways = {"kernel": Layer(), "dual": Layer(0.01)}
    assert choose(ways) == "kernel"
    calls = ways["dual"].calls
    assert choose(ways) == "kernel"
    assert ways["dual"].calls == calls


def test_a_form_that_fails_is_named_and_left_out(caplog) -> None:
    ways = {"kernel": Layer(error=RuntimeError("no ptxas\nand a trace")), "dual": Layer()}
    assert choose(ways) == "dual"
    (record,) = (r for r in caplog.records if r.levelno == logging.WARNING)
    assert record.message == "No kernel form of a layer (RuntimeError: no ptxas)."
    assert choose({name: Layer(error=ValueError("x")) for name in ways}, "all fail") == "dual"


def test_what_the_compiler_gave_up_is_not_chosen(monkeypatch) -> None:
    monkeypatch.setattr(compiled, "_refused", {"why": "x"})
    assert choose({"compiled": Layer(), "dual": Layer(0.01)}) == "dual"


def test_nothing_is_timed_where_there_is_one_form() -> None:
    ways = {"dual": Layer()}
    assert choose(ways) == "dual"
    assert ways["dual"].calls == 0


def test_the_choice_leaves_no_gradient_and_no_draw_behind() -> None:
    before = torch.get_rng_state()
    with torch.no_grad():
        choose({"kernel": Layer(), "dual": Layer()})
    assert torch.equal(torch.get_rng_state(), before)
    assert WEIGHT.grad is None


@pytest.mark.parametrize("backend", FUSED)
def test_a_fused_backend_is_for_cuda_and_short_windows(backend, shapes_checked_before) -> None:
    cuda = torch.device("cuda")
    assert resolve_backend(backend, 16, cuda) == backend
    with pytest.raises(ConfigError, match="got cuda and 17"):
        resolve_backend(backend, 17, cuda)
    layer = Mamba2Layer(ModelConfig(hidden=16, state=8, head_dim=8, backend=backend))
    with pytest.raises(ConfigError, match="got cpu and 5"):
        layer(torch.zeros(2, 5, 16))


def test_a_kernel_that_was_asked_for_is_never_replaced_in_silence(monkeypatch) -> None:
    config = ModelConfig(hidden=16, state=24, head_dim=8, backend="kernel")
    monkeypatch.setattr(Mamba2Layer, "_is_fused", lambda self, u: True)
    with pytest.raises(ConfigError, match="'kernel' cannot be used: "):
        Mamba2Layer(config)(torch.zeros(2, 5, 16))
