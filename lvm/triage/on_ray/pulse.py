"""Whether the cluster is still there. Ray would end this process by itself, without a word of ours.

A driver that cannot reach its head for a minute is terminated from within Ray's core, and one whose
own raylet dies hangs or aborts. Both are noticed here first, while the run can still be closed.
"""

from __future__ import annotations

import atexit
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from lvm.errors import ClusterLostError

LOST_SECONDS = 15.0  # without an answer of the head
PROBE_SECONDS = 2.0
NODES_SECONDS = 5.0


class Pulse:
    """Feels the cluster's pulse, as often as it is asked to and not more often than needed."""

    def __init__(
        self, answers: Callable[[], bool], has_node: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._answers, self._has_node, self._clock = answers, has_node, clock
        self._heard = self._probed = self._counted = clock()

    def check(self) -> None:
        """Raise ClusterLostError when the head is silent for long, or this node is out."""
        now = self._clock()
        if now - self._probed < PROBE_SECONDS:
            return
        self._probed = now
        if self._answers():
            self._heard = now
        elif now - self._heard > LOST_SECONDS:
            raise ClusterLostError(
                f"the head of the Ray cluster has not answered for {now - self._heard:.0f} s; "
                "start it again and resume the run."
            )
        if self._heard == now and now - self._counted > NODES_SECONDS:
            self._counted = now
            if not self._has_node():
                raise ClusterLostError(
                    "Ray lost the node that this process runs on (its raylet died); start Ray "
                    "again there and resume the run."
                )


def pulse_of(ray: Any) -> Pulse:
    """Return the pulse of the cluster that this process is connected to."""
    context = ray.get_runtime_context()
    host, _, port = str(context.gcs_address).rpartition(":")
    node = context.get_node_id()
    return Pulse(
        lambda: _answers(host, int(port)),
        lambda: any(n["NodeID"] == node and n["Alive"] for n in ray.nodes()),
    )


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def leave_without_ray() -> None:
    """End this process, when it ends, without Ray's own goodbye: it would wait for a dead head."""
    atexit.register(_leave)


def _leave() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(ClusterLostError.exit_status)
