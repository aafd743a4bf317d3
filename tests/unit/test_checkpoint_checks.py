from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import pytest
import safetensors.torch
import tiny
import torch
from msgspec import to_builtins

from lvm.audit.check import CHECKS
from lvm.audit.finding import NotEvaluable, Severity
from lvm.audit.lineage import read_lineage
from lvm.audit.loaded import open_checkpoint
from lvm.audit.material import Material, Side
from lvm.audit.own_figure import resolved
from lvm.core.errors import CheckpointError, UnsafePayloadError
from lvm.data.windows import dataset_from_bank
from lvm.models.mamba2 import Mamba2Layer
from lvm.models.predictor import Predictor
from lvm.training.loop import train
from lvm.training.manifest import Stated
from lvm.triage.arm import ArmSpec, run_arm
from lvm.triage.step import Role

W, T = tiny.WIDTH, 5


@pytest.fixture(scope="module")
def data():
    return tiny.dataset()


@pytest.fixture(scope="module", params=["raw", "projected"])
def honest(request, data, tmp_path_factory):
    """A checkpoint that the product trained, searched in either space."""
    recipe = tiny.recipe(search_space=request.param).with_changes({"training.epochs": 1})
    folder = tmp_path_factory.mktemp(request.param)
    spec = ArmSpec(
        id="a",
        step="s",
        name="n",
        role=Role.CONFIRM,
        recipe=recipe,
        folder=folder,
        gates=tiny.config().gates,
        evaluate_test=False,
    )
    list(run_arm(spec, data))
    return folder / "checkpoint"


@pytest.fixture
def folder(honest, tmp_path):
    """A copy that a test may spoil."""
    copy = tmp_path / "checkpoint"
    copy.mkdir()
    for file in honest.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def rewrite(folder, **changes) -> None:
    path = folder / "manifest.json"
    manifest = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in manifest.items() if v != "gone"}))


def look(path, data, width=W, **parts):
    part = open_checkpoint(path, width, T)
    material = Material(checkpoint=part, dataset=data, **parts)
    return list(CHECKS.get("LOADER").findings(material))


def not_evaluable(path, data, **parts) -> str:
    with pytest.raises(NotEvaluable) as caught:
        look(path, data, **parts)
    return str(caught.value)


# --- its own numbers ------------------------------------------------------------------------------


def test_an_honest_checkpoint_raises_nothing(folder, data) -> None:
    assert look(folder, data) == []


def test_another_forward_of_equal_shapes_is_found(folder, data, monkeypatch) -> None:
    forward = Mamba2Layer.forward
    monkeypatch.setattr(
        Mamba2Layer,
        "forward",
        lambda self, u, *, last_only=False: forward(self, u.flip(1), last_only=last_only),
    )
    findings = look(folder, data)
    assert {f.severity for f in findings} == {Severity.BLOCK}
    assert "8 fixed inputs" in findings[0].seen
    assert findings[0].values["probe_difference"] > 1e-4
    assert findings[0].where["of"] == 8
    assert findings[0].where["input"] == "checkpoint"


def test_a_small_step_beyond_the_tolerance_of_one_probe_is_found(folder, data) -> None:
    outputs = json.loads((folder / "manifest.json").read_text())["probe_outputs"]
    outputs[5][2] += 2e-4
    rewrite(folder, probe_outputs=outputs)
    (finding,) = look(folder, data)
    assert (finding.where["count"], finding.where["rows"]) == (1, [5])
    outputs[5][2] -= 1.5e-4
    rewrite(folder, probe_outputs=outputs)
    assert look(folder, data) == []


