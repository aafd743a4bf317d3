"""Run folders: claimed in one step, left as found when no run began, found after a move."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from lvm.core.errors import LvmError, ResumeError, RunBusyError, UsageError
from lvm.triage import lock
from lvm.triage.folder import found_at, new_run, run_to_resume, training_folder
from lvm.triage.lock import FILE
from lvm.triage.owner import Owner


def begin(folder: Path) -> None:
    (folder / "journal.jsonl").write_text("{}\n")


def refused_start(out: Path, error: type[LvmError]) -> str:
    """What a second start into a folder is told."""
    with pytest.raises(error) as refused, new_run(out, out.parent / "runs"):
        raise AssertionError("it was let in")
    return str(refused.value)


def fails_early(out: Path | None, runs: Path) -> None:
    """A run whose input turns out to be bad when its folder is claimed."""
    with new_run(out, runs) as held:
        (held.folder / "given_checkpoint").mkdir()
        (held.folder / "given_checkpoint" / "manifest.json").touch()
        raise ValueError("bad input")


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_new_run_holds_its_folder_and_leaves_it_when_it_has_begun(tmp_path) -> None:
    with new_run(tmp_path / "a" / "run", tmp_path / "runs") as held:
        assert held.folder == tmp_path / "a" / "run"
        held.check()
        begin(held.folder)
    assert tree(tmp_path) == ["a", "a/run", "a/run/journal.jsonl"]


def test_a_run_without_a_name_gets_the_next_number(tmp_path) -> None:
    for number in ("1", "2"):
        with new_run(None, tmp_path / "runs") as held:
            assert held.folder == tmp_path / "runs" / number
            begin(held.folder)
    assert tree(tmp_path / "runs") == ["1", "1/journal.jsonl", "2", "2/journal.jsonl"]


@pytest.mark.parametrize("out", [None, "a/b/run", "there"])
def test_a_run_that_never_began_leaves_everything_as_it_was(out, tmp_path) -> None:
    (tmp_path / "there").mkdir()
    before = tree(tmp_path)
    with pytest.raises(ValueError, match="bad input"):
        fails_early(tmp_path / out if out else None, tmp_path / "runs")
    assert tree(tmp_path) == before


def test_of_two_starts_into_one_folder_one_is_refused_and_spoils_nothing(tmp_path) -> None:
    out = tmp_path / "run"
    with new_run(out, tmp_path / "runs") as first:
        (first.folder / "given_checkpoint").mkdir()
        assert "is driven by process" in refused_start(out, RunBusyError)
        assert (first.folder / "given_checkpoint").is_dir()
        begin(first.folder)
        assert "choose another --out" in refused_start(out, RunBusyError)
    assert "already holds a run; choose another --out, or continue" in refused_start(
        out, UsageError
    )


def test_a_run_that_ended_between_the_look_and_the_lock_is_not_overwritten(
    tmp_path, monkeypatch
) -> None:
    out, real = tmp_path / "run", lock.acquire

    def slow(folder: Path) -> object:
        begin(folder)  # by another process, which has come and gone
        return real(folder)

    monkeypatch.setattr("lvm.triage.folder.acquire", slow)
    assert "already holds a run" in refused_start(out, UsageError)
    assert tree(out) == ["journal.jsonl"]


def test_a_folder_with_other_files_is_refused_and_untouched(tmp_path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    words = refused_start(tmp_path, UsageError)
    assert "is not empty; --out must be a new or empty folder" in words
    assert tree(tmp_path) == ["thesis.txt"]


def test_a_start_that_was_killed_before_its_run_began_leaves_a_folder_that_can_be_used(
    tmp_path,
) -> None:
    (tmp_path / FILE).write_text(json.dumps({**asdict(Owner.here()), "started": "1"}))
    with new_run(tmp_path, tmp_path / "runs") as held:
        held.check()


@pytest.mark.parametrize("out", ["file", "file/run"])
def test_a_path_below_a_file_is_refused(out, tmp_path) -> None:
    (tmp_path / "file").touch()
    assert "--out" in refused_start(tmp_path / out, UsageError)
    assert tree(tmp_path) == ["file"]


# --- going on -------------------------------------------------------------------------------------


def test_a_run_is_resumed_by_one_process(tmp_path) -> None:
    begin(tmp_path)
    with run_to_resume(tmp_path), pytest.raises(RunBusyError), run_to_resume(tmp_path):
        raise AssertionError("both were let in")
    with run_to_resume(tmp_path) as held:
        held.check()
    assert tree(tmp_path) == ["journal.jsonl"]


def test_a_folder_without_a_run_is_not_resumed(tmp_path) -> None:
    with pytest.raises(ResumeError, match="no journal"), run_to_resume(tmp_path):
        raise AssertionError("it was let in")
    assert tree(tmp_path) == []


def test_a_training_has_its_folder_alone_and_can_go_on_in_it(tmp_path) -> None:
    with training_folder(tmp_path / "full") as folder:
        with pytest.raises(RunBusyError), training_folder(tmp_path / "full"):
            raise AssertionError("both were let in")
        (folder / "epochs.jsonl").touch()
    with training_folder(tmp_path / "full") as folder:
        assert tree(folder) == ["driver.json", "epochs.jsonl"]
    with training_folder(tmp_path / "nothing"):
        pass
    assert tree(tmp_path) == ["full", "full/epochs.jsonl"]


# --- paths of a journal ---------------------------------------------------------------------------


def test_paths_in_a_journal_are_found_where_the_run_lies_now(tmp_path) -> None:
    (tmp_path / "arms" / "abc" / "checkpoint").mkdir(parents=True)
    here = tmp_path / "arms" / "abc" / "checkpoint"
    assert found_at("arms/abc/checkpoint", tmp_path) == here
    # As earlier versions stored it, before the run was moved or fetched.
    assert found_at("/old/runs/1/arms/abc/checkpoint", tmp_path) == here
    # Of another run, which was handed in.
    other = "/old/runs/0/arms/xyz/checkpoint"
    assert found_at(other, tmp_path) == Path(other)
    assert found_at("/models/mine", tmp_path) == Path("/models/mine")
