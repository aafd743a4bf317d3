"""A real Ray cluster of two nodes on this machine, for tests of placement and of submitted jobs.

Each node is a `ray start --block` of its own: it ends its own children when asked to, so that no
other Ray process of this user is touched, as `ray stop` would. Ports, folder and token belong to
this cluster alone. Ready after about 15 s.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

RAY = str(Path(sys.executable).with_name("ray"))
READY_SECONDS = 180.0
STOP_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class TwoRaylets:
    """Where the cluster is, and the environment that a client process needs to be let in."""

    gcs_address: str
    job_server: str
    env: dict[str, str]
    logs: Path
    home: Path | None
    nodes: list[subprocess.Popen[bytes]]

    def join(self) -> None:
        """Let one more node of 1 CPU join; return at once."""
        worker = [f"--address={self.gcs_address}"]
        self.nodes.append(start(worker, self.env, self.logs / "worker.log", self.home))


@contextlib.contextmanager
def two_raylets(tmp_path: Path, home: Path | None = None, **variables: str) -> Iterator[TwoRaylets]:
    """Start a head and a second node with 1 CPU each; stop exactly these on leaving."""
    with one_raylet(tmp_path, home, **variables) as cluster:
        cluster.join()
        await_nodes(cluster, 2, cluster.nodes, tmp_path)
        yield cluster


@contextlib.contextmanager
def one_raylet(tmp_path: Path, home: Path | None = None, **variables: str) -> Iterator[TwoRaylets]:
    """Start a head with 1 CPU, which other nodes can join; stop exactly these on leaving.

    Logs of both are `tmp_path/head.log` and `tmp_path/worker.log`. `home` is the folder that both
    are started in, which a submitted job has for its working directory; `variables` go into their
    environment and that of the clients.

    Raises:
        RuntimeError: a node ended early or the two were not ready in time; the logs are quoted.
    """
    token = tmp_path / "auth_token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    gcs, dashboard, client = free_ports(3)
    cluster = TwoRaylets(
        gcs_address=f"127.0.0.1:{gcs}",
        job_server=f"http://127.0.0.1:{dashboard}",
        env=client_environment(token) | variables,
        logs=tmp_path,
        home=home,
        nodes=[],
    )
    head = [
        "--head",
        f"--port={gcs}",
        f"--ray-client-server-port={client}",
        "--include-dashboard=true",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard}",
    ]
    # The path of a Unix socket is limited to 107 bytes, which pytest's folders alone can fill.
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="ray2-", dir="/tmp", ignore_cleanup_errors=True)
        )
        stack.callback(stop, cluster.nodes)
        command = [*head, f"--temp-dir={folder}"]
        cluster.nodes.append(start(command, cluster.env, tmp_path / "head.log", home))
        await_nodes(cluster, 1, cluster.nodes, tmp_path)
        yield cluster


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now; all are held until the last is found, so none is twice."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for held in sockets:
            held.bind(("127.0.0.1", 0))
        return [held.getsockname()[1] for held in sockets]


def client_environment(token: Path) -> dict[str, str]:
    """This process's environment, less its own Ray settings, plus the token."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return kept | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "90",  # a node on a busy machine needs more than 30 s
        # A node would wait 30 s for Ray Train's actors, which outlive all jobs, before it ends.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "OMP_NUM_THREADS": "1",
    }


def start(
    role: list[str], env: dict[str, str], log: Path, home: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start one node in a session of its own, so that Ctrl-C in pytest does not reach it first."""
    common = [
        "--block",
        "--num-cpus=1",
        "--num-gpus=0",
        "--object-store-memory=100000000",
        "--node-ip-address=127.0.0.1",
        # Fixed by default, hence shared with every other node on this machine.
        "--dashboard-agent-listen-port=0",
        "--min-worker-port=0",
        "--max-worker-port=0",
    ]
    with log.open("wb") as out:
        return subprocess.Popen(
            [RAY, "start", *role, *common],
            env=env,
            cwd=home,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def alive_nodes(cluster: TwoRaylets) -> int:
    """How many nodes the dashboard calls alive; 0 while it does not answer."""
    token = Path(cluster.env["RAY_AUTH_TOKEN_PATH"]).read_text()
    request = urllib.request.Request(
        f"{cluster.job_server}/nodes?view=summary", headers={"Authorization": f"Bearer {token}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            nodes = json.load(answer)["data"]["summary"]
    except (OSError, KeyError):  # URLError is an OSError
        return 0
    return sum(node["raylet"].get("state") == "ALIVE" for node in nodes)


def await_nodes(
    cluster: TwoRaylets, count: int, nodes: list[subprocess.Popen[bytes]], logs: Path
) -> None:
    """Return once `count` nodes are alive.

    Raises:
        RuntimeError: one ended, or the time is up.
    """
    deadline = time.monotonic() + READY_SECONDS
    while alive_nodes(cluster) < count:
        if time.monotonic() > deadline or any(node.poll() is not None for node in nodes):
            text = "\n".join(log.read_text() for log in sorted(logs.glob("*.log")))
            raise RuntimeError(f"{count} Ray nodes were not ready:\n{text}")
        time.sleep(0.3)


def stop(nodes: list[subprocess.Popen[bytes]]) -> None:
    """Ask each node to end its children, the head last; then end what is left of its own tree."""
    for node in reversed(nodes):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself
            family = psutil.Process(node.pid).children(recursive=True)
            node.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.wait(STOP_SECONDS)
            if node.poll() is None:
                node.kill()
                node.wait()
            _, left = psutil.wait_procs(family, timeout=5)
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
