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

from lvm.core.errors import ClusterLostError
from lvm.triage.on_ray.handles import Ray

LOST_SECONDS = 15.0  # without an answer of the head
PROBE_SECONDS = 2.0
NODES_SECONDS = 5.0
NODE_LOST = "Ray lost this process's node (its raylet died); restart Ray there and resume the run."


class Pulse:
    """Checks that the cluster is alive, at most as often as needed."""

    def __init__(
        self,
        answers: Callable[[], bool],
        listens: Callable[[], bool],
        has_node: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._answers, self._listens, self._has_node, self._clock = (
            answers,
            listens,
            has_node,
            clock,
        )
        self._heard = self._probed = self._counted = clock()

    def check(self) -> None:
        """Raise ClusterLostError when the head is silent for long, or this node is out."""
        now = self._clock()
        if now - self._probed < PROBE_SECONDS:
            return
        self._probed = now
        if not self._listens():  # the head says so 10 s later, and then Ray ends this process
            raise ClusterLostError(NODE_LOST)
        if self._answers():
            self._heard = now
        elif now - self._heard > LOST_SECONDS:
            raise ClusterLostError(
                f"the head of the Ray cluster has not answered for {now - self._heard:.0f} s; "
                "restart it and resume the run."
            )
        if self._heard == now and now - self._counted > NODES_SECONDS:
            self._counted = now
            if not self._has_node():
                raise ClusterLostError(NODE_LOST)


def pulse_of(ray: Ray) -> Pulse:
    """Return the pulse of the cluster that this process is connected to."""
    context = ray.get_runtime_context()
    host, _, port = context.gcs_address.rpartition(":")
    node = context.get_node_id()
    return Pulse(
        lambda: _answers(host, int(port)),
        lambda: _listens(_raylet_socket()),
        lambda: any(n["NodeID"] == node and n["Alive"] for n in ray.nodes()),
    )


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _raylet_socket() -> str | None:
    """Return the path at which this node's raylet listens, None where Ray keeps it elsewhere."""
    node = getattr(sys.modules.get("ray._private.worker"), "_global_node", None)
    path: str | None = getattr(node, "raylet_socket_name", None)
    return path


def _listens(path: str | None) -> bool:
    """Whether a process listens at a Unix socket; true where it is busy, or not known."""
    if path is None:
        return True
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


def leave_without_ray() -> None:
    """End this process, when it ends, without Ray's own goodbye: it would wait for a dead head."""
    atexit.register(_leave)


def _leave() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(ClusterLostError.exit_status)
