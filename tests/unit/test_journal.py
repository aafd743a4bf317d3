from __future__ import annotations

import errno
import json
import os

import made
import pytest

from lvm.core.errors import ResumeError, UsageError
from lvm.core.records import Verdict
from lvm.triage.events import Epoch, RunStarted
from lvm.triage.journal import FILE_NAME, SCHEMA, Journal, read_journal, read_run


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path)
    journal.append(made.event(RunStarted))
    journal.append(made.event(Epoch, arm="a", epoch=1, loss=0.5))
    journal.append(made.event(Epoch, arm="b", epoch=1, loss=float("nan"), stage=Verdict.PASS))
    return journal


def test_what_is_appended_is_read_back_in_order(journal) -> None:
    events = read_run(journal.folder)
    assert events == journal.events == Journal(journal.folder).events
    assert [type(e) for e in events] == [RunStarted, Epoch, Epoch]
    assert (events[2].loss, events[2].stage) == (None, "PASS")  # JSON has no NaN
    assert all(isinstance(e.at, float) for e in events)


def test_find_gives_the_last_match_and_all_gives_the_kind(journal) -> None:
    journal.append(made.event(Epoch, arm="a", epoch=2, loss=0.4))
    assert journal.events.last(Epoch, arm="a").epoch == 2
    assert journal.events.last(Epoch, arm="a", epoch=1).loss == 0.5
    assert journal.events.last(Epoch, arm="c") is None
    assert [e.arm for e in journal.events.of(Epoch)] == ["a", "b", "a"]


def test_an_event_is_on_disk_before_append_returns(journal, monkeypatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    journal.append(made.event(Epoch, arm="a", epoch=2))
    assert synced == [journal.path.stat().st_size]


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_a_last_line_cut_by_a_kill_is_dropped(journal, cut) -> None:
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-cut])
    assert [e["event"] for e in read_journal(journal.folder)] == ["run_started", "epoch"]
    again = Journal(journal.folder)
    again.append(made.event(Epoch, arm="b", epoch=1))
    assert [e.get("arm") for e in read_journal(journal.folder)] == [None, "a", "b"]
    assert len(journal.path.read_text().splitlines()) == 3


@pytest.mark.parametrize("damaged", ['{"event": "epo', "[1, 2]", '{"at": 1.0}', "", "null"])
def test_a_damaged_line_in_the_middle_is_named(journal, damaged) -> None:
    lines = journal.path.read_text().split("\n")
    lines[1] = damaged
    journal.path.write_text("\n".join(lines))
    with pytest.raises(ResumeError, match="line 2 is not a valid lvm event"):
        list(read_journal(journal.folder))


def test_a_line_that_was_changed_is_named_and_one_of_an_earlier_version_is_read(journal) -> None:
    written = journal.path.read_text()
    journal.path.write_text(written.replace('"loss": 0.5', '"loss": 0.4'))
    with pytest.raises(ResumeError, match="line 2 is not a valid lvm event"):
        list(read_journal(journal.folder))
    lines = [json.loads(line) for line in written.splitlines()]
    earlier = [{key: value for key, value in line.items() if key != "sum"} for line in lines]
    journal.path.write_text("".join(json.dumps(line) + "\n" for line in earlier))
    assert list(read_journal(journal.folder)) == earlier
    assert read_run(journal.folder) == journal.events


def test_an_event_that_lacks_a_field_is_named_with_its_line(journal) -> None:
    lines = [json.loads(line) for line in journal.path.read_text().splitlines()]
    for line in lines:
        del line["sum"]
    del lines[1]["step"]
    journal.path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ResumeError, match=r"line 2 \(epoch\).*`step`"):
        Journal(journal.folder)


@pytest.mark.parametrize("content", ["hello\n", '{"event": "epoch", "at": 1.0}\n', '{"a": 1}\n'])
def test_a_foreign_file_is_refused_and_left_alone(tmp_path, content) -> None:
    (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(ResumeError, match="line 1"):
        Journal(tmp_path)
    assert (tmp_path / FILE_NAME).read_text() == content


def test_bytes_that_are_no_text_are_refused(tmp_path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"\xff\xfe\x00\n")
    with pytest.raises(ResumeError, match="cannot be read"):
        Journal(tmp_path)


def test_a_folder_without_a_journal_cannot_be_read(tmp_path) -> None:
    with pytest.raises(ResumeError, match="cannot be read"):
        list(read_journal(tmp_path))


def test_another_schema_is_refused_with_both_numbers(tmp_path) -> None:
    line = json.dumps({"event": "run_started", "at": 1.0, "schema": SCHEMA + 7})
    (tmp_path / FILE_NAME).write_text(line + "\n")
    with pytest.raises(
        ResumeError, match=f"schema {SCHEMA + 7}, but this version reads 1 to {SCHEMA}"
    ):
        Journal(tmp_path)


def test_a_full_disk_is_a_usage_error_that_says_how_to_go_on(journal, monkeypatch) -> None:
    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match=r"No space left.*--resume"):
        journal.append(made.event(Epoch, arm="a", epoch=2))
    monkeypatch.undo()
    assert len(journal.events) == 3  # what is not on disk did not happen
    assert read_run(journal.folder) == journal.events  # nor what may be half there
    journal.append(made.event(Epoch, arm="a", epoch=2))
    assert read_run(journal.folder) == journal.events


def test_a_discarded_journal_leaves_no_file_and_no_events(tmp_path) -> None:
    journal = Journal(tmp_path)
    journal.append(made.event(RunStarted))
    journal.discard()
    assert list(journal.events) == []
    assert not journal.path.exists()
