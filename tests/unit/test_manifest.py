"""The manifest of a checkpoint: its layout on disk, and what is refused with which words."""

from __future__ import annotations

import json
from pathlib import Path

import fuzz_journal as fuzz
import msgspec
import pytest
import tiny
import torch

from lvm.core.config.plain import to_dict
from lvm.core.errors import CheckpointError
from lvm.core.packages import VERSION
from lvm.models.predictor import Predictor
from lvm.training.checkpoint import load_checkpoint, probe_outputs, read_manifest, save_checkpoint
from lvm.training.loop import train
from lvm.training.manifest import Manifest, Stated, TextSeen, read, stated_in
from lvm.training.report_checkpoint import read_report_checkpoint
from lvm.training.report_fit import fitted_manifest

REQUIRED = ("recipe", "width")
FREE = ("recipe",)  # of every form within: a recipe has its own errors


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    recipe = tiny.recipe(**{"training.epochs": 1})
    validate = {"eval_cosine": 0.25}
    list(train(recipe, tiny.dataset(), folder, validate=lambda p, e: validate, parents=["p"]))
    return folder / "checkpoint"


def content(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def test_the_layout_on_disk_is_that_of_format_1(tmp_path: Path) -> None:
    recipe = tiny.recipe()
    predictor = Predictor(recipe, tiny.WIDTH)
    stated = Stated(
        epoch=2,
        recipe_id="r",
        data="d",
        bank="b",
        articles_seen=[1, 2],
        text_seen=msgspec.convert({"width": 16, "articles": "", "codes": ""}, TextSeen),
        parents=[],
        commit=None,
        seed=3,
        val_cosine=float("nan"),
        val_ids_sha256="h",
        val_articles=[(1, 2)],
    )
    save_checkpoint(tmp_path / "c", predictor, recipe, stated=stated)
    layout = {
        "format": 1,
        "lvm": VERSION,
        "recipe": to_dict(recipe),
        "probe_outputs": probe_outputs(predictor, recipe.context_length, tiny.WIDTH),
        "width": tiny.WIDTH,
        "epoch": 2,
        "recipe_id": "r",
        "data": "d",
        "bank": "b",
        "articles_seen": [1, 2],
        "text_seen": {"width": 16, "articles": "", "codes": ""},
        "parents": [],
        "commit": None,
        "seed": 3,
        "val_cosine": float("nan"),
        "val_ids_sha256": "h",
        "val_articles": [[1, 2]],
    }
    text = (tmp_path / "c" / "manifest.json").read_text()
    assert text == json.dumps(layout, indent=1) + "\n"


def test_the_layout_of_a_copy_of_a_pt_file(tmp_path: Path) -> None:
    recipe = tiny.recipe()
    predictor = Predictor(recipe, tiny.WIDTH)
    stated = {
        "args": {"tau": 0.1, "resume": "old.pt", "more": {"a": [1, None]}},
        "articles_seen": [1, 2],
        "bank": "b",
        "data": "d",
        "val_ids_sha256": "h",
    }
    torch.save({"model_state_dict": predictor.model.state_dict(), **stated}, tmp_path / "m.pt")
    found = fitted_manifest(read_report_checkpoint(tmp_path / "m.pt"))
    save_checkpoint(tmp_path / "c", predictor, recipe, stated=found)
    layout = {
        "format": "report",
        "lvm": VERSION,
        "recipe": to_dict(recipe),
        "probe_outputs": probe_outputs(predictor, recipe.context_length, tiny.WIDTH),
        "args": {**stated["args"], "a": [1, None]},
        "val_cosine": None,
        "epoch": None,
        "parents": ["old.pt"],
        **{key: stated[key] for key in ("articles_seen", "bank", "data", "val_ids_sha256")},
        "width": tiny.WIDTH,
    }
    text = (tmp_path / "c" / "manifest.json").read_text()
    assert json.loads(text) == layout
    assert list(json.loads(text)) == list(layout)
    load_checkpoint(tmp_path / "c")


def test_what_a_training_writes_is_read_and_written_the_same(trained: Path) -> None:
    manifest = read_manifest(trained)
    assert isinstance(manifest, Manifest)
    assert manifest.to_json() == (trained / "manifest.json").read_text()
    assert set(content(trained)) == set(msgspec.to_builtins(manifest))


def test_a_manifest_without_a_key_is_told_or_refused(trained: Path, tmp_path: Path) -> None:
    for path, _ in fuzz.places(content(trained), frozenset()):
        if any(type(part) is int for part in path) or (len(path) > 1 and path[0] in FREE):
            continue
        changed = fuzz.changed(content(trained), path, fuzz.GONE)
        if path[0] in REQUIRED or len(path) > 1:
            assert f"has no {'.'.join(path)};" in refusal(changed, tmp_path)
        else:
            assert getattr(read(put(changed, tmp_path)), path[0]) in (None, msgspec.UNSET)


def test_a_key_of_another_type_is_refused_by_name(trained: Path, tmp_path: Path) -> None:
    refused = 0
    for path, _ in fuzz.places(content(trained), frozenset()):
        if len(path) > 1 and (path[0] in FREE or any(type(p) is int and p > 1 for p in path)):
            continue
        for value in fuzz.VALUES:
            changed = fuzz.changed(content(trained), path, value)
            said = refusal_or_none(changed, tmp_path)
            if said is not None:
                refused += 1
                assert said.startswith(f"{tmp_path}/manifest.json has ")
                assert str(path[0]) in said
    assert refused > 300


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("recipe", [], "has a wrong recipe (Expected `object`, got `array`)"),
        ("width", "16", "has a wrong width (Expected `int`, got `str`)"),
        ("width", 16.0, "has a wrong width (Expected `int`, got `float`)"),
        ("width", True, "has a wrong width (Expected `int`, got `bool`)"),
        ("epoch", -1, "has a wrong epoch (Expected `int` >= 0)"),
        ("format", 2, "has a wrong format (Invalid enum value 2)"),
        ("text_seen", {"width": 16}, "has no text_seen.articles"),
        ("parents", ["a", 3], "has a wrong parents[1] (Expected `str | object`, got `int`)"),
        ("parents", [{"seed": "a"}], "has a wrong parents[0].seed"),
        ("articles_seen", [1, "2"], "has a wrong articles_seen[1] (Expected `int`, got `str`)"),
        ("val_articles", [[1, 2, 3]], "has a wrong val_articles[0]"),
        ("probe_outputs", [["a"]], "has a wrong probe_outputs[0][0]"),
    ],
)
def test_a_refusal_is_one_sentence(key, value, words, trained: Path, tmp_path: Path) -> None:
    said = refusal({**content(trained), key: value}, tmp_path)
    assert said.startswith(f"{tmp_path}/manifest.json {words}")
    assert said.endswith("; give a checkpoint folder that lvm wrote.")


