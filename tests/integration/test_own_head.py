"""A triage with a cluster of its own: who serves its first arms, and what is left when it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from lvm.triage.journal import read_journal

pytestmark = [pytest.mark.integration, pytest.mark.timeout(200)]

TRIAGE = str(Path(__file__).parents[2] / "tune_jobs" / "triage.py")
STARTED = re.compile(r"Started worker process with pid (\d+)")


def test_its_first_arms_are_served_by_the_processes_that_ray_starts_for_a_driver(world) -> None:
    """A process takes seconds of imports: one that is started for an arm is waited for."""
    folder = world.runs / "own_head"
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="own") as room:
        process = subprocess.Popen(
            [sys.executable, TRIAGE, *world.argv("own_head")],
            env={**os.environ, "RAY_TMPDIR": room},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 120
            while not any(event["event"] == "epoch" for event in journal(folder)):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            (log,) = Path(room).glob("**/session_2*/logs/raylet.out")
            ahead = [int(pid) for pid in STARTED.findall(log.read_text())]
            titles = [" ".join(psutil.Process(pid).cmdline()) for pid in ahead]
            assert any(title.startswith("ray::ArmTrial") for title in titles[:2])
            assert "Create runtime env" not in log.read_text()
            assert len(ahead) <= max(2, len(os.sched_getaffinity(0)))
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 130
            assert not any(psutil.pid_exists(pid) for pid in ahead)
        finally:
            process.kill()
            process.wait()


def journal(folder: Path) -> list[dict]:
    return list(read_journal(folder)) if (folder / "journal.jsonl").exists() else []
