from __future__ import annotations

import sys

import pytest

from lvm.core.errors import ConfigError
from lvm.core.registry import Registry, closest
from lvm.models.base import MODELS
from lvm.triage.step import STEPS


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package whose modules register parts in a registry of their own."""
    folder = tmp_path / "parts_of_a_test"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from lvm.core.registry import Registry\nPARTS = Registry('part', __name__)\n"
    )
    for name in ("beta", "alpha"):
        (folder / f"{name}.py").write_text(
            f"from parts_of_a_test import PARTS\nPARTS.register('{name}')('part {name}')\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    import parts_of_a_test

    yield parts_of_a_test
    for name in [n for n in sys.modules if n.startswith("parts_of_a_test")]:
        del sys.modules[name]


def test_parts_are_found_by_file_and_only_when_asked_for(package) -> None:
    assert "parts_of_a_test.alpha" not in sys.modules
    assert package.PARTS.get("alpha") == "part alpha"
    assert package.PARTS.names() == ["alpha", "beta"]
    assert list(package.PARTS) == ["part alpha", "part beta"]


def test_an_unknown_name_is_answered_with_the_known_ones(package) -> None:
    with pytest.raises(
        ConfigError, match=r"unknown part 'alfa' \(did you mean alpha\?\); known: alpha, beta\."
    ):
        package.PARTS.get("alfa")


def test_a_name_is_given_once(package) -> None:
    package.PARTS.register("gamma")("one")
    with pytest.raises(ConfigError, match="two parts are named 'gamma', from"):
        package.PARTS.register("gamma")("two")
    assert package.PARTS.get("gamma") == "one"


def test_register_returns_what_it_files() -> None:
    registry: Registry[object] = Registry("part", "lvm.losses")
    part = object()
    assert registry.register("x")(part) is part


def test_closest() -> None:
    assert closest("temprature", ["temperature", "space"]) == " (did you mean temperature?)"
    assert closest("zzz", ["temperature"]) == ""


def test_the_registries_of_the_project_hold_what_their_folders_hold() -> None:
    assert {"mamba2", "gru", "transformer", "two_tower"} <= set(MODELS.names())
    assert {
        "projection_head",
        "temperature",
        "contrastive_weight",
        "negatives",
        "anchor_mmd",
    } <= set(STEPS.names())
