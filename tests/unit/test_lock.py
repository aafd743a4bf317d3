"""The lock of a run folder: who drives, who may take over, who notices that another one did."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from lvm.core.errors import RunBusyError, RunTakenError, UsageError
from lvm.triage import lock
from lvm.triage.lock import FILE, Driver, Lock, acquire, driver_of
from lvm.triage.owner import Owner

LONG_AGO = 1_000_000.0


@pytest.fixture(autouse=True)
def at_once(monkeypatch) -> None:
    """No test watches a silent driver for as long as a run does."""
    monkeypatch.setattr(lock, "WATCH_SECONDS", 0.1)
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.01)


@pytest.fixture
def held(tmp_path) -> Iterator[Lock]:
    """The lock of `tmp_path`, of this process."""
    mine = acquire(tmp_path, beat_seconds=0.02)
    yield mine
    mine.release()


def left(folder: Path, *, silent: float = 0.0, **changes: object) -> Owner:
    """Leave the lock of another process in a folder, last touched `silent` seconds ago."""
    owner = dataclasses.replace(Owner.here(), **changes)
    (folder / FILE).write_text(json.dumps(asdict(owner)))
    then = time.time() - silent
    os.utime(folder / FILE, (then, then))
    return owner


def dead_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


# --- a driver -------------------------------------------------------------------------------------


def test_a_lock_names_its_process_and_is_gone_after_release(tmp_path) -> None:
    mine = acquire(tmp_path)
    driver = driver_of(tmp_path)
    assert driver is not None
    assert driver.owner is not None
    assert driver.owner.pid == os.getpid()
    assert (driver.lives, driver.abandoned) == (True, False)
    mine.check()
    mine.release()
    assert driver_of(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_driven_is_refused_with_who_drives_it(tmp_path, held) -> None:
    with pytest.raises(RunBusyError) as refused:
        acquire(tmp_path)
    for words in (str(tmp_path), f"process {os.getpid()} on", "last sign of life 0 s ago", "stop"):
        assert words in str(refused.value)
    held.check()


def test_a_driver_keeps_its_lock_fresh(tmp_path, held) -> None:
    os.utime(tmp_path / FILE, (LONG_AGO, LONG_AGO))
    deadline = time.monotonic() + 10
    while driver_of(tmp_path).abandoned:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_lock_on_a_full_disk_is_refused_in_a_sentence_and_leaves_nothing(
    tmp_path, monkeypatch
) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match=r"driver.json cannot be written \(No space left"):
        acquire(tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- one that is gone -----------------------------------------------------------------------------


def test_the_lock_of_a_process_that_is_gone_is_taken_at_once(tmp_path) -> None:
    left(tmp_path, pid=dead_process(), token="old")
    assert driver_of(tmp_path).lives is False
    acquire(tmp_path).release()


def test_a_process_with_the_same_pid_and_another_start_is_another_process(tmp_path) -> None:
    left(tmp_path, started="1", token="old")
    assert driver_of(tmp_path).lives is False


@pytest.mark.parametrize("change", [{"host": "b"}, {"boot": "b"}, {"space": "pid:[1]"}])
def test_a_process_elsewhere_is_known_by_its_silence_alone(tmp_path, change) -> None:
    """On another machine, before a restart, in another container: its pid says nothing here."""
    left(tmp_path, pid=dead_process(), token="old", **change)
    assert driver_of(tmp_path).lives is None
    with pytest.raises(RunBusyError):
        acquire(tmp_path)
    left(tmp_path, silent=lock.STALE_SECONDS + 5, token="old", **change)
    acquire(tmp_path).release()


def test_a_process_here_that_is_stopped_is_silent_too(tmp_path) -> None:
    left(tmp_path, silent=lock.STALE_SECONDS + 5)
    driver = driver_of(tmp_path)
    assert (driver.lives, driver.abandoned) == (True, True)
    acquire(tmp_path).release()


@pytest.mark.parametrize(
    ("age", "lives", "abandoned"),
    [
        (0.0, None, False),
        (lock.STALE_SECONDS - 1, None, False),
        (0.0, False, True),
        (lock.STALE_SECONDS + 1, None, True),
        (lock.STALE_SECONDS + 1, True, True),
        (-1.0, None, False),
        (-lock.STALE_SECONDS - 1, None, True),  # the clock was set back
    ],
)
def test_when_a_run_is_abandoned(age, lives, abandoned) -> None:
    driver = Driver(owner=None, key="k", touched=0.0, age=age, lives=lives)
    assert driver.abandoned is abandoned


def test_ages_are_those_of_the_file_system_whatever_this_machine_says(
    tmp_path, held, monkeypatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: LONG_AGO)
    assert abs(driver_of(tmp_path).age) < 30
    monkeypatch.undo()


def test_a_silent_driver_that_stirs_when_it_is_watched_keeps_its_run(tmp_path, monkeypatch) -> None:
    """The clock of the file system jumped by an hour: the lock looks stale until its next touch."""
    monkeypatch.setattr(lock, "WATCH_SECONDS", 30.0)
    owner = left(tmp_path, silent=3600.0, host="elsewhere")
    touch = threading.Timer(0.2, os.utime, (tmp_path / FILE,))
    touch.start()
    with pytest.raises(RunBusyError):
        acquire(tmp_path)
    touch.join()
    assert owner.token in (tmp_path / FILE).read_text()


# --- taking over ----------------------------------------------------------------------------------


def test_a_driver_that_was_taken_over_notices_and_leaves_the_new_lock_alone(tmp_path) -> None:
    sleeper = acquire(tmp_path, beat_seconds=1000.0)
    os.utime(tmp_path / FILE, (LONG_AGO, LONG_AGO))
    winner = acquire(tmp_path)
    with pytest.raises(RunTakenError) as lost:
        sleeper.check()
    assert lost.value.exit_status == 75
    sleeper.release()
    winner.check()
    winner.release()


def test_a_driver_whose_folder_was_moved_notices(tmp_path) -> None:
    (tmp_path / "run").mkdir()
    mine = acquire(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(RunTakenError):
        mine.check()
    mine.release()


def test_a_server_that_is_away_for_a_moment_takes_no_lock_away(tmp_path, held, monkeypatch) -> None:
    def away(*_: object, **__: object) -> str:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "read_text", away)
    held.check()
    monkeypatch.undo()


def test_of_two_that_judged_the_same_lock_the_slower_one_does_not_take_the_new_one(
    tmp_path,
) -> None:
    """The slower one found the old lock stale, and acts after the faster one has replaced it."""
    left(tmp_path, pid=dead_process(), token="old")
    judged = driver_of(tmp_path)
    winner = acquire(tmp_path)
    assert lock._take_over(tmp_path, judged, Owner.here()) is None
    winner.check()
    winner.release()


def test_of_many_that_find_a_stale_lock_at_once_one_drives(tmp_path) -> None:
    left(tmp_path, pid=dead_process(), token="old")
    start = threading.Barrier(8)
    got: list[Lock] = []
    refused: list[RunBusyError] = []

    def race() -> None:
        start.wait()
        try:
            got.append(acquire(tmp_path))
        except RunBusyError as error:
            refused.append(error)

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 7)
    got[0].check()
    got[0].release()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_that_a_killed_process_left_does_not_hold_for_ever(tmp_path) -> None:
    owner = left(tmp_path, pid=dead_process(), token="old")
    claim = tmp_path / f"{lock.SCRATCH}{owner.token}.claim"
    claim.touch()
    os.utime(claim, (LONG_AGO, LONG_AGO))
    acquire(tmp_path).release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", '{"host": "a"}', "[]", '"x"'])
def test_a_lock_that_is_being_written_is_somebodys(tmp_path, text) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(RunBusyError, match="another process"):
        acquire(tmp_path)
    os.utime(tmp_path / FILE, (LONG_AGO, LONG_AGO))
    acquire(tmp_path).release()


def test_a_lock_that_cannot_be_had_is_given_up(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(lock, "_create", lambda *_: None)
    monkeypatch.setattr(lock, "POLL_SECONDS", 0.0)
    with pytest.raises(RunBusyError, match="cannot be locked"):
        acquire(tmp_path)
