"""Run folders: claimed in one step, driven by one process, left as found when no run began."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from lvm.core.command import make_folder, next_folder, require_folder_above
from lvm.core.errors import ResumeError, RunBusyError, UsageError
from lvm.triage.journal import FILE_NAME as JOURNAL
from lvm.triage.lock import FILE as LOCK
from lvm.triage.lock import SCRATCH, Lock, acquire, driver_of

# What may be there before a run begins; the folder was empty when it was claimed.
OURS = ("given_checkpoint", ".given_checkpoint.new", "tune")


@contextlib.contextmanager
def new_run(out: Path | None, runs: Path) -> Iterator[Lock]:
    """Hold the folder of a new run: `out`, or the next numbered one in `runs`.

    Of two processes that ask at once each gets a number of its own, and one gets `out`. The folder
    goes away again unless a journal was begun in it. Raises UsageError when `out` cannot be used,
    RunBusyError when another process is using it.
    """
    made: list[Path] = []
    try:
        folder = _next_folder(runs, made) if out is None else _named_folder(out, made)
        lock = acquire(folder.resolve())
        try:
            if out is not None:
                _refuse_content(out)  # a whole run may have come and gone before the lock was had
            yield lock
        finally:
            if not _begun(folder):
                for name in OURS:
                    shutil.rmtree(folder / name, ignore_errors=True)
            lock.release()
    finally:
        if made and not _begun(made[-1]):
            for path in reversed(made):
                with contextlib.suppress(OSError):  # somebody else has come into it
                    path.rmdir()


def _begun(folder: Path) -> bool:
    return (folder / JOURNAL).exists()


@contextlib.contextmanager
def training_folder(out: Path) -> Iterator[Path]:
    """Hold the folder of one training, new or to go on in; RunBusyError while another writes it."""
    require_folder_above(out)
    folder = make_folder(out).resolve()
    lock = acquire(folder)
    try:
        yield folder
    finally:
        lock.release()
        with contextlib.suppress(OSError):  # something was written
            folder.rmdir()


@contextlib.contextmanager
def run_to_resume(folder: Path) -> Iterator[Lock]:
    """Hold the folder of a run that was begun; ResumeError without one, RunBusyError if it runs."""
    if not _begun(folder):
        raise ResumeError(
            f"{folder} holds no {JOURNAL}, so there is no run to resume; give the --out of an "
            "interrupted run."
        )
    lock = acquire(folder.resolve())
    try:
        yield lock
    finally:
        lock.release()


def _refuse_driven(out: Path) -> None:
    driver = driver_of(out)
    if driver is not None and not driver.abandoned:
        raise RunBusyError(f"{driver.in_words(out)}; wait for it, or choose another --out.")


def _refuse_content(out: Path) -> None:
    """Refuse a folder that holds a run or other files; the lock of a dead start is neither."""
    if _begun(out):
        raise UsageError(
            f"{out} already holds a run; choose another --out, or continue it with --resume {out}."
        )
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; choose a new or empty folder for --out.")
    if out.exists() and any(not _is_of_a_lock(p) for p in out.iterdir()):
        raise UsageError(f"{out} is not empty; --out must be a new or empty folder.")
    require_folder_above(out)


def _is_of_a_lock(path: Path) -> bool:
    return path.name == LOCK or path.name.startswith(SCRATCH)


def _named_folder(out: Path, made: list[Path]) -> Path:
    _refuse_driven(out)
    _refuse_content(out)
    made += [p for p in (*reversed(out.absolute().parents), out.absolute()) if not p.exists()]
    make_folder(out)
    return out


def _next_folder(runs: Path, made: list[Path]) -> Path:
    if not runs.exists():
        made.append(runs.absolute())
    made.append(next_folder(runs).absolute())
    return made[-1]


def found_at(stored: str, run: Path) -> Path:
    """Return where a path of a journal lies now, when the folder of its run is `run`.

    Earlier versions stored whole paths: of those, what lies in the run's own folder of arms counts.
    """
    told = Path(stored)
    if told.is_absolute() and "arms" in told.parts:
        at = len(told.parts) - 1 - told.parts[::-1].index("arms")
        moved = run.joinpath(*told.parts[at:])
        return moved if moved.exists() else told
    return run / told
