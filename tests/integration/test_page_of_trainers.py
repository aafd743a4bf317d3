"""The script in docs/your-trainer.md is run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import own_trainer
import pytest

from lvm.core.config.read import load_run_config
from lvm.core.config.recipe import Recipe
from lvm.core.config.run import GateConfig
from lvm.jobs.presets import laptop
from lvm.training.own.template import check_trainable
from lvm.triage.arm import ArmSpec
from lvm.triage.own_arm import run_trial
from lvm.triage.step import Role

pytestmark = pytest.mark.integration

PAGE = (Path(__file__).parents[2] / "docs" / "your-trainer.md").read_text()


def block(kind: str) -> str:
    return re.search(rf"```{kind}\n(.*?)```", PAGE, flags=re.S).group(1)


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    """The page's recipe, with its script and file beside it."""
    (tmp_path / "recipe.toml").write_text(block("toml"))
    (tmp_path / "train.py").write_text(block("python"))
    (tmp_path / "vocabulary.txt").write_text("one\n")
    found = load_run_config(tmp_path / "recipe.toml", laptop()).recipe
    return found.with_changes({"training.epochs": 4})


def test_the_script_of_the_page_learns(recipe, tmp_path, tiny_dataset) -> None:
    check_trainable(recipe)
    files = own_trainer.prepared(tmp_path / "run", tmp_path, recipe.trainer)
    assert set(files) == {"train.py", "vocabulary.txt"}
    spec = ArmSpec(
        id="one",
        step="phase_1",
        name="InfoNCE+AR",
        role=Role.PHASE1,
        recipe=recipe,
        folder=tmp_path / "run" / "arms" / "one",
        gates=GateConfig(),
        evaluate_test=True,
    )
    part = run_trial(spec, tiny_dataset)
    next(part)
    part.close()  # pruned, and asked for again
    records = [epoch.record() for epoch in run_trial(spec, tiny_dataset)]
    assert [record["epoch"] for record in records] == [1, 2, 3, 4]
    losses = [record["loss"] for record in records]
    assert losses == sorted(losses, reverse=True)
    assert (spec.folder / "test.json").exists()


def test_the_page_names_every_file_and_place() -> None:
    for name in ("epochs.jsonl", "dev_001.npz", "test.npz", "trainer.log", "{folder}", "{windows}"):
        assert name in PAGE
