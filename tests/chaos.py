"""One hit at one moment of a triage, and what is left of it: for the chaos benchmark and its test.

A run is a process of its own with a mark in its environment, which its children inherit: whatever
carries the mark after the end was left behind. Only such processes are ever hit or ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from lvm.core.records import to_plain
from lvm.triage.events import ArmEnded, ArmJudged, Epoch, Event
from lvm.triage.journal import FILE_NAME, read_events
from lvm.triage.reopen import effective
from lvm.triage.state import RunState

ROOT = Path(__file__).resolve().parent.parent
TRIAGE = str(ROOT / "tune_jobs" / "triage.py")
MARK = "LVM_CHAOS_RUN"
GRACE_SECONDS = 40.0  # for processes of a killed driver to end by themselves
RESUMABLE = {2, 75, 130, -signal.SIGKILL}  # how a hit run may end without a verdict
JUDGED = ("reason", "epoch", "stage", "evaluation")

RECIPE = """\
[model]
hidden = 32
state = 16
num_layers = 1
head_dim = 32
[head]
hidden = 32
width = 16
[objective]
temperature = 0.02
[training]
epochs = 12
batch_size = 32
learning_rate = 0.0015
[gates]
stage_eval_cosine = 0.6
success_r_at_5 = 0.45
success_mrr = 0.3
[schedule]
short_epochs = 8
long_epochs = 8
first_rung = 4
confirm_workers = 2
stuck_seconds = 15.0
wait_minutes = 3.0
"""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where runs take place: their data, and what they may be given."""

    folder: Path
    bank: Path
    recipe: Path
    env: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    def flags(self, out: Path, *more: str) -> list[str]:
        """Return the flags of a fresh run."""
        return ["--data", str(self.bank), "--recipe", str(self.recipe), "--out", str(out), *more]


@dataclass
class Run:
    """A triage as a process, hit or not."""

    place: Place
    out: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    process: subprocess.Popen[str] | None = None

    @property
    def log(self) -> Path:
        """Where the process prints: on no disk that is ever filled or made read-only."""
        return self.place.folder / f"{self.out.parent.name}-{self.out.name}.log"

    def start(self, flags: list[str], **env: str) -> None:
        """Start the process."""
        with self.log.open("a") as stream:
            self.process = subprocess.Popen(
                [sys.executable, TRIAGE, *flags],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**self.place.env, MARK: self.mark, **env},
                cwd=self.place.folder,
                text=True,
                start_new_session=True,
            )

    def events(self) -> list[Event]:
        """Return the whole lines of the journal."""
        if not (self.out / FILE_NAME).exists():
            return []
        return list(read_events(self.out))

    def wait_for(self, reached: Callable[[list[Event]], bool], seconds: float) -> bool:
        """Wait until the journal has come somewhere; False when the run ended before."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if reached(self.events()):
                return True
            assert self.process is not None
            if self.process.poll() is not None:
                return False
            time.sleep(0.1)
        raise TimeoutError(f"{self.out} never came so far")

    def end(self, seconds: float) -> int:
        """Return the exit status; TimeoutError when the run does not end."""
        assert self.process is not None
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.out} did not end in {seconds:.0f} s") from None

    def marked(self) -> list[psutil.Process]:
        """Return the processes that carry this run's mark."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                ours = process.environ().get(MARK) == self.mark
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def title(self, words: str) -> list[psutil.Process]:
        """Return the marked processes whose command line holds these words."""
        found = []
        for process in self.marked():
            with contextlib.suppress(psutil.Error):
                if words in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def left_behind(self) -> list[str]:
        """Return the processes that outlive the run."""
        deadline = time.monotonic() + GRACE_SECONDS
        while (left := self.marked()) and time.monotonic() < deadline:
            time.sleep(0.5)
        names = []
        for process in left:
            with contextlib.suppress(psutil.Error):
                names.append(" ".join(process.cmdline())[:80] or process.name())
                process.kill()
        return names


# --- what a run came to ---------------------------------------------------------------------------


def outcome(events: list[Event]) -> tuple[Any, ...]:
    """Return the verdict and the numbers of a run; two workers add in another order than one."""
    state = RunState(effective(events))
    judged = {
        (e.step, e.name): [_rounded(to_plain(getattr(e, key))) for key in JUDGED]
        for e in state.of(ArmJudged)
    }
    stop = state.stop
    return (stop.verdict if stop else None, stop.cause if stop else None, judged)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items() if key != "reason"}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def twice(events: list[Event]) -> list[str]:
    """Return the arms of which an epoch stands twice in the journal, or after their end."""
    seen: set[tuple[str, int]] = set()
    ended: dict[str, int] = {}
    found = []
    for event in events:
        if isinstance(event, Epoch):
            key = (event.arm, event.epoch)
            if key in seen or event.epoch <= ended.get(event.arm, -1):
                found.append(f"{event.name} epoch {event.epoch}")
            seen.add(key)
        elif isinstance(event, ArmEnded) and event.reason in ("finished", "pruned"):
            ended[event.arm] = event.epoch
    return found


