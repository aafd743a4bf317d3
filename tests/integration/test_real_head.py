"""A real head in a process beside the driver: nothing of it outlives the driver."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

DRIVER = """
import json, os, sys
from lvm.triage.local_head import LocalHead
head = LocalHead()
head.ask(1, {"lvm_trial": 1})
print(json.dumps({"address": head.address().address, "pid": head.pid}), flush=True)
sys.stdin.read()
head.close()
"""
GONE_SECONDS = 8.0  # an agent notices after 10 that its raylet is gone


@pytest.mark.parametrize("end", ["closed", "killed", "head killed", "services killed"])
def test_the_processes_of_a_head_end_with_the_driver(end: str):
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdin is not None
        assert driver.stdout is not None
        answer = json.loads(driver.stdout.readline())
        assert answer["address"].rpartition(":")[2].isdigit()
        head = psutil.Process(answer["pid"])
        processes = with_agents(head)
        assert any("gcs_server" in p.name() for p in processes)
        assert any("raylet" in p.name() for p in processes)
        assert not any("dashboard.py" in " ".join(p.cmdline()) for p in processes)
        # Agents of a raylet that was killed report that to a control service that is gone too.
        services = [p.pid for p in processes if p.name() in ("gcs_server", "raylet")]
        hit = {"killed": [driver.pid], "head killed": [head.pid], "services killed": services}
        for pid in hit.get(end, []):
            os.kill(pid, signal.SIGKILL)
        driver.stdin.close()
        assert driver.wait(GONE_SECONDS) == (-signal.SIGKILL if end == "killed" else 0)
        _, alive = psutil.wait_procs(processes, timeout=GONE_SECONDS)
        assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []


def with_agents(head: psutil.Process) -> list[psutil.Process]:
    """Return the processes of a head, once its raylet has started the agents."""
    deadline = time.monotonic() + GONE_SECONDS
    while time.monotonic() < deadline:
        processes = [head, *head.children(recursive=True)]
        if sum("Agent" in " ".join(p.cmdline()) for p in processes) == 2:
            return processes
        time.sleep(0.1)
    raise TimeoutError("the raylet has no agents")
