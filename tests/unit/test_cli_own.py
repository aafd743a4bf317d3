"""`lvm windows` and `lvm init-trainer`."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest
import tiny

from lvm import cli
from lvm.core.command import run_command
from lvm.core.config.read import load_run_config
from lvm.core.errors import DataError
from lvm.data.files import write_bank
from lvm.data.window_files import window_ids
from lvm.data.windows import drawn
from lvm.evaluation.predictions import predictions_of
from lvm.jobs.presets import laptop
from lvm.training.own.code import code_of
from lvm.training.own.template import check_trainable


@pytest.fixture
def bank(tmp_path):
    found = tiny.bank()
    write_bank(tmp_path / "bank", found.vectors, found.keys, {})
    return tmp_path / "bank"


def test_the_windows_are_those_that_a_triage_judges(bank, tmp_path, capsys) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text("[gates]\ndev_windows = 8\n")
    out = tmp_path / "windows"
    flags = ["--data", str(bank), "--recipe", str(recipe), "--out", str(out)]
    assert run_command(cli.main, ["windows", *flags]) == 0
    dataset = drawn(tiny.dataset(), 8, 0)
    for split in ("train", "dev", "test"):
        with np.load(out / f"{split}.npz") as found:
            assert np.array_equal(found["ids"], window_ids(dataset, split))
    assert "--predictions P.npz" in capsys.readouterr().out
    assert run_command(cli.main, ["windows", *flags]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_predictions_for_written_windows_are_known_by_their_ids(tmp_path) -> None:
    dataset = tiny.dataset()
    rows = dataset.bank.rows(dataset.test.contexts[:, -1])
    ids, path = window_ids(dataset, "test"), tmp_path / "p.npz"
    np.savez(path, predictions=rows, ids=ids)
    assert np.allclose(predictions_of(path, dataset, 5).numpy(), rows, atol=1e-6)
    np.savez(path, predictions=rows, ids=ids[::-1])
    with pytest.raises(DataError, match="in another order"):
        predictions_of(path, dataset, 5)


def test_the_example_is_a_recipe_and_a_script_that_stands_alone(bank, tmp_path, capsys) -> None:
    out = tmp_path / "mine"
    assert run_command(cli.main, ["init-trainer", str(out)]) == 0
    text = (out / "train.py").read_text()
    assert "lvm" not in text
    assert 60 <= len(text.splitlines()) <= 110
    config = load_run_config(out / "recipe.toml", laptop())
    check_trainable(config.recipe, num_seeds=3)
    assert code_of(config.recipe.trainer, out).files == ["train.py"]
    assert tomllib.loads((out / "recipe.toml").read_text())["context_length"] == 5
    assert "--recipe" in capsys.readouterr().out
    assert run_command(cli.main, ["init-trainer", str(out)]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_a_file_of_an_existing_folder_is_no_place_for_windows(tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("")
    assert run_command(cli.main, ["windows", "--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err


@pytest.fixture
def mine(bank, tmp_path, capsys):
    """A triage of the example that shows its tree, and what it prints."""
    assert run_command(cli.main, ["init-trainer", str(tmp_path / "mine")]) == 0
    recipe = tmp_path / "mine" / "recipe.toml"

    def show(*more: str, old: str = "", new: str = "") -> tuple[int, str]:
        text = recipe.read_text()
        assert old in text
        recipe.write_text(text.replace(old, new))
        capsys.readouterr()
        flags = ["--data", str(bank), "--recipe", str(recipe), "--show", *more]
        status = run_command(cli.main, ["triage", *flags])
        return status, "".join(capsys.readouterr())

    return show


def test_the_tree_of_a_trainer_says_which_arms_do_not_reach_it(mine) -> None:
    status, printed = mine()
    assert status == 0
    assert "temperature 0.10: objective.temperature = 0.1" in printed
    assert "left out, negatives: random article: its change does not reach the trainer" in printed
    assert "left out, search in the projected space" in printed


@pytest.mark.parametrize(
    ("flags", "old", "new", "said"),
    [
        (["--predictions", "p.npy"], "", "", "--predictions cannot be given with a trainer"),
        (["--checkpoint", "c"], "", "", "--checkpoint cannot be given with a trainer"),
        (["--seeds", "2"], '"--seed", "{seed}",', "", "must hold {seed}, because --seeds 2"),
        ([], "{objective.temperature}", "{objective.tau}", "which is no key of the recipe"),
        ([], '"--epochs", "{training.epochs}",', "", "must hold {training.epochs}"),
        ([], '"{objective.contrastive_weight}"', '"0.7"', "because AR-only is the same training"),
    ],
)
def test_what_cannot_go_with_a_trainer_is_one_sentence(mine, flags, old, new, said) -> None:
    status, printed = mine(*flags, old=old, new=new)
    assert status == 2
    assert said in printed
    assert len(printed.strip().splitlines()) == 1


def test_a_training_alone_is_not_ours_to_run(mine, tmp_path, capsys) -> None:
    out = ["--out", str(tmp_path / "out"), "--recipe", str(tmp_path / "mine" / "recipe.toml")]
    assert run_command(cli.main, ["train", *out]) == 2
    assert "run it yourself on the files of lvm windows" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
