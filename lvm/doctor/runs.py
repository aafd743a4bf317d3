"""Find runs that no process drives any more, according to their locks and MLflow.

Nothing is changed: each finding has the command that continues or closes the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol

from lvm.core.command import lvm_command, shown
from lvm.core.errors import DataError, LvmError, UsageError
from lvm.core.printed import resume_command
from lvm.doctor.machine import Finding
from lvm.triage.events import Interrupted
from lvm.triage.journal import FILE_NAME, read_run
from lvm.triage.lock import Driver, driver_of
from lvm.triage.state import RunState
from lvm.triage.verdict import build_verdict


class OpenRun(Protocol):
    """A triage that an MLflow store calls RUNNING."""

    @property
    def name(self) -> str:
        """Its name in the store."""

    @property
    def folder(self) -> Path | None:
        """The folder on its driver's machine, which may not exist here."""

    @property
    def host(self) -> str:
        """The machine of its driver."""


def orphans(folder: Path, open_runs: Callable[[Path], Sequence[OpenRun]]) -> list[Finding]:
    """Return findings on the run in `folder`, or on each of the runs below it.

    `open_runs` asks MLflow, in the store of a run folder. Raises UsageError when there is no run.
    """
    runs = [run for run in (folder, *sorted(_below(folder))) if (run / FILE_NAME).is_file()]
    if not runs:
        raise UsageError(
            f"{folder} holds no run ({FILE_NAME}); give a run folder, or the folder of several."
        )
    try:
        running, lost = list(open_runs(runs[0])), []
    except DataError as problem:
        later = "try again when it answers; the runs were checked without it"
        running = []
        lost = [Finding(what="MLflow", seen=str(problem), ok=False, optional=True, next=later)]
    folders = {run.folder for run in running if run.folder is not None}
    lost += [_without_folder(run) for run in running if run.folder and not run.folder.exists()]
    return [*(_judged(run, folders) for run in runs), *lost]


def _below(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _without_folder(run: OpenRun) -> Finding:
    return Finding(
        what=f"MLflow run {run.name}",
        seen=f"RUNNING, and its folder {run.folder} of {run.host} is not on this machine",
        ok=False,
        optional=True,
        next="look on that machine, or end it in the MLflow UI if the folder is gone",
    )


def _judged(run: Path, running: Collection[Path]) -> Finding:
    try:
        events = read_run(run)
    except LvmError as problem:
        return Finding(what=shown(run), seen=str(problem), ok=False, next="remove the folder")
    verdict = build_verdict(events, resume="").verdict
    return judge_run(
        shown(run),
        events,
        verdict,
        driver_of(run),
        time.time(),
        in_mlflow=run.absolute() in running,
        resume=resume_command(run, events.address),
    )


def judge_run(
    name: str,
    events: RunState,
    verdict: str | None,
    driver: Driver | None,
    now: float,
    *,
    in_mlflow: bool,
    resume: str,
) -> Finding:
    """Return a finding on a run: fine if it is driven, finished, or was stopped by somebody."""
    if driver is not None and not driver.abandoned:
        return Finding(what=name, seen=f"driven by {_who(driver)}", ok=True)
    stopped = isinstance(events[-1], Interrupted)
    seen = "interrupted" if stopped else "no process drives it"
    seen = f"finished: {verdict}" if verdict else seen
    if not (verdict or stopped):
        silent = max(0.0, now - events[-1].at) / 60
        seen += f", last event {silent:.0f} minutes ago"
        if driver is not None:
            seen += f", last driven by {_who(driver)}"
    steps = [] if verdict or stopped else [f"continue it: {resume}"]
    if in_mlflow:
        seen += "; MLflow calls it RUNNING"
        steps.append(f"close it in MLflow: {lvm_command()} track {name}")
    return Finding(what=name, seen=seen, ok=not steps, next="; or ".join(steps))


def _who(driver: Driver) -> str:
    owner = driver.owner
    return f"process {owner.pid} on {owner.host}" if owner is not None else "another process"
