"""Programs of tests as processes of their own, each a copy of one that has imported what is slow.

Imports are 10 s of CPU time of a triage that computes for one second. Use this where a test is of
what happens once the program runs; how it starts is tested with a new interpreter elsewhere.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# Only what others wrote: a test of lazy imports must not find a module of the program here.
SLOW = (
    "torch",
    "torch._dynamo",
    "scipy.optimize",
    "mlflow.store.tracking.sqlalchemy_store",
    "ray.tune",
)


class Forked:
    """A running program, to be used like a `subprocess.Popen` whose output is piped."""

    def __init__(
        self,
        program: Callable[[], object],
        argv: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        output: Path,
    ) -> None:
        """Run `program` with these arguments; what it prints is kept in a folder below `output`."""
        folder = Path(tempfile.mkdtemp(dir=output))
        self._texts = (folder / "stdout", folder / "stderr")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(SLOW))  # of no effect once its process runs
        self._process = context.Process(
            target=_run, args=(program, list(argv), cwd, dict(env), self._texts)
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """Its number."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal unless it has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end and return what it printed; one that takes longer is killed."""
        self._process.join(timeout)
        if self.returncode is None:
            assert timeout is not None
            self.kill()
            raise subprocess.TimeoutExpired(str(self._texts[0].parent), timeout)
        out, err = (path.read_text() for path in self._texts)
        return out, err


def _run(
    program: Callable[[], object],
    argv: Sequence[str],
    cwd: Path,
    env: Mapping[str, str],
    texts: Sequence[Path],
) -> None:
    """Become the program: its own streams, folder, environment and arguments, signals as usual."""
    for number, path in enumerate(texts, start=1):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv[:] = argv
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        program()
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out
