"""A Ray cluster on this machine, started in a separate process.

The process imports Ray while this one imports the program, and starts the cluster while this one
audits (large files: once a quick look at them has passed). That is no luxury: Ray's start takes as
long as all the rest before the first arm. It ends with this process, however that ends. Nothing
heavy is imported here.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from lvm.core.errors import ClusterError

PROGRAM = Path(__file__).parent / "on_ray" / "head.py"
TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
SHORT, MAX_TMPDIR = "/tmp", 40
AHEAD = {  # the processes that Ray starts for a driver, before there is an arm to train
    "RAY_preload_python_modules": "torch,ray.tune",  # of ours none: the driver says which they are
    "RAY_idle_worker_killing_time_threshold_ms": "60000",  # else ended while Tune starts
}
START_SECONDS = 180.0
END_SECONDS = 20.0
ENVIRONMENT = {  # applied where the person has not chosen otherwise
    "PL_DISABLE_FORK": "1",  # as Tune sets it for its trials
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process more, for a cloud's notice in advance
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "3600",  # a lost head is our own affair (pulse.py)
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # else Ctrl-C ends a step as if its arms crashed
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "20",  # else what hangs at its end keeps its room for 600 s
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # a run is resumed from its journal
    "TUNE_MAX_PENDING_TRIALS_PG": "64",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


def ray_environment() -> dict[str, str]:
    """Return the environment of Ray's processes, and of every process before it imports Ray.

    Ray asks for the home folder at its import; a container's user may have neither HOME nor an
    entry that names one.
    """
    homeless = os.path.expanduser("~") == "~"
    home = {"HOME": tempfile.gettempdir()} if homeless else {}
    return {**ENVIRONMENT, **os.environ, **home}


def of_its_own() -> dict[str, str]:
    """Return what a cluster here needs besides: a token, and a path short enough for its sockets.

    Ray keeps a token in the home folder, which a container's user may not have; one that is known
    to these processes alone will do. The name of a Unix socket has 107 signs at most, of which Ray
    takes more than half.
    """
    own: dict[str, str] = {}
    home = Path(os.path.expanduser("~/.ray/auth_token"))
    with contextlib.suppress(OSError):
        known = home.is_absolute() and home.is_file()
        if not known and not any(name in os.environ for name in TOKENS):
            own["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    folder = tempfile.gettempdir()
    if "RAY_TMPDIR" not in os.environ and len(folder) > MAX_TMPDIR and os.access(SHORT, os.W_OK):
        own["RAY_TMPDIR"] = SHORT
    return own


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the process says once it has started a cluster, or why there is none."""

    address: str = ""  # of the cluster; "": Ray did not start
    problem: str = ""  # type of the error
    texts: list[str] = []  # what the error and its causes say


class LocalHead:
    """The process that holds a cluster: made early, asked to start, waited for, closed."""

    def __init__(self) -> None:
        os.environ.update(of_its_own())  # this process joins the cluster and needs both
        self._complaint = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`
        self._asked = False
        environment = {**AHEAD, **ray_environment()}
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM)],
            env=environment,
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaint,
        )

    @property
    def pid(self) -> int:
        """The process that holds the cluster, and ends with it."""
        return self._process.pid

    def ask(self, num_cpus: int, resources: Mapping[str, float]) -> None:
        """Let the cluster start with what it is to count; a second call changes nothing."""
        assert self._process.stdin is not None
        if not self._asked:
            self._asked = True
            with contextlib.suppress(BrokenPipeError):  # told by `address`
                wanted = {"num_cpus": num_cpus, "resources": dict(resources)}
                self._process.stdin.write(json.dumps(wanted).encode() + b"\n")
                self._process.stdin.flush()

    def address(self) -> Answer:
        """Wait for the cluster; return its address, or what Ray said where it did not start."""
        out = self._process.stdout
        assert out is not None
        if not select.select([out], [], [], START_SECONDS)[0]:
            raise ClusterError(
                f"Ray did not start on this machine within {START_SECONDS:.0f} s; run lvm "
                "doctor to see what it lacks."
            )
        with contextlib.suppress(msgspec.DecodeError):
            return msgspec.json.decode(out.readline(), type=Answer)
        self._complaint.seek(0)
        said = self._complaint.read().decode(errors="replace").strip().splitlines()
        status = f"its process ended with status {self._process.wait()}"
        return Answer(texts=[said[-1] if said else status])

    def leave(self) -> None:
        """Let the cluster end, without waiting for it."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def close(self) -> None:
        """End the cluster and wait for it."""
        if not self._asked:
            self._process.kill()
        self.leave()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.returncode:  # it was killed, and what it held is in its process group
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._complaint.close()


@contextlib.contextmanager
def local_head(wanted: bool) -> Iterator[LocalHead | None]:
    """Keep a process ready that can start a cluster; it and its cluster end with the block.

    A process that belongs to a cluster already needs no other.
    """
    ray = sys.modules.get("ray")
    if not wanted or (ray is not None and ray.is_initialized()):
        yield None
        return
    head = LocalHead()
    try:
        yield head
    finally:
        head.close()
