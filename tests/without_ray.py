"""A triage whose arms run in its own process, started as a process of its own by tests.

    python tests/without_ray.py PHASE COUNT [flags of the triage]

PHASE names a function below; at its COUNT-th call the process sends itself the signals in the
environment variable SIGNALS, as `15` or `15 15`. `-` as PHASE sends none; with `breaks`, memory
runs out in every COUNT-th arm after phase 1. Ray, which takes seconds to start, is replaced; what
it does to signals is tested with it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import lvm.jobs.job
from lvm.core.command import run_program
from lvm.data.windows import Dataset
from lvm.triage import local
from lvm.triage.arm import ArmSpec
from lvm.triage.events import Epoch
from lvm.triage.journal import Journal
from lvm.triage.local import LocalExecutor
from lvm.triage.step import Role
from tune_jobs.triage import main

SECOND_AFTER_SECONDS = 0.3


class WithoutRay(LocalExecutor):
    """Takes the place of Ray's executor."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def start(self) -> None:
        """Start nothing."""

    def stop(self) -> None:
        """Stop nothing."""


def send() -> None:
    """Send this process the signals it was told to."""
    for index, number in enumerate(os.environ["SIGNALS"].split()):
        if index:
            time.sleep(SECOND_AFTER_SECONDS)
        os.kill(os.getpid(), signal.Signals(int(number)))


def hit(owner: Any, name: str, count: int) -> None:
    """Send the signals in the `count`-th call of a function."""
    real: Callable[..., Any] = getattr(owner, name)
    calls = [0]

    def called(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == count:
            send()
        return real(*args, **kwargs)

    setattr(owner, name, called)


def breaks(count: int) -> None:
    """Let memory run out in every `count`-th arm after phase 1."""
    real, begun = local.run_trial, [0]

    def run_trial(spec: ArmSpec, dataset: Dataset) -> Iterator[Epoch]:
        begun[0] += spec.role is not Role.PHASE1
        if spec.role is not Role.PHASE1 and begun[0] % count == 0:
            raise MemoryError
        yield from real(spec, dataset)

    local.run_trial = run_trial


PHASES = {
    "audit": (lvm.jobs.job, "run_audit"),
    "data": (lvm.jobs.job, "dataset_of"),
    "start": (WithoutRay, "start"),
    "event": (Journal, "append"),
    "arms": (LocalExecutor, "run"),
    "views": (lvm.jobs.job, "write_views"),
    "words": (lvm.jobs.job, "print_verdict"),
    "stop": (WithoutRay, "stop"),
}


def run() -> None:
    """Run the triage with this process's arguments; end the process with its status."""
    phase, count, *argv = sys.argv[1:]
    lvm.jobs.job.RayExecutor = WithoutRay  # type: ignore[misc, assignment]
    if phase == "breaks":
        breaks(int(count))
    elif phase != "-":
        hit(*PHASES[phase], int(count))
    sys.argv[1:] = argv
    run_program(main)


if __name__ == "__main__":
    run()
