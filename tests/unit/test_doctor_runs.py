"""What `lvm doctor --runs` makes of run folders, their locks and their journals."""

from __future__ import annotations

from pathlib import Path

import made
import pytest
from tracked import Writer, whole_journal

from lvm import cli
from lvm.core.command import run_command
from lvm.core.errors import DataError, UsageError
from lvm.doctor.runs import judge_run, orphans
from lvm.triage.events import Interrupted, RunStarted
from lvm.triage.journal import Journal
from lvm.triage.lock import Driver, acquire
from lvm.triage.owner import Owner
from lvm.triage.state import RunState
from lvm.views.tracking import left_open
from lvm.views.tracking.left_open import OpenRun

NOW = 10_000.0
BEGUN = RunState([made.event(RunStarted, at=NOW - 600)])
STOPPED = RunState([*BEGUN, Interrupted(at=NOW - 60)])


def driver(age: float, lives: bool | None) -> Driver:
    owner = Owner(host="there", boot="b", space="s", pid=7, started="1", token="t")
    return Driver(owner=owner, key="t", touched=NOW - age, age=age, lives=lives)


@pytest.mark.parametrize(
    ("events", "verdict", "held", "in_mlflow", "well"),
    [
        (BEGUN, None, driver(1, None), True, True),  # driven, here or elsewhere
        (BEGUN, None, driver(1, True), False, True),
        (BEGUN, None, driver(1, False), False, False),  # its process is gone
        (BEGUN, None, driver(9999, None), True, False),  # silent for long
        (BEGUN, None, None, False, False),
        (STOPPED, None, None, False, True),  # somebody stopped it, and may continue
        (STOPPED, None, None, True, False),
        (BEGUN, "FIXED", None, False, True),
        (BEGUN, "FIXED", None, True, False),  # a view that was never closed
    ],
)
def test_a_run_is_well_when_it_is_driven_finished_or_stopped(
    events, verdict, held, in_mlflow, well
) -> None:
    found = judge_run(
        "r", events, verdict, held, NOW, in_mlflow=in_mlflow, resume="triage --resume r"
    )
    assert found.ok is well
    assert ("track r" in found.next) is (in_mlflow and not well)
    unfinished = not verdict and events is BEGUN
    assert ("triage --resume r" in found.next) is (unfinished and not well)


def no_store(run: Path) -> list[OpenRun]:
    return []


def test_each_run_of_a_folder_is_looked_at_and_left_as_it_is(tmp_path: Path) -> None:
    writer = Writer(Journal(tmp_path / "1"))
    writer.start()
    whole_journal(tmp_path / "2")
    (tmp_path / "other").mkdir()
    before = sorted(tmp_path.rglob("*"))
    found = {Path(f.what).name: f for f in orphans(tmp_path, no_store)}
    assert {name: f.ok for name, f in found.items()} == {"1": False, "2": True}
    lock = acquire(tmp_path / "1")
    try:
        assert all(f.ok for f in orphans(tmp_path / "1", no_store))
    finally:
        lock.release()
    assert sorted(tmp_path.rglob("*")) == before


def test_an_open_run_without_its_folder_and_a_silent_server_are_told(tmp_path: Path) -> None:
    whole_journal(tmp_path / "1")
    gone = OpenRun(name="runs/9", folder=tmp_path / "9", host="there")
    well, lost = orphans(tmp_path, lambda run: [gone])
    assert well.ok
    assert (lost.what, lost.optional) == ("MLflow run runs/9", True)

    def refuse(run: Path) -> None:
        raise DataError("MLflow does not answer")

    well, problem = orphans(tmp_path, refuse)
    assert well.ok
    assert problem.optional


def test_a_damaged_journal_is_named_and_the_others_are_still_judged(tmp_path: Path) -> None:
    whole_journal(tmp_path / "1")
    (tmp_path / "2").mkdir()
    (tmp_path / "2/journal.jsonl").write_text("not an event\n{}\n")
    assert [f.ok for f in orphans(tmp_path, no_store)] == [True, False]


def test_a_folder_without_runs_is_bad_usage(tmp_path: Path, capsys) -> None:
    with pytest.raises(UsageError):
        orphans(tmp_path, no_store)
    assert run_command(cli.main, ["doctor", "--runs", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_the_command_exits_2_when_a_run_was_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(left_open, "open_runs", no_store)
    Writer(Journal(tmp_path / "1")).start()
    assert run_command(cli.main, ["doctor", "--runs", str(tmp_path)]) == 2
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("FIX     ")
    assert "--resume" in second
