"""When a cluster counts as lost."""

from __future__ import annotations

import socket

import pytest

from lvm.core.errors import ClusterLostError
from lvm.triage.on_ray.pulse import LOST_SECONDS, NODES_SECONDS, PROBE_SECONDS, Pulse, _listens


class Cluster:
    def __init__(self) -> None:
        self.now, self.answers, self.node, self.probes = 0.0, True, True, 0
        self.raylet = True
        self.pulse = Pulse(
            self.probe, lambda: self.raylet, lambda: self.node, clock=lambda: self.now
        )

    def probe(self) -> bool:
        self.probes += 1
        return self.answers

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += 0.2
            self.pulse.check()


def test_a_head_that_answers_is_asked_only_now_and_then() -> None:
    cluster = Cluster()
    cluster.wait(60)
    assert 60 / PROBE_SECONDS * 0.8 <= cluster.probes <= 60 / PROBE_SECONDS


def test_a_short_silence_is_forgiven() -> None:
    cluster = Cluster()
    for _ in range(3):
        cluster.answers = False
        cluster.wait(LOST_SECONDS - 2 * PROBE_SECONDS)
        cluster.answers = True
        cluster.wait(2 * PROBE_SECONDS)


def test_a_long_silence_is_a_lost_cluster() -> None:
    cluster = Cluster()
    cluster.answers = False
    with pytest.raises(ClusterLostError, match=r"has not answered for 1[5-9] s") as caught:
        cluster.wait(60)
    assert caught.value.exit_status == 75
    assert cluster.now <= LOST_SECONDS + 2 * PROBE_SECONDS


def test_a_raylet_that_nobody_hears_is_a_lost_cluster_at_once() -> None:
    """The head takes ten seconds to notice; Ray then ends this process, with status 1."""
    cluster = Cluster()
    cluster.raylet = False
    with pytest.raises(ClusterLostError, match="raylet died"):
        cluster.wait(60)
    assert cluster.now <= 2 * PROBE_SECONDS


def test_whether_somebody_listens_at_a_socket(tmp_path) -> None:
    path = str(tmp_path / "socket")
    assert not _listens(path)
    with socket.socket(socket.AF_UNIX) as raylet:
        raylet.bind(path)
        raylet.listen()
        assert _listens(path)
    assert not _listens(path)  # its process is gone, the file is still there
    assert _listens(None)


def test_a_node_that_is_out_is_a_lost_cluster() -> None:
    cluster = Cluster()
    cluster.node = False
    with pytest.raises(ClusterLostError, match="raylet died"):
        cluster.wait(60)
    assert cluster.now <= NODES_SECONDS + 2 * PROBE_SECONDS
