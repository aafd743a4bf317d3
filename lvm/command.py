"""What every command shares: errors become one sentence and an exit status."""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from lvm.errors import LvmError, UsageError

INTERRUPTED = 130


def numbered(parent: Path) -> Path:
    """Return the next free numbered folder in `parent`."""
    taken = [int(p.name) for p in parent.glob("*") if p.name.isdigit()]
    return parent / str(max(taken, default=0) + 1)


def free_folder(out: Path) -> Path:
    """Return a folder that can be written to, not made yet; UsageError when it cannot be used."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            f"{out} holds other files, allowed is a new or empty folder; choose another --out."
        )
    if not next(p for p in (out, *out.absolute().parents) if p.exists()).is_dir():
        raise UsageError(
            f"{out} cannot be made (Not a directory); choose an --out that you can write to."
        )
    return out


def make_folder(out: Path) -> None:
    """Make a folder; UsageError where that is refused."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{out} cannot be made ({error.strerror}); choose an --out that you can write to."
        ) from None


def shown(path: Path) -> str:
    """Return a path as a person would type it from here: relative where it lies below."""
    path = path.absolute()
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def python_command() -> str:
    """Return this interpreter as typed from here, so that a printed line works as it stands."""
    return shown(Path(sys.executable))


def lvm_command() -> str:
    """Return the `lvm` command beside this interpreter, which need not be on the path."""
    script = Path(sys.executable).with_name("lvm")
    return shown(script) if script.exists() else f"{python_command()} -m lvm.cli"


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UsageError, so that all bad input is answered alike."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with argparse's finding and the way to the help."""
        raise UsageError(f"{message}; see {self.prog} --help.")


def run_command(main: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Run `main(argv)`; print a foreseeable failure in one sentence and return its exit status."""
    try:
        return main(argv)
    except LvmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno in _FULL:
            place = f" at {error.filename}" if error.filename else ""
            print(
                f"error: no space left{place}; free some space or choose another --out.",
                file=sys.stderr,
            )
            return UsageError.exit_status
        raise


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
