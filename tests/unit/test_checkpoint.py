from __future__ import annotations

import json
import os
import pickle

import pytest
import safetensors.torch
import tiny
import torch

from lvm.core.errors import CheckpointError
from lvm.models.predictor import Predictor
from lvm.training import checkpoint
from lvm.training.checkpoint import (
    load_checkpoint,
    load_optimizer_state,
    load_weights,
    read_manifest,
    save_checkpoint,
)
from lvm.training.manifest import Stated

RECIPE = tiny.recipe()


def save(folder, *, epoch=1, seed=0, optimizer=None):
    recipe = RECIPE.with_changes({"seed": seed})
    predictor = Predictor(recipe, tiny.WIDTH)
    stated = Stated(epoch=epoch)
    save_checkpoint(folder, predictor, recipe, stated=stated, optimizer_state=optimizer)
    return predictor


def hidden_names(folder):
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("."))


def test_round_trip(tmp_path) -> None:
    saved = save(tmp_path / "c", epoch=3)
    loaded, recipe, manifest = load_checkpoint(tmp_path / "c")
    assert recipe == RECIPE
    assert (manifest.epoch, manifest.width, manifest.format) == (3, tiny.WIDTH, 1)
    for name, tensor in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert not loaded.training
    contexts = torch.nn.functional.normalize(torch.randn(4, 5, tiny.WIDTH), dim=-1)
    saved.eval()
    for space in ("raw", "projected"):
        assert torch.equal(loaded.queries(contexts, space), saved.queries(contexts, space))


def test_optimizer_state_round_trip(tmp_path) -> None:
    predictor = Predictor(RECIPE, tiny.WIDTH)
    optimizer = torch.optim.AdamW(predictor.parameters())
    sum(p.sum() for p in predictor.parameters()).backward()
    optimizer.step()
    save(tmp_path / "c", optimizer={"optimizer": optimizer.state_dict()})
    loaded = load_optimizer_state(tmp_path / "c")["optimizer"]
    wanted = optimizer.state_dict()
    assert loaded["param_groups"] == wanted["param_groups"]
    for number, state in wanted["state"].items():
        assert all(torch.equal(loaded["state"][number][k], v) for k, v in state.items())


def test_saving_leaves_the_model_in_the_mode_it_was_in(tmp_path) -> None:
    assert save(tmp_path / "c").training


def test_the_newer_checkpoint_replaces_the_older_without_leftovers(tmp_path) -> None:
    save(tmp_path / "c", epoch=1)
    save(tmp_path / "c", epoch=2, seed=1)
    assert read_manifest(tmp_path / "c").epoch == 2
    assert hidden_names(tmp_path) == []


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("left_by_an_earlier_kill", [False, True])
def test_a_kill_at_a_rename_leaves_a_whole_checkpoint(
    nth, left_by_an_earlier_kill, tmp_path, monkeypatch
) -> None:
    """The folder is renamed to .old, the new one into its place; a kill may hit before each."""
    folder = tmp_path / "c"
    save(folder, epoch=1)
    if left_by_an_earlier_kill:
        folder.rename(tmp_path / ".c.old")
    real, count = os.replace, 0

    def killed(source, target):
        nonlocal count
        count += 1
        if count == nth:
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "replace", killed)
        if left_by_an_earlier_kill and nth == 2:
            save(folder, epoch=2, seed=1)  # there is one rename only
        else:
            with pytest.raises(KeyboardInterrupt):
                save(folder, epoch=2, seed=1)
    _, _, manifest = load_checkpoint(folder)
    assert manifest.epoch == (2 if left_by_an_earlier_kill and nth == 2 else 1)
    save(folder, epoch=3)
    assert load_checkpoint(folder)[2].epoch == 3
    assert hidden_names(tmp_path) == []


def test_an_unfinished_checkpoint_is_never_read(tmp_path, monkeypatch) -> None:
    save(tmp_path / "c", epoch=1)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.torch, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path / "c", epoch=2, seed=1, optimizer={"a": 1})
    assert load_checkpoint(tmp_path / "c")[2].epoch == 1


def change_weights(folder, change) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    change(weights)
    safetensors.torch.save_file(weights, folder / "model.safetensors")