@pytest.mark.parametrize(("key", "words"), [("epoch", "no epoch"), ("data", "another data")])
def test_a_training_does_not_resume_from_half_a_manifest(key, words, trained: Path) -> None:
    file = trained / "manifest.json"
    whole = file.read_text()
    file.write_text(json.dumps({k: v for k, v in json.loads(whole).items() if k != key}))
    recipe = tiny.recipe(**{"training.epochs": 1})
    try:
        with pytest.raises(CheckpointError, match=words):
            list(train(recipe, tiny.dataset(), trained.parent, validate=lambda p, e: {}))
    finally:
        file.write_text(whole)


def test_a_pt_file_states_what_has_our_form() -> None:
    odd = {
        "articles_seen": [1, "2", 2.5, None, 3],
        "bank": 5,
        "parents": [3, {"id": 4, "seed": ""}],
    }
    found = stated_in({**odd, "text_seen": {"width": 3}, "tea": 1, "val_cosine": "high"})
    parents = ["3", Stated(id=4)]
    assert found == Stated(articles_seen=[1, 3], parents=parents)
    assert stated_in({"parents": "old.pt"}) == Stated(parents=["old.pt"])
    assert stated_in({"articles_seen": "all", "parents": None}) == Stated()


def put(changed: dict, folder: Path) -> Path:
    path = folder / "manifest.json"
    path.write_text(json.dumps(changed))
    return path


def refusal_or_none(changed: dict, folder: Path) -> str | None:
    try:
        read(put(changed, folder))
    except CheckpointError as refused:
        return str(refused)
    return None


def refusal(changed: dict, folder: Path) -> str:
    said = refusal_or_none(changed, folder)
    assert said is not None
    return said
