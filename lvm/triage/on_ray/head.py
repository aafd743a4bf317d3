"""The processes of a Ray cluster on this machine: started, kept, and ended with standard input.

    python head.py < {"num_cpus": 3, "resources": {"lvm_trial": 2}} > {"address": "HOST:PORT"}

Run as a program (by `lvm.triage.local_head`), never imported: it needs nothing but Ray. What goes
wrong is answered as {"problem": TYPE, "texts": [...]}. Ray's own `ray.init` starts four processes
that a triage does not use (an autoscaler's monitor, a log monitor, the dashboard, two workers for
the driver that starts it), which together compute for longer than those that it does use.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder: its modules would hide others of the same name

import contextlib
import json
import os
import signal
from collections.abc import Callable
from typing import Protocol


class Head(Protocol):
    """A node of Ray, as far as it is used here."""

    gcs_address: str

    def kill_all_processes(self, check_alive: bool, allow_graceful: bool) -> None:
        """End its processes."""


def main() -> None:
    """Start a head on request, report its address, and end it when the parent is gone."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray's words are no answer
    node_of = importing()
    line = sys.stdin.readline()
    if not line:
        return
    try:
        asked = json.loads(line)
        node = node_of(asked["num_cpus"], asked["resources"])
    except Exception as error:
        told: dict[str, str | list[str]] = {"problem": type(error).__name__, "texts": texts(error)}
    else:
        told = {"address": node.gcs_address}
    with contextlib.suppress(OSError):
        print(json.dumps(told), file=answer, flush=True)
    sys.stdin.read()
    if "address" in told:
        node.kill_all_processes(check_alive=False, allow_graceful=True)
    leave_nobody()


def leave_nobody() -> None:
    """End what is left in this process's own group, and with it this process.

    A raylet that was killed leaves its agents, which then call a control service for minutes that
    is gone as well.
    """
    if os.getpgrp() == os.getpid():  # else it holds the processes of whoever started this one
        os.killpg(os.getpgrp(), signal.SIGKILL)


def importing() -> Callable[[int, dict[str, float]], Head]:
    """Import Ray, which takes a second; return what starts a head that counts so much."""
    from ray._private.authentication import authentication_token_setup as token
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    class Lean(Node):  # type: ignore[misc]  # ray is untyped
        def start_api_server(self, **about: object) -> None:
            """Start no dashboard: nobody looks at it."""

    def node_of(num_cpus: int, resources: dict[str, float]) -> Head:
        token.enable_token_auth_by_default()
        token.ensure_token_if_auth_enabled({}, create_token_if_missing=True)
        params = RayParams(
            num_cpus=num_cpus,
            resources=resources,
            include_dashboard=False,
            include_log_monitor=False,
            no_monitor=True,
        )
        head: Head = Lean(params, head=True, shutdown_at_exit=True, spawn_reaper=True)
        return head

    return node_of


def texts(error: BaseException) -> list[str]:
    """Return what an error and its causes say."""
    said: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(said) < 10:
        said.append(str(cause).strip() or type(cause).__name__)
        cause = cause.__cause__
    return said


if __name__ == "__main__":
    main()