@pytest.mark.parametrize(("shift", "found"), [(0.015, True), (-0.015, True), (0.008, False)])
def test_a_val_cosine_that_is_not_its_own_is_found(shift, found, folder, data) -> None:
    stored = json.loads((folder / "manifest.json").read_text())["val_cosine"]
    rewrite(folder, val_cosine=stored + shift)
    findings = look(folder, data)
    assert [f.severity for f in findings] == [Severity.BLOCK] * found
    if found:
        assert findings[0].values["recomputed"] == pytest.approx(stored, abs=1e-5)
        assert findings[0].values["difference"] == pytest.approx(0.015, abs=1e-5)


def test_weights_that_are_no_numbers_are_found(folder, data) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    safetensors.torch.save_file(
        {n: torch.full_like(w, torch.nan) for n, w in weights.items()}, folder / "model.safetensors"
    )
    findings = look(folder, data)
    assert len(findings) == 2
    assert all(f.severity is Severity.BLOCK for f in findings)
    assert all(np.isfinite(list(f.values.values())).all() for f in findings)


def test_a_sample_of_a_large_dev_split_is_judged_with_its_error(folder, data, monkeypatch) -> None:
    monkeypatch.setattr("lvm.audit.own_numbers.SAMPLE", 12)
    assert look(folder, data) == []
    rewrite(folder, val_cosine=2.0)
    (finding,) = look(folder, data)
    assert (finding.where["count"], finding.where["of"]) == (12, len(data.dev))


def test_a_finding_on_outputs_does_not_hide_the_cosine(folder, data) -> None:
    rewrite(folder, val_cosine=0.9999, probe_outputs=[[9.0] * 8] * 8)
    assert ["val cosine" in f.seen for f in look(folder, data)] == [False, True]


# --- what it cannot be held against ---------------------------------------------------------------


def test_no_checkpoint_is_not_a_pass() -> None:
    with pytest.raises(NotEvaluable, match="no checkpoint was given"):
        list(CHECKS.get("LOADER").look(Material()))


def test_missing_parts_are_named(folder, data) -> None:
    assert "not available" in not_evaluable(folder, None)
    rewrite(folder, val_cosine="gone")
    assert "no val_cosine" in not_evaluable(folder, data)
    rewrite(folder, probe_outputs="gone")
    text = not_evaluable(folder, data)
    assert "no probe outputs" in text
    assert "no val_cosine" in text


def test_other_windows_are_not_compared(folder, data) -> None:
    fewer = dataclasses.replace(data, dev=data.dev.select(np.arange(len(data.dev) - 3)))
    rewrite(folder, val_cosine=0.99)
    assert "windows other than" in not_evaluable(folder, fewer)


def test_other_vectors_behind_equal_row_numbers_are_not_blamed_on_the_loader(folder, data) -> None:
    other = tiny.dataset(tiny.bank(seed=5))
    assert np.array_equal(other.dev.targets, data.dev.targets)
    assert "trained on data" in not_evaluable(folder, other)


def test_another_width_is_a_misfit(folder) -> None:
    (finding,) = look(folder, None, width=24)
    assert finding.severity is Severity.BLOCK
    assert "width 16, but the data have width 24" in finding.seen


def test_other_names_are_a_misfit(folder, data) -> None:
    recipe = json.loads((folder / "manifest.json").read_text())["recipe"]
    recipe["model"]["num_layers"] = 2
    rewrite(folder, recipe=recipe)
    (finding,) = look(folder, data)
    assert "weights differ in name or shape" in finding.seen
    recipe["model"]["name"] = "mamba9"
    rewrite(folder, recipe=recipe)
    (finding,) = look(folder, data)
    assert "mamba9" in finding.seen


