"""The ways into a job: `lvm triage` and `python tune_jobs/triage.py` are one command."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

import lvm.cli
import tune_jobs.train
import tune_jobs.triage
from lvm.core.command import run_command
from lvm.jobs import doors
from lvm.jobs.options import TrainOptions, TriageOptions

ALL = [
    "--data",
    "bank",
    "--train",
    "t.npz",
    "--eval",
    "e.npz",
    "--payload",
    "p.npz",
    "--checkpoint",
    "c",
    "--predictions",
    "y.npy",
    "--seen",
    "seen.txt",
    "--recipe",
    "r.toml",
    "--preset",
    "gpu",
    "--allow",
    "POOL",
    "--allow",
    "KEYS_WRONG",
    "--out",
    "here",
    "--resume",
    "there",
    "--address",
    "a:1",
    "--steps",
    "temperature,negatives",
    "--order",
    "negatives",
    "--independent",
    "--five-steps",
    "--all-steps",
    "--extended",
    "--seeds",
    "3",
    "--json",
]
EVERYTHING = TriageOptions(
    data=Path("bank"),
    train=Path("t.npz"),
    eval=Path("e.npz"),
    payload=Path("p.npz"),
    checkpoint=Path("c"),
    predictions=Path("y.npy"),
    seen=Path("seen.txt"),
    recipe=Path("r.toml"),
    preset="gpu",
    allow=("POOL", "KEYS_WRONG"),
    out=Path("here"),
    resume=Path("there"),
    address="a:1",
    steps=("temperature", "negatives"),
    order=("negatives",),
    independent=True,
    five_steps=True,
    all_steps=True,
    extended=True,
    seeds=3,
    json=True,
)


@pytest.fixture
def asked(monkeypatch):
    """What the jobs are asked, which are not run."""
    found: list[object] = []
    for name in ("triage", "train"):
        monkeypatch.setattr(doors, name, lambda options: found.append(options) or 0)
    return found


@pytest.mark.parametrize(
    ("argv", "options"),
    [([], TriageOptions()), (["--show"], TriageOptions(show=True)), (ALL, EVERYTHING)],
)
def test_both_doors_of_the_triage_ask_the_same(argv, options, asked) -> None:
    assert tune_jobs.triage.main(argv) == lvm.cli.main(["triage", *argv]) == 0
    assert asked == [options, options]


def test_both_doors_of_the_training_ask_the_same_of_the_same_workers(asked) -> None:
    argv = ["--data", "b", "--recipe", "r", "--preset", "gpu", "--out", "o", "--address", "a:1"]
    expected = TrainOptions(
        data=Path("b"), recipe=Path("r"), preset="gpu", workers=2, out=Path("o"), address="a:1"
    )
    for main, words in ((tune_jobs.train.main, []), (lvm.cli.main, ["train"])):
        assert main([*words, *argv, "--workers", "2"]) == 0
    assert asked == [expected, expected]


def test_a_training_without_workers_is_one_on_ray_for_its_script_alone(asked) -> None:
    tune_jobs.train.main(["--out", "o"])
    lvm.cli.main(["train", "--out", "o"])
    lvm.cli.main(["train", "--out", "o", "--address", "auto"])
    assert [(o.workers, o.on_ray) for o in asked] == [(1, True), (None, False), (None, True)]


@pytest.mark.parametrize(
    ("main", "words", "door"),
    [
        (tune_jobs.triage.main, [], "python tune_jobs/triage.py"),
        (lvm.cli.main, ["triage"], "lvm triage"),
    ],
)
def test_a_wrong_flag_is_answered_with_the_help_of_its_door(main, words, door, capsys) -> None:
    assert run_command(main, [*words, "--seeds", "none"]) == 2
    assert f"see {door} --help" in capsys.readouterr().err


def test_options_are_frozen_and_in_the_order_of_the_flags() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        EVERYTHING.seeds = 1  # type: ignore[misc]
    triage, train = doors.triage_parser(), doors.train_parser()
    for parser, kind in ((triage, TriageOptions), (train, TrainOptions)):
        flags = [action.dest for action in parser._actions if action.dest != "help"]
        assert flags == [field.name for field in dataclasses.fields(kind)]


ORDER = """
import contextlib, sys
from lvm import cli
from lvm.triage import local_head as module

def heavy():
    return sorted({"numpy", "torch", "ray", "mlflow", "rich"} & set(sys.modules))

@contextlib.contextmanager
def local_head(wanted):
    print(wanted, heavy())
    yield

module.local_head = local_head
with contextlib.suppress(Exception):
    cli.main(["triage", "--data", "none"])
"""


def test_a_head_starts_before_anything_heavy_is_imported(tmp_path) -> None:
    """Else a Ctrl-C in the first second is not answered, and Ray starts seconds later."""
    done = subprocess.run(
        [sys.executable, "-c", ORDER], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[0] == "True []"
