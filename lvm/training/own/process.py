"""The process of a person's training, as the process that runs an arm sees it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lvm.core.outside import printable, shortened

KEEPER = Path(__file__).with_name("keeper.py")
LOG, LOCK = "trainer.log", "trainer.lock"  # in the arm's folder
LAST_LINES, LAST_BYTES = 3, 4096


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a training ended by itself."""

    status: int | None  # None where it could not be run
    left: int = 0  # processes that it left behind, which were ended
    problem: str = ""  # why it could not be run

    @property
    def went_well(self) -> bool:
        """Whether it says so itself."""
        return self.status == 0

    @property
    def in_words(self) -> str:
        """How it ended, as a clause."""
        if self.status is None:
            return f"cannot be run ({self.problem})"
        if self.status < 0:
            return f"was killed by signal {-self.status}"
        return f"ended with exit status {self.status}"


class Process:
    """A running training; `close` ends it with everything that it started."""

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        work: Path,
        environment: Mapping[str, str],
        *,
        grace: float,
    ) -> None:
        """Start `words` in the folder `work`; its log and lock go to `folder`.

        `grace` is the number of seconds from SIGTERM to SIGKILL.
        """
        self._log = folder / LOG
        command = [sys.executable, str(KEEPER), str(folder / LOCK), str(self._log)]
        self._keeper = subprocess.Popen(
            [*command, str(work), str(grace), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C is this process's, and a kill of its group too
            env={**os.environ, **environment},
        )
        self._ended: Ended | None = None

    def hold(self) -> None:
        """Let it wait until it may go on."""
        self._tell(b"h")

    def go_on(self) -> None:
        """Let it go on."""
        self._tell(b"g")

    def ended(self) -> Ended | None:
        """Return how it ended by itself, or None while it runs."""
        if self._ended is None and self._keeper.poll() is not None:
            self._ended = self._answer()
        return self._ended

    def close(self) -> None:
        """End it, and wait until nothing of it is left."""
        with contextlib.suppress(OSError):
            assert self._keeper.stdin is not None
            self._keeper.stdin.close()
        self._keeper.wait()
        self.ended()
        assert self._keeper.stdout is not None
        self._keeper.stdout.close()

    def _tell(self, word: bytes) -> None:
        assert self._keeper.stdin is not None
        with contextlib.suppress(OSError):  # it has ended
            self._keeper.stdin.write(word)
            self._keeper.stdin.flush()

    def _answer(self) -> Ended:
        assert self._keeper.stdout is not None
        try:
            told = json.loads(self._keeper.stdout.read())
        except ValueError:
            code = self._keeper.returncode
            return Ended(status=None, problem=f"its keeper ended with status {code}")
        if "failed" in told:
            return Ended(status=None, problem=printable(str(told["failed"])))
        return Ended(status=int(told["status"]), left=int(told["left"]))


def wait_for_earlier(folder: Path) -> None:
    """Wait until a training of the same arm has ended, whose keeper may have outlived its trial."""
    with (folder / LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)


def begin_log(folder: Path, words: Sequence[str]) -> int:
    """Write a command to the log, for a person to run by hand; return where its output begins."""
    with (folder / LOG).open("a") as log:
        log.write(f"$ {shlex.join(words)}\n")
        return log.tell()


def last_lines(log: Path, since: int = 0) -> str:
    """Return the last lines of a log as a clause, out of what was written after `since` bytes."""
    try:
        with log.open("rb") as file:
            file.seek(max(since, log.stat().st_size - LAST_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        text = ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return f"it wrote nothing to {LOG}"
    shown = " | ".join(shortened(printable(line)) for line in lines[-LAST_LINES:])
    return f"{LOG} ends: {shown}"