def test_an_unreadable_folder_is_an_error(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        open_checkpoint(tmp_path / "none", W, T)


def test_contexts_of_another_length_are_warned_of(folder, data) -> None:
    windows = dataset_from_bank(data.bank, 4).dev
    side = Side("eval", "bank", bank=data.bank, windows=windows)
    (finding,) = look(folder, data, eval=side)
    assert finding.severity is Severity.WARN
    assert "contexts of 5 vectors, but the data have 4" in finding.seen


# --- the report's .pt -----------------------------------------------------------------------------


def as_pt(folder, path, **more):
    predictor = open_checkpoint(folder, W, T).predictor
    content = {
        "model_state_dict": predictor.model.state_dict(),
        "projection_head_state_dict": predictor.head.state_dict(),
        "args": {"batch_size": 256, "grad_accum": 4},
        **more,
    }
    torch.save(content, path)
    return path


def test_a_pt_file_that_states_no_figure_is_not_verified(folder, data, tmp_path) -> None:
    (finding,) = look(as_pt(folder, tmp_path / "n.pt"), data)
    assert finding.severity is Severity.WARN
    assert finding.values == {"not_verified": 1.0}
    assert "it stores no validation cosine" in finding.seen
    (finding,) = look(as_pt(folder, tmp_path / "m.pt", val_cosine=0.5), None)
    assert "are not available" in finding.seen


@pytest.mark.parametrize("stored", [0.999, -0.999])
def test_a_pt_file_whose_figure_does_not_come_back_blocks(stored, folder, data, tmp_path) -> None:
    (finding,) = look(as_pt(folder, tmp_path / "m.pt", val_cosine=stored), data)
    assert finding.severity is Severity.BLOCK
    assert finding.values["stored"] == stored
    assert f"{stored:.4f}" in finding.seen


@pytest.mark.parametrize("shift", [0.05, -0.05])
def test_a_figure_that_other_windows_would_explain_is_not_verified(
    shift, folder, data, tmp_path
) -> None:
    here = look_at_figure(as_pt(folder, tmp_path / "m.pt", val_cosine=0.5), data)
    (finding,) = look(as_pt(folder, tmp_path / "n.pt", val_cosine=here + shift), data)
    assert (finding.severity, finding.values["not_verified"]) == (Severity.WARN, 1.0)


def test_a_pt_file_that_names_its_windows_is_held_to_them(folder, data, tmp_path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    known = {"val_ids_sha256": manifest["val_ids_sha256"]}
    here = look_at_figure(as_pt(folder, tmp_path / "m.pt", val_cosine=0.5, **known), data)
    path = as_pt(folder, tmp_path / "n.pt", val_cosine=here + 0.012, **known)
    (finding,) = look(path, data)
    assert finding.severity is Severity.BLOCK
    assert finding.values["difference"] == pytest.approx(0.012, abs=1e-4)
    assert look(as_pt(folder, tmp_path / "o.pt", val_cosine=here + 0.008, **known), data) == []


def look_at_figure(path, data) -> float:
    """The cosine on the dev windows, as the check computes it."""
    return resolved(open_checkpoint(path, W, T), Material(dataset=data)).figure.here


def test_a_pt_file_with_other_names_blocks(folder, data, tmp_path) -> None:
    weights = open_checkpoint(folder, W, T).predictor.model.state_dict()
    other = {name.replace("A_log", "rates"): w for name, w in weights.items()}
    (finding,) = look(as_pt(folder, tmp_path / "m.pt", model_state_dict=other), data)
    assert finding.severity is Severity.BLOCK
    assert "fits no registered model" in finding.seen


def test_a_pt_file_with_a_foreign_class_says_what_was_left_out(folder, data, tmp_path) -> None:
    path = as_pt(folder, tmp_path / "m.pt", args={"gate": Severity.WARN})
    (finding,) = [f for f in look(path, data) if "left out" in f.seen]
    assert finding.severity is Severity.INFO
    assert "lvm.audit.finding.Severity" in finding.seen


def test_a_pt_file_that_names_what_runs_is_an_error(folder, tmp_path) -> None:
    path = as_pt(folder, tmp_path / "m.pt", args={"run": os.system})
    with pytest.raises(UnsafePayloadError, match=r"names (posix|nt)\.system"):
        open_checkpoint(path, W, T)


# --- lineage --------------------------------------------------------------------------------------


def child_of(*parents, articles=(1,)):
    return Stated(articles_seen=list(articles), parents=list(parents))


def stated(manifest, folder) -> set[int]:
    """The articles that all manifests of a line name."""
    line = read_lineage(manifest, folder).manifests
    return {article for _, one in line for article in one.articles_seen}


def write_manifest(folder, **manifest):
    folder.mkdir()
    recipe = {"recipe": {}, "width": W}
    (folder / "manifest.json").write_text(json.dumps({**recipe, **manifest}))
    return folder


def test_the_articles_of_all_ancestors_are_gathered(tmp_path) -> None:
    write_manifest(tmp_path / "grand", **to_builtins(child_of(articles=[7])))
    parent = write_manifest(
        tmp_path / "parent", **to_builtins(child_of("../grand", articles=[5, 6]))
    )
    manifest = child_of(str(parent), child_of(articles=[9]), articles=[1])
    assert stated(manifest, tmp_path / "me") == {1, 5, 6, 7, 9}


def test_parents_in_a_circle_end(tmp_path) -> None:
    write_manifest(tmp_path / "a", **to_builtins(child_of("b", articles=[1])))
    write_manifest(tmp_path / "b", **to_builtins(child_of("a", articles=[2])))
    assert stated(child_of("b"), tmp_path / "a") == {1, 2}


def test_a_parent_without_words_is_named(tmp_path) -> None:
    write_manifest(tmp_path / "mute", parents=[])
    (tmp_path / "junk.pt").write_bytes(b"junk")
    manifest = child_of("gone", "mute", "junk.pt", "x" * 5000)
    lineage = read_lineage(manifest, tmp_path / "me")
    assert [name for name, _ in lineage.manifests] == ["the checkpoint"]
    assert lineage.unread["gone"] == "there is no such file"
    assert "does not say" in lineage.unread["mute"]
    assert "not a zip file" in lineage.unread["junk.pt"]
    assert len(lineage.unread) == 4


def test_an_unread_parent_is_a_warning_of_the_loader(folder, data) -> None:
    rewrite(folder, parents=["gone"])
    (finding,) = look(folder, data)
    assert finding.severity is Severity.WARN
    assert (
        "1 parents of the checkpoint do not say what they have read (gone: there is no such file)"
        in finding.seen
    )


def test_training_states_what_it_saw(data, tmp_path) -> None:
    recipe = tiny.recipe().with_changes({"training.epochs": 1})
    list(train(recipe, data, tmp_path, validate=lambda p, e: {"eval_cosine": 0.0}))
    part = open_checkpoint(tmp_path / "checkpoint", W, T)
    expected = set(np.unique(data.train.articles).tolist())
    assert stated(part.manifest, part.path) == expected


def test_a_pt_file_alone_is_looked_at_in_its_own_width(tmp_path) -> None:
    """Without data there is no width to ask for, and none to blame the file with."""
    predictor = Predictor(tiny.recipe(), W)
    torch.save({"model_state_dict": predictor.model.state_dict(), "args": {}}, tmp_path / "m.pt")
    part = open_checkpoint(tmp_path / "m.pt", None, 5)
    assert part.problem == ""
    assert part.predictor is not None


def test_a_lineage_that_is_not_stated_never_counts_as_disjoint(data, tmp_path) -> None:
    predictor = Predictor(tiny.recipe(), W)
    torch.save({"model_state_dict": predictor.model.state_dict(), "args": {}}, tmp_path / "m.pt")
    bank = data.bank
    material = Material(
        train=Side("train", "bank", bank=bank, windows=data.train),
        eval=Side("eval", "bank", bank=bank, windows=data.test),
        bank=bank,
        checkpoint=open_checkpoint(tmp_path / "m.pt", W, T),
    )
    with pytest.raises(NotEvaluable, match="which articles"):
        list(CHECKS.get("SPLIT_LEAK").look(material))
