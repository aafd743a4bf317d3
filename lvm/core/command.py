"""What every command shares: errors become one sentence and an exit status."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import errno
import os
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from lvm.core.errors import ExitStatus, LvmError, ProgramError, UsageError
from lvm.core.outside import printable, quoted
from lvm.core.signals import end_was_asked_for, end_with, heeding_signals

ERROR_FILE = "error.txt"


# --- folders for what a command writes ------------------------------------------------------------


def next_folder(parent: Path) -> Path:
    """Make the next numbered folder in `parent`; no two processes get the same one."""
    make_folder(parent)
    while True:
        taken = [int(p.name) for p in parent.glob("*") if p.name.isascii() and p.name.isdigit()]
        folder = parent / str(max(taken, default=0) + 1)
        try:
            folder.mkdir()
        except FileExistsError:
            continue  # another process was faster
        except OSError as error:
            raise _not_made(folder, error) from None
        return folder


def free_folder(out: Path) -> Path:
    """Return a folder that can be written to, not made yet; UsageError when it cannot be used."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not empty; choose a new or empty folder for --out.")
    require_folder_above(out)
    return out


def require_folder_above(out: Path) -> None:
    """Raise UsageError when a folder would have to be made below a file."""
    if not next(p for p in (out, *out.absolute().parents) if p.exists()).is_dir():
        raise UsageError(
            f"{out} cannot be created (Not a directory); choose an --out that you can write to."
        )


def make_folder(out: Path) -> Path:
    """Make a folder and return it; UsageError where that is refused."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_made(out, error) from None
    return out


def _not_made(folder: Path, error: OSError) -> UsageError:
    return UsageError(
        f"{folder} cannot be created ({error.strerror}); choose an --out that you can write to."
    )


# --- commands as a person types them --------------------------------------------------------------


def shown(path: Path, *, kept: bool = False) -> str:
    """Return a path as a person would type it from here: relative where it lies below.

    What is `kept` in a file may be read from anywhere, so it is whole.
    """
    path = path.absolute()
    here = Path.cwd()
    below = not kept and path.is_relative_to(here)
    return quoted(str(path.relative_to(here) if below else path))


def python_command(*, kept: bool = False) -> str:
    """Return this interpreter as typed from here, so that a printed line works unchanged."""
    return shown(Path(sys.executable), kept=kept)


def lvm_command(*, kept: bool = False) -> str:
    """Return the `lvm` command next to this interpreter, which need not be on the path."""
    script = Path(sys.executable).with_name("lvm")
    if script.exists():
        return shown(script, kept=kept)
    return f"{python_command(kept=kept)} -m lvm.cli"


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UsageError, so that all bad input is reported the same way."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with argparse's finding and the way to the help."""
        raise UsageError(f"{message}; see {self.prog} --help.")


def statuses(
    ends: Iterable[ExitStatus] = ExitStatus, words: Mapping[ExitStatus, str] | None = None
) -> str:
    """Return what the help of a command says of its exit status, in `words` where they differ."""
    said = words or {}
    return "exit status: " + ", ".join(f"{s.value} {said.get(s, s.meaning)}" for s in ends)


# --- how a command ends ---------------------------------------------------------------------------


def run_command(main: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Run `main(argv)` and return its exit status; every failure is answered in one sentence."""
    with heeding_signals():
        try:
            with answering():
                return main(argv)
        except LvmError as error:
            print(f"error: {printable(str(error))}", file=sys.stderr)
            return int(error.exit_status)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return ExitStatus.INTERRUPTED
        except BrokenPipeError:
            nobody_reads()
            return ExitStatus.BROKEN_PIPE


def run_program(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Run `main` with the arguments of this process, and end the process with its status.

    Exit handlers run. The modules are not torn down, which takes a second once torch, Ray and
    MLflow are imported.
    """
    status: int | None = None

    def leave() -> None:
        if status is not None:  # else the interpreter exits as usual
            with contextlib.suppress(OSError, ValueError):  # the interpreter reports it then
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)

    atexit.register(leave)  # first, so it is called last
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal may lack a character of the answer
            stream.reconfigure(errors="backslashreplace")
    status = run_command(main, sys.argv[1:])
    end_with(status)
    sys.exit(status)


def nobody_reads() -> None:
    """Discard all further output: the reader of the pipe, or the terminal, is gone."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):  # a test's stream has no file descriptor
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextlib.contextmanager
def answering(
    place: Callable[[], Path | None] = lambda: None, then: Callable[[], str] = lambda: ""
) -> Iterator[None]:
    """Turn an unforeseen error into an LvmError of one sentence; after a signal, into an interrupt.

    A disk that is full or cannot be written to becomes a UsageError, anything else a ProgramError
    whose traceback is kept in the folder that `place` returns, or a temporary file. `then` returns
    what to type afterwards. Both are called only when they are needed.
    """
    try:
        yield
    except Exception as error:
        if end_was_asked_for():
            raise KeyboardInterrupt from error
        if isinstance(error, LvmError | BrokenPipeError):
            raise
        if isinstance(error, OSError) and error.errno in _REFUSED:
            raise _refused(error, place(), then()) from error
        raise _program_error(error, place(), then()) from error


def _refused(error: OSError, folder: Path | None, then: str) -> UsageError:
    what = error.filename or (f"a file in {folder}" if folder is not None else "a file")
    remedy = "free some space" if error.errno in _FULL else "grant this user access to it"
    return UsageError(
        f"{what} is refused ({error.strerror}); {remedy} or choose another --out"
        f"{f', then {then}' if then else '.'}"
    )


def _program_error(error: Exception, folder: Path | None, then: str) -> ProgramError:
    kept = _keep_traceback(error, folder)
    said = [*str(error).strip().splitlines(), ""][0]
    found = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return ProgramError(
        f"lvm failed: {found}; the traceback is in {kept}; "
        f"{then or 'try again, or report it with that file.'}"
    )


def _keep_traceback(error: Exception, folder: Path | None) -> Path | str:
    """Add a traceback to a file and return its path; print it where no file can be written."""
    text = "".join(traceback.format_exception(error))
    when = time.strftime("%Y-%m-%d %H:%M:%S %z")
    places = [folder] if folder is not None else []
    for place in (*places, Path(tempfile.gettempdir())):
        own = place == folder
        path = place / (ERROR_FILE if own else f"lvm-{os.getpid()}-{ERROR_FILE}")
        with contextlib.suppress(OSError), path.open("a", encoding="utf-8") as file:
            file.write(f"{when}  {shlex.join(sys.argv)}\n{text}\n")
            return path
    print(text, file=sys.stderr)
    return "the lines above"


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = _FULL | {errno.EROFS, errno.EACCES, errno.EPERM}