def lost_epochs(run: Run) -> int:
    """Return the most epochs that an arm has in the journal and no longer on disk."""
    most: dict[str, int] = {}
    for event in run.events():
        if isinstance(event, Epoch):
            most[event.arm] = max(event.epoch, most.get(event.arm, 0))
    lost = 0
    for arm, epoch in most.items():
        path = run.out / "arms" / arm / "epochs.jsonl"
        kept = len(path.read_text().split("\n")) - 1 if path.exists() else 0
        lost = max(lost, epoch - kept)
    return lost


def open_in_mlflow(run: Run) -> int:
    """Return how many MLflow runs of this run folder are RUNNING."""
    import sqlite3

    store = run.out.parent / "mlflow.db"
    if not store.exists():
        return 0
    with contextlib.closing(sqlite3.connect(store)) as database:
        query = (
            "select count(*) from runs where status = 'RUNNING' and (run_uuid in (select run_uuid "
            "from tags where key = 'folder' and value = ?) or run_uuid in (select run_uuid from "
            "tags where key = 'mlflow.parentRunId' and value in (select run_uuid from tags where "
            "key = 'folder' and value = ?)))"
        )
        return int(database.execute(query, (str(run.out), str(run.out))).fetchone()[0])


# --- hits -----------------------------------------------------------------------------------------


def kill_driver(run: Run) -> None:
    """kill -9 of the driver."""
    assert run.process is not None
    run.process.kill()


def term_driver(run: Run) -> None:
    """SIGTERM of the driver, as Kubernetes and SLURM send it."""
    assert run.process is not None
    run.process.terminate()


def kill_trial(run: Run) -> None:
    """kill -9 of a process that trains an arm."""
    _one(run, "ray::ArmTrial").kill()


def stop_trial(run: Run) -> None:
    """SIGSTOP of a process that trains an arm: it hangs."""
    _one(run, "ray::ArmTrial").send_signal(signal.SIGSTOP)


def stop_start(run: Run) -> None:
    """SIGSTOP of a process that is starting: it never says who it is, and holds its room."""
    _one(run, "ray::ArmTrial.__init__").send_signal(signal.SIGSTOP)


def kill_worker(run: Run) -> None:
    """kill -9 of a Ray Train worker."""
    _one(run, "ray::RayTrainWorker").kill()


def kill_raylet(run: Run) -> None:
    """kill -9 of the raylet."""
    _one(run, "raylet/raylet").kill()


def kill_head(run: Run) -> None:
    """kill -9 of the head's control store."""
    _one(run, "gcs/gcs_server").kill()


def _one(run: Run, words: str) -> psutil.Process:
    """Return one such process; waits a moment for it."""
    for _ in range(100):
        for process in run.title(words):
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_STOPPED:
                    return process
        time.sleep(0.1)
    raise LookupError(f"no process {words}")


HITS: dict[str, Callable[[Run], None]] = {
    "kill -9 of the driver": kill_driver,
    "kill -9 of a trial": kill_trial,
    "kill -9 of a Train worker": kill_worker,
    "kill -9 of the raylet": kill_raylet,
    "kill -9 of the head": kill_head,
    "SIGTERM of the driver": term_driver,
    "SIGSTOP of a trial": stop_trial,
    "SIGSTOP of a trial that starts": stop_start,
}


@contextlib.contextmanager
def small_disk(folder: Path, size: str = "400m") -> Iterator[Path]:
    """Mount a disk of its own on a folder; PermissionError where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    options = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(options, capture_output=True).returncode:
        raise PermissionError("no disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


def fill(folder: Path) -> Path:
    """Fill the disk of a folder; return the file that does."""
    path = folder / "filler"
    with contextlib.suppress(OSError), path.open("wb") as file:
        while True:
            file.write(b"\0" * (1 << 20))
            file.flush()
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while file.write(b"\0" * 512):
            pass
    return path


def make_read_only(folder: Path) -> None:
    """Let everything that is opened below a folder from now on be opened on a read-only disk.

    A mount of the folder onto itself: the disk below it stays in use, and cannot be changed.
    """
    for options in (["--bind", str(folder), str(folder)], ["-o", "remount,bind,ro", str(folder)]):
        subprocess.run(["mount", *options], check=True, capture_output=True)


def make_writable(folder: Path) -> None:
    """Take back what `make_read_only` did."""
    subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


JUMP = """\
import os, time
_real, _file = time.time, os.environ["LVM_CHAOS_JUMP"]
def _jumped():
    return _real() + (-7200.0 if os.path.exists(_file) else 0.0)
time.time = _jumped
"""


def jumping_clock(folder: Path) -> tuple[dict[str, str], Path]:
    """Return the environment of a run whose clock falls back two hours once a file exists."""
    (folder / "site").mkdir(parents=True, exist_ok=True)
    (folder / "site" / "sitecustomize.py").write_text(JUMP)
    trigger = folder / "jump"
    return {"PYTHONPATH": str(folder / "site"), "LVM_CHAOS_JUMP": str(trigger)}, trigger
