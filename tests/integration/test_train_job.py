"""`train.py` without Ray: its folder, how it goes on, and the status of every end."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from without_ray import WithoutRay

import lvm.cli
import lvm.jobs.training
import tune_jobs.train
from lvm.core.command import lvm_command, run_command
from lvm.core.records import StopReason
from lvm.data.files import read_bank, write_bank
from lvm.training import loop
from lvm.training.epochs import read_epochs
from lvm.triage.events import Epoch
from lvm.triage.lock import acquire

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lvm.jobs.training, "RayExecutor", WithoutRay)
    monkeypatch.chdir(tmp_path)


def train(world, *more: str, out: str = "full") -> int:
    flags = ["--data", str(world.bank), "--recipe", str(world.recipe), "--out", out, *more]
    return run_command(tune_jobs.train.main, flags)


def test_it_trains_into_a_relative_folder_and_says_how_to_judge_it(world, tmp_path, capsys):
    assert train(world) == 0
    assert len(read_epochs(tmp_path / "full")) == 2
    last = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert last[2:] == ["eval", "full/checkpoint", "--data", str(world.bank)]
    assert not list((tmp_path / "full").glob("*driver*"))


def test_a_checkpoint_is_judged_on_its_own_data_or_on_what_is_said_to_be_other(
    world, tmp_path, capsys
):
    assert train(world) == 0
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])[2:]
    assert run_command(lvm.cli.main, command) == 0
    judged = capsys.readouterr().out.splitlines()
    assert judged[0] == f"full/checkpoint on {world.bank}"
    stored = json.loads((tmp_path / "full" / "test.json").read_text())["evaluation"]
    shown = {words[0]: words[1:] for words in map(str.split, judged)}
    assert shown["r_at_5"][0] == f"{stored['masked']['r_at_5']:.4f}"

    bank = read_bank(world.bank)
    write_bank(tmp_path / "other", bank.vectors[::-1].copy(), bank.keys, {})
    other = [*command[:-1], str(tmp_path / "other")]
    assert run_command(lvm.cli.main, other) == 2
    refused = capsys.readouterr()
    assert "full/checkpoint was not trained on" in refused.err
    assert refused.out == ""
    assert run_command(lvm.cli.main, [*other, "--other-data"]) == 0
    assert "which it was not trained on" in capsys.readouterr().out.splitlines()[0]
    assert run_command(lvm.cli.main, command[:2]) == 2  # the bundled sample has another width
    assert "bundled sample" in capsys.readouterr().err


def test_an_interrupted_one_goes_on_by_the_command_it_prints(world, tmp_path, monkeypatch, capsys):
    real = WithoutRay.run

    def interrupted(executor: WithoutRay, race: Any, dataset: Any) -> None:
        record = race.record

        def stop(epoch: Epoch) -> None:
            record(epoch)
            raise KeyboardInterrupt

        race.record = stop
        real(executor, race, dataset)

    with monkeypatch.context() as patch:
        patch.setattr(WithoutRay, "run", interrupted)
        assert train(world, "--address", "auto") == 130
    printed = capsys.readouterr().out.strip()
    words = shlex.split(printed.removeprefix("interrupted; continue with: "))
    assert Path(words[1]).samefile(tune_jobs.train.__file__)
    first = read_epochs(tmp_path / "full")
    assert len(first) == 1
    assert run_command(tune_jobs.train.main, words[2:]) == 0
    assert read_epochs(tmp_path / "full")[0] == first[0]
    assert len(read_epochs(tmp_path / "full")) == 2


def test_a_folder_that_another_training_writes_to_is_refused(world, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    lock = acquire(tmp_path / "full")
    assert train(world) == 2
    assert "is driven by process" in capsys.readouterr().err
    lock.release()
    assert not (tmp_path / "full" / "epochs.jsonl").exists()


@pytest.mark.parametrize(
    ("reason", "status", "words"),
    [
        (StopReason.DIVERGED, 2, "lower training.learning_rate"),
        (StopReason.NOT_EVALUABLE, 2, "start again"),
        (StopReason.CRASHED, 70, "continue with: "),
        (StopReason.LOST, 75, "continue with: "),
        (StopReason.STUCK, 2, "continue with: "),
        (StopReason.UNPLACED, 2, "continue with: "),
    ],
)
def test_no_early_end_has_the_status_of_a_verdict(
    reason, status, words, world, monkeypatch, capsys
):
    def end(executor: WithoutRay, race: Any, dataset: Any) -> None:
        (arm,) = race.lanes
        race.failed(arm, reason, "what happened")

    monkeypatch.setattr(WithoutRay, "run", end)
    assert train(world) == status
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert sentence.startswith(f"error: the training ended early ({reason}: what happened); ")
    assert words in sentence


def test_a_training_that_diverges_says_what_to_change(world, monkeypatch, capsys):
    real = loop.objective

    def poisoned(*args: Any) -> Any:
        result = real(*args)
        result.total.data.fill_(float("nan"))
        return result

    monkeypatch.setattr(loop, "objective", poisoned)
    assert train(world) == 2
    said = capsys.readouterr()
    assert "the training ended early (diverged: " in said.err.splitlines()[-1]
    assert said.out == ""


def test_lvm_train_needs_no_ray_and_goes_on_by_the_command_it_prints(
    world, tmp_path, monkeypatch, capsys
):
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("Ray was asked")

    flags = ["train", "--data", str(world.bank), "--recipe", str(world.recipe)]
    flags += ["--preset", "laptop", "--out", "own"]

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(lvm.jobs.training, "RayExecutor", refused)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "objective", interrupted)
        assert run_command(lvm.cli.main, flags) == 130
    printed = capsys.readouterr().out.strip().removeprefix("interrupted; continue with: ")
    assert printed == f"{lvm_command()} {shlex.join(flags)}"
    assert run_command(lvm.cli.main, flags) == 0
    assert len(read_epochs(tmp_path / "own")) == 2
    own = capsys.readouterr().out.splitlines()
    monkeypatch.setattr(lvm.jobs.training, "RayExecutor", WithoutRay)
    assert train(world) == 0
    full = capsys.readouterr().out.splitlines()
    same = slice(0, -3)  # but for latencies and the next command
    assert own[same] == full[same]
    assert own[-1] == full[-1].replace("full/", "own/")
