"""Commands for a person to type: they parse, name what exists, and keep what matters."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import made
import pytest

import tune_jobs
from lvm.cli import parser as lvm_parser
from lvm.core import printed
from lvm.core.command import lvm_command
from lvm.core.printed import (
    eval_command,
    job_command,
    resume_command,
    triage_command,
    typed,
)
from lvm.jobs import request as asked
from lvm.jobs.doors import triage_parser as parser
from lvm.jobs.flags import options_of
from lvm.jobs.options import TriageOptions
from lvm.triage.events import Resumed, RunStarted, Waiting
from lvm.triage.state import RunState

SCRIPT = Path(tune_jobs.__file__).parent / "triage.py"


def arguments(command: str) -> dict[str, object]:
    """What the triage makes of a printed command, without what was not given."""
    python, script, *argv = shlex.split(command)
    assert Path(python).resolve() == Path(sys.executable).resolve()
    assert Path(script).resolve() == SCRIPT
    return {k: v for k, v in vars(parser().parse_args(argv)).items() if v not in (None, False)}


@pytest.mark.parametrize("place", [SCRIPT.parents[1], Path("/"), None])
def test_a_command_names_an_interpreter_and_a_script_that_exist_from_here(
    place, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(place or tmp_path)
    python, script = shlex.split(job_command("triage"))
    assert Path(python).is_file()
    assert Path(script).is_file()
    kept = shlex.split(job_command("train", kept=True))
    assert all(Path(word).is_absolute() and Path(word).is_file() for word in kept)


@pytest.mark.parametrize("place", [None, "/venv/lib/python3.11/site-packages/tune_jobs"])
def test_without_a_checkout_the_command_of_the_package_is_run(place, monkeypatch) -> None:
    spec = place and SimpleNamespace(submodule_search_locations=[place])
    monkeypatch.setattr(printed.importlib.util, "find_spec", lambda name: spec)
    assert job_command("triage") == f"{lvm_command()} triage"
    kept = resume_command(Path("/run"), "a:1", kept=True)
    assert Path(shlex.split(kept)[0]).is_absolute()
    argv = shlex.split(kept.partition(" triage ")[2])
    assert options_of(TriageOptions, lvm_parser().parse_args(["triage", *argv])) == TriageOptions(
        resume=Path("/run"), address="a:1"
    )


def test_a_resume_keeps_the_cluster_and_finds_the_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "my runs" / "1"
    assert arguments(resume_command(run, "head:6379")) == {
        "resume": Path("my runs/1"),
        "address": "head:6379",
    }
    monkeypatch.chdir("/")
    assert arguments(resume_command(run, None, kept=True)) == {"resume": run}


def test_flags_are_typed_as_they_were_given(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = [
        "--data",
        str(tmp_path / "a bank"),
        "--recipe",
        "r.toml",
        "--allow",
        "POOL",
        "--allow",
        "UNDERPOWERED",
        "--seeds",
        "3",
        "--extended",
        "--address",
        "auto",
        "--out",
        "here",
    ]
    args = parser().parse_args(given)
    assert "--data 'a bank'" in typed(vars(args))
    relative = Path("a bank")
    expected = {k: v for k, v in vars(args).items() if v not in (None, False)}
    assert arguments(triage_command(vars(args))) == {**expected, "data": relative}
    kept = arguments(asked.command(options_of(TriageOptions, args)))
    assert kept == {
        **expected,
        "data": tmp_path / "a bank",
        "recipe": tmp_path / "r.toml",
        "out": tmp_path / "here",
    }


def test_a_run_is_asked_again_without_its_folder_and_with_its_cluster(tmp_path) -> None:
    args = TriageOptions(data=Path("/bank"), out=Path("/run"), address="a:1", json=True)
    again = {"data": Path("/bank"), "address": "a:1"}
    assert arguments(asked.again(args)) == again
    assert arguments(asked.again(args, recipe=Path("/fix.toml"))) == {
        **again,
        "recipe": Path("/fix.toml"),
    }


def test_the_last_start_of_a_journal_says_where_its_cluster_is() -> None:
    first = made.event(RunStarted, address="old:1")
    assert RunState([first]).address == "old:1"
    moved = [first, made.event(Resumed, address="new:1"), made.event(Waiting)]
    assert RunState(moved).address == "new:1"
    assert RunState([made.event(RunStarted)]).address is None
    assert RunState([]).address is None


def test_a_checkpoint_is_judged_on_the_data_of_its_run() -> None:
    def words(command: str) -> dict[str, object]:
        _, *argv = shlex.split(command)
        return vars(lvm_parser().parse_args(argv))

    found = words(eval_command(Path("/run/arms/a/checkpoint"), {"data": "/bank", "seeds": 3}))
    assert (found["command"], found["checkpoint"]) == ("eval", Path("/run/arms/a/checkpoint"))
    assert found["data"] == Path("/bank")
    assert words(eval_command(Path("/c"), {"data": None}))["data"] is None  # the bundled sample
    files = {"train": "/t.npz", "eval": "/e.npz", "payload": "/p.npz"}
    found = words(eval_command(Path("/c"), files))
    assert {name: str(found[name]) for name in files} == files
