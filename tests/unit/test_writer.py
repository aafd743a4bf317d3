"""The pen of a run: what it writes, when it stops, and that who watches cannot stop it."""

from __future__ import annotations

import errno
import io
import os
import signal
import threading
from typing import Any

import made
import pytest

from lvm.core.errors import RunTakenError, UsageError
from lvm.core.signals import heeding_signals
from lvm.jobs.writer import Writer
from lvm.triage.events import Decision, Epoch, Event, Interrupted, RunStarted, kind_of
from lvm.triage.journal import Journal, read_journal
from lvm.triage.lock import FILE, Lock, acquire
from lvm.views.progress import JsonLines


@pytest.fixture
def lock(tmp_path) -> Any:
    held = acquire(tmp_path)
    yield held
    held.release()


@pytest.fixture
def writer(tmp_path, lock: Lock) -> Writer:
    writer = Writer(Journal(tmp_path), lock, JsonLines(None))
    writer.note(made.event(RunStarted))
    return writer


def kinds(writer: Writer) -> list[str]:
    on_disk = [event["event"] for event in read_journal(writer.journal.folder)]
    assert on_disk == [kind_of(event) for event in writer.journal.events]
    return on_disk


class Screen:
    """Notes what it is shown, or cannot show it."""

    def __init__(self, error: OSError | None = None) -> None:
        self.seen: list[str] = []
        self.error = error

    def event(self, event: Event) -> None:
        self.seen.append(kind_of(event))
        if self.error is not None:
            raise self.error


def test_an_event_is_in_the_journal_and_then_on_the_screen(writer) -> None:
    writer.screen = Screen()
    writer.note(made.event(Decision, number=0))
    assert kinds(writer) == ["run_started", "decision"]
    assert writer.screen.seen == ["decision"]


def test_nothing_follows_the_last_event(writer) -> None:
    """Arms may still run in another thread when a run is interrupted."""
    writer.end(Interrupted())
    writer.end(Interrupted())
    writer.note(made.event(Epoch, arm="a"))
    assert kinds(writer) == ["run_started", "interrupted"]


def test_a_driver_that_was_replaced_writes_nothing_more(writer, tmp_path) -> None:
    (tmp_path / FILE).write_text("{}")  # as if another process had taken the run over
    for _ in range(2):
        with pytest.raises(RunTakenError):
            writer.note(made.event(Epoch, arm="a"))
    with pytest.raises(RunTakenError):
        writer.end(Interrupted())
    assert kinds(writer) == ["run_started"]


def test_no_event_follows_one_that_was_refused(writer, monkeypatch) -> None:
    """Space came back in between: the lost event would be missed by nobody but the verdict."""

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UsageError, match="No space left"):
            writer.note(made.event(Epoch, arm="a", epoch=1))
    with pytest.raises(UsageError, match="No space left"):
        writer.note(made.event(Epoch, arm="a", epoch=2))
    assert kinds(writer) == ["run_started"]
    again = Writer(Journal(writer.journal.folder), writer._lock, JsonLines(None))
    again.note(made.event(Epoch, arm="a", epoch=1))
    assert kinds(again) == ["run_started", "epoch"]


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO])
def test_a_screen_that_is_gone_ends_nothing(writer, number, monkeypatch) -> None:
    writer.screen = Screen(OSError(number, "gone"))
    writer.note(made.event(Decision, number=0))
    writer.note(made.event(Decision, number=1))
    assert kinds(writer) == ["run_started", "decision", "decision"]


def test_json_lines_that_nobody_reads_end_nothing(tmp_path, lock, capfd) -> None:
    with JsonLines(io.StringIO()) as lines:
        writer = Writer(Journal(tmp_path), lock, lines)
        writer.note(made.event(RunStarted))
    assert kinds(writer) == ["run_started"]


def test_events_of_many_threads_are_whole_lines_in_one_order(writer) -> None:
    def write(name: str) -> None:
        for epoch in range(20):
            writer.note(made.event(Epoch, arm=name, epoch=epoch, backend="x" * 2000))

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kinds(writer) == ["run_started"] + ["epoch"] * 60
    for name in "abc":
        own = [e.epoch for e in writer.journal.events.of(Epoch, arm=name)]
        assert own == list(range(20))


def test_an_interrupt_amid_an_event_waits_until_it_is_written(writer, monkeypatch) -> None:
    real = os.fsync

    def interrupted(file: int) -> None:
        signal.raise_signal(signal.SIGTERM)
        real(file)

    monkeypatch.setattr(os, "fsync", interrupted)
    with heeding_signals(), pytest.raises(KeyboardInterrupt):
        writer.note(made.event(Epoch, arm="a", epoch=1))
    assert kinds(writer) == ["run_started", "epoch"]
