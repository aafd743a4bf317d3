"""What is done on another node: look at a process, end it, tell what code is there."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from lvm.triage.on_ray.handles import Ref

ANSWER_SECONDS = 30.0
TRIAL = "ray::ArmTrial"  # title of a process that serves trials
STARTING = "ray::ArmTrial.__init__"  # title of a process until its trial is set up

T = TypeVar("T")
P = ParamSpec("P")


def on_node(node: str, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> Ref[T]:
    """Return a task that runs `function` on the node with this id, whatever its load."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(num_cpus=0, max_retries=0)(function)
    answer: Ref[T] = task.options(scheduling_strategy=strategy).remote(*arguments, **named)
    return answer


def stack_and_kill(node: str, pid: int, folder: Path, arm: str) -> str:
    """Keep the stack of a process in `folder`, and end it; return the file, or why there is none.

    A node that does not answer loses the process anyway.
    """
    import ray

    path = folder / f"{arm}.txt"
    text = "its node did not answer"
    with contextlib.suppress(Exception):
        text = ray.get(on_node(node, _stack_and_kill, pid), timeout=ANSWER_SECONDS)
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")
    return str(path)


def end_hung(seconds: float, idle: Mapping[str, Sequence[int]]) -> int:
    """End this run's processes that may hang without a trial that says so; return how many.

    Those are the idle ones, by node, and those that have been starting for so long. They do not
    hear Ray when they are stopped, or hang in an import from a file system that does not answer.
    """
    import ray

    job = ray.get_runtime_context().get_job_id()
    ended = 0
    for node in [node["NodeID"] for node in ray.nodes() if node["Alive"]]:
        with contextlib.suppress(Exception):
            task = on_node(node, _end_hung, job, seconds, list(idle.get(node, ())))
            ended += ray.get(task, timeout=ANSWER_SECONDS)
    return ended


def _end_hung(job: str, seconds: float, idle: list[int]) -> int:
    import time

    import psutil

    ended = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            title = " ".join(process.cmdline())
            if TRIAL not in title or process.environ().get("RAY_JOB_ID") != job:
                continue
            starting = STARTING in title and time.time() - process.create_time() > seconds
            if starting or process.pid in idle:
                process.kill()
                ended += 1
    return ended


def _stack_and_kill(pid: int) -> str:
    import os
    import signal

    dump = Path(sys.executable).with_name("py-spy")
    command = [str(dump), "dump", "--nonblocking", "--pid", str(pid)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        text = done.stdout or done.stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        text = f"its stack could not be read ({error})"
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return text.strip()
