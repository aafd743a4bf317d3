"""One run, one driver: a file in the run folder that its driver keeps fresh.

    RUN/driver.json    host, boot, pid space, pid and start of the driver, and a token of its own

The file is created in one step (O_EXCL, which network file systems honour) and touched every few
seconds. A run is abandoned once its driver was silent for STALE_SECONDS, or at once when it ran on
this machine and its process is gone. Ages are differences between two times of the file system, for
the clocks of two machines differ and jump; before a silent driver is replaced, it is watched for
the length of two touches, so that a jump of that clock costs no run its driver.

Of several processes that find a run abandoned one replaces the driver: whoever creates the claim
that is named after the old token. The old driver, if it wakes, finds another token and stops.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from lvm.core.errors import RunBusyError, RunTakenError, UsageError
from lvm.core.outside import parse_json
from lvm.triage.owner import Owner

FILE = "driver.json"
SCRATCH = ".driver-"  # claims, new locks and clocks: gone in an instant
BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
WATCH_SECONDS = 2 * BEAT_SECONDS + 1.0
POLL_SECONDS = 0.2
MAX_ATTEMPTS = 50  # at a lock that others create and remove all the time


@dataclass(frozen=True, kw_only=True)
class Driver:
    """What the lock of a run folder says."""

    owner: Owner | None  # None while it is being written
    key: str  # changes with the owner
    touched: float  # modification time, of the file system
    age: float  # seconds since then, by the same clock; negative where that was set back
    lives: bool | None

    @property
    def abandoned(self) -> bool:
        """Whether no process drives the run."""
        return self.lives is False or abs(self.age) > STALE_SECONDS

    def in_words(self, folder: Path) -> str:
        """Return who drives the run, and since when it is silent."""
        who = "another process"
        if self.owner is not None:
            who = f"process {self.owner.pid} on {self.owner.host}"
        age = max(0.0, self.age)
        return f"{folder} is driven by {who} (last sign of life {age:.0f} s ago)"


def driver_of(folder: Path) -> Driver | None:
    """Return who holds the lock of a run folder, dead or alive; None when nobody does."""
    try:
        with (folder / FILE).open(encoding="utf-8") as file:  # a stat alone may be an old one
            stat, text = os.fstat(file.fileno()), file.read()
    except OSError:
        return None
    try:
        owner = Owner(**parse_json(text))
    except (ValueError, TypeError):
        owner = None
    return Driver(
        owner=owner,
        key=owner.token if owner is not None else f"{stat.st_ino:x}-{stat.st_mtime_ns:x}",
        touched=stat.st_mtime,
        age=_clock_of(folder) - stat.st_mtime,
        lives=owner.lives(Owner.here()) if owner is not None else None,
    )


class Lock:
    """The right to drive a run, kept by a thread until it is released or lost."""

    def __init__(self, folder: Path, owner: Owner, file: int, beat_seconds: float) -> None:
        self.folder, self._owner, self._file = folder, owner, file
        self._beat_seconds = beat_seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lvm-lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise RunTakenError when another process has taken the run over."""
        if not self._is_ours():
            raise RunTakenError(
                f"{self.folder / FILE} no longer belongs to this process, which was silent for "
                f"more than {STALE_SECONDS:.0f} s or whose folder was moved. Nothing more is "
                "written; run lvm status to see who drives the run now."
            )

    def release(self) -> None:
        """Let the next process drive the run."""
        self._over.set()
        self._thread.join(self._beat_seconds)
        with contextlib.suppress(OSError), _claim(self.folder, self._owner.token) as claimed:
            if claimed and self._is_ours():
                (self.folder / FILE).unlink()
        os.close(self._file)

    def _is_ours(self) -> bool:
        try:
            text = (self.folder / FILE).read_text(encoding="utf-8")
        except FileNotFoundError:
            return False
        except OSError:  # a server that is away for a moment says nothing about the lock
            return True
        return self._owner.token in text

    def _beat(self) -> None:
        while not self._over.wait(self._beat_seconds):
            # Through the open file, which stays the own one when the name has gone to another.
            with contextlib.suppress(OSError):
                os.utime(self._file)


def acquire(folder: Path, *, beat_seconds: float = BEAT_SECONDS) -> Lock:
    """Return the lock of a run folder.

    Raises RunBusyError while another process drives the run, UsageError where no file can be made.
    """
    owner = Owner.here()
    for _ in range(MAX_ATTEMPTS):
        file = _create(folder / FILE, owner)
        if file is None and (driver := driver_of(folder)) is not None:
            if not driver.abandoned or (driver.lives is not False and _stirs(folder, driver)):
                raise RunBusyError(f"{driver.in_words(folder)}; wait for it or stop it.")
            file = _take_over(folder, driver, owner)
        if file is not None:
            return Lock(folder, owner, file, beat_seconds)
        time.sleep(POLL_SECONDS)
    raise RunBusyError(f"{folder / FILE} cannot be locked; stop what else uses this run folder.")


def _create(path: Path, owner: Owner) -> int | None:
    """Create a lock and return its open file; None when there is one."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return None
    except OSError as error:
        raise _refused(path, error) from None
    try:
        os.write(file, json.dumps(asdict(owner)).encode() + b"\n")
        os.fsync(file)
    except OSError as error:
        os.close(file)
        path.unlink()
        raise _refused(path, error) from None
    return file


def _refused(path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"{path} cannot be written ({error.strerror}); free some space or choose a folder that "
        "this user can write to."
    )


def _stirs(folder: Path, driver: Driver) -> bool:
    """Watch a silent driver; return whether it, or another one, touches the lock."""
    deadline = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        now = driver_of(folder)
        if now is None or now.lives is False:
            return False
        if (now.key, now.touched) != (driver.key, driver.touched):
            return True
    return False


def _take_over(folder: Path, driver: Driver, owner: Owner) -> int | None:
    """Put a lock in the place of an abandoned one; None when another process was faster."""
    with _claim(folder, driver.key) as claimed:
        now = driver_of(folder)
        if not claimed or now is None or now.key != driver.key:
            return None
        fresh = folder / f"{SCRATCH}{owner.token}"
        file = _create(fresh, owner)
        os.replace(fresh, folder / FILE)
        return file


@contextlib.contextmanager
def _claim(folder: Path, key: str) -> Iterator[bool]:
    """Hold the sole right to replace or remove the lock called `key`; False when another does.

    A claim is held for an instant. One that a killed process left is swept once it is stale.
    """
    path = folder / f"{SCRATCH}{key}.claim"
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        with contextlib.suppress(OSError):
            if _clock_of(folder) - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()
        yield False
        return
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)


def _clock_of(folder: Path) -> float:
    """Return the time of the file system of a folder; this machine's where nothing can be made."""
    path = folder / f"{SCRATCH}{uuid.uuid4().hex}.clock"
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL)
    except OSError:
        return time.time()
    try:
        return os.fstat(file).st_mtime
    finally:
        os.close(file)
        path.unlink(missing_ok=True)