def test_weights_that_were_tampered_with_do_not_give_back_the_probe_outputs(tmp_path) -> None:
    save(tmp_path / "c")

    def tamper(weights):
        name = next(n for n in sorted(weights) if n.endswith("out_proj.weight"))
        weights[name] = weights[name] * 1.5

    change_weights(tmp_path / "c", tamper)
    with pytest.raises(CheckpointError, match="does not reproduce its own probe outputs"):
        load_checkpoint(tmp_path / "c")


def test_weights_that_are_not_finite_are_refused(tmp_path) -> None:
    save(tmp_path / "c")
    change_weights(tmp_path / "c", lambda w: [t.fill_(torch.nan) for t in w.values()])
    with pytest.raises(CheckpointError, match="probe outputs"):
        load_checkpoint(tmp_path / "c")


def test_differing_names_and_shapes_are_named(tmp_path) -> None:
    save(tmp_path / "c")
    change_weights(tmp_path / "c", lambda w: w.update(aaa_stranger=torch.zeros(1)))
    with pytest.raises(CheckpointError, match=r"1 weights differ.*aaa_stranger"):
        load_checkpoint(tmp_path / "c")
    change_weights(tmp_path / "c", lambda w: w.pop("aaa_stranger"))
    load_checkpoint(tmp_path / "c")
    change_weights(tmp_path / "c", lambda w: w.update({"head.net.0.bias": torch.zeros(3)}))
    with pytest.raises(CheckpointError, match=r"head\.net\.0\.bias"):
        load_checkpoint(tmp_path / "c")
    other = Predictor(RECIPE.with_changes({"model.hidden": 16}), tiny.WIDTH)
    with pytest.raises(CheckpointError, match="differ in name or shape"):
        load_weights(other, tmp_path / "c")


class Malice:
    def __init__(self, command) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_a_malicious_state_is_not_executed(writer, tmp_path) -> None:
    save(tmp_path / "c")
    trace = tmp_path / "executed"
    bad = {"optimizer": Malice(f"touch {trace}")}
    path = tmp_path / "c" / "state.pt"
    if writer == "pickle":
        path.write_bytes(pickle.dumps(bad, protocol=2))
    else:
        torch.save(bad, path)
    with pytest.raises(CheckpointError, match="training cannot resume"):
        load_optimizer_state(tmp_path / "c")
    load_checkpoint(tmp_path / "c")  # needs no state
    assert not trace.exists()
    pickle.loads(pickle.dumps(bad))  # the payload is a real one
    assert trace.exists()


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"junk"])
def test_a_damaged_state_is_named(damage, tmp_path) -> None:
    save(tmp_path / "c", optimizer={"optimizer": {"a": torch.ones(100)}})
    path = tmp_path / "c" / "state.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"state\.pt is missing or unreadable"):
        load_optimizer_state(tmp_path / "c")


def test_a_missing_state_is_named(tmp_path) -> None:
    save(tmp_path / "c")
    with pytest.raises(CheckpointError, match=r"state\.pt is missing"):
        load_optimizer_state(tmp_path / "c")


def test_what_is_no_checkpoint_is_refused_in_words(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_checkpoint(tmp_path)
    assert read_manifest(tmp_path) is None
    folder = tmp_path / "c"
    save(folder)
    (folder / "model.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load_checkpoint(folder)
    for text, message in (("{", "cannot be read"), ("[]", "no recipe"), ('{"a": 1}', "no recipe")):
        (folder / "manifest.json").write_text(text)
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(folder)


def test_a_manifest_that_an_editor_marked_is_read(tmp_path) -> None:
    save(tmp_path / "c")
    path = tmp_path / "c" / "manifest.json"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert load_checkpoint(tmp_path / "c")[2] == read_manifest(tmp_path / "c")


def test_a_recipe_of_another_version_is_a_checkpoint_error(tmp_path) -> None:
    save(tmp_path / "c")
    path = tmp_path / "c" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["recipe"]["model"]["novelty"] = 1
    path.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="novelty"):
        load_checkpoint(tmp_path / "c")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("width",), 10**12),
        (("width",), 0),
        (("width",), -5),
        (("recipe", "model", "hidden"), 10**9),
        (("recipe", "model", "num_layers"), 10**7),
    ],
)
def test_sizes_that_are_not_those_of_the_weights_ask_for_no_memory(path, value, tmp_path) -> None:
    save(tmp_path / "c")
    file = tmp_path / "c" / "manifest.json"
    manifest = json.loads(file.read_text())
    part = manifest
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    file.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="use the recipe it was trained with"):
        load_checkpoint(tmp_path / "c")
