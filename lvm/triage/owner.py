"""A process, named so that no other one is mistaken for it."""

from __future__ import annotations

import os
import socket
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A process, named so that no other one is mistaken for it."""

    host: str
    boot: str  # of the machine: pids start anew with it
    space: str  # of pids: those of a container mean nothing outside
    pid: int
    started: str  # a pid is used again
    token: str

    @classmethod
    def here(cls) -> Owner:
        """Return this process with a new token."""
        pid = os.getpid()
        return cls(
            host=socket.gethostname(),
            boot=_read("/proc/sys/kernel/random/boot_id"),
            space=_link("/proc/self/ns/pid"),
            pid=pid,
            started=_start_of(pid) or "",
            token=uuid.uuid4().hex,
        )

    def lives(self, here: Owner) -> bool | None:
        """Whether the process lives; None where `here` cannot know."""
        if (self.host, self.boot, self.space) != (here.host, here.boot, here.space):
            return None
        if sys.platform == "linux" and not (self.boot and self.space):
            return None  # two containers may share a name
        started = _start_of(self.pid)
        if started == "" or self.started == "":
            return None
        return started == self.started


def _start_of(pid: int) -> str | None:
    """Return when a process started, by a clock that never jumps where there is one.

    None when it has ended, an empty text where that cannot be known.
    """
    stat = _read(f"/proc/{pid}/stat")
    if stat:
        state, *fields = stat.rpartition(")")[2].split()
        return None if state in "ZX" else fields[18]  # ticks since the machine started
    try:
        os.kill(pid, 0)
        process = psutil.Process(pid)
        ended = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        return None if ended else f"{process.create_time():.0f}"
    except (ProcessLookupError, psutil.NoSuchProcess):
        return None
    except (OSError, psutil.Error):  # of another user
        return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
