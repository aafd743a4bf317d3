"""Joining a cluster on this machine while Tune is imported.

Ray starts processes for a driver that joins, and they import for seconds before they can train. The
first arms get these processes, if they were told nothing that Ray did not know when it started
them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass

from lvm.core.beside import beside
from lvm.core.config.run import ScheduleConfig
from lvm.triage.local_head import LocalHead
from lvm.triage.on_ray.cluster import connect
from lvm.triage.on_ray.quiet import import_ray


@dataclass
class EarlyJoin:
    """A thread that joins the cluster of `head` once it is up."""

    head: LocalHead
    schedule: ScheduleConfig
    _wanted: bool = True

    def __post_init__(self) -> None:
        self._joining = threading.Lock()
        self._joined: Future[bool] = beside(self._join, "join", gives_way=False)

    def _join(self) -> bool:
        ray = import_ray(tune=False)
        answer = self.head.address()
        with self._joining:
            if not self._wanted:
                return False
            connect(ray, None, self.schedule, answer)
            return True

    def wait(self) -> None:
        """Wait until the cluster is joined; raise ClusterError where Ray did not start."""
        self._joined.result()

    def end(self) -> bool:
        """Join no cluster any more; return whether it was too late for that."""
        with self._joining:
            self._wanted = False
        if not self._joined.done():
            self.head.leave()  # what waits for the cluster hears that there will be none
        try:
            return self._joined.result()
        except Exception:  # whoever wanted the cluster has been told, or nobody does
            return False


@contextlib.contextmanager
def plain_processes() -> Iterator[None]:
    """Let trials run in processes that Ray has started ahead: Tune tells them nothing.

    It would tell them of variables that a head which was started here has passed on already.
    """
    from ray.tune.execution import class_cache

    names = ("DEFAULT_ENV_VARS", "ENV_VARS_TO_PROPAGATE")
    before = {name: getattr(class_cache, name) for name in names}
    vars(class_cache).update(DEFAULT_ENV_VARS={}, ENV_VARS_TO_PROPAGATE=frozenset())
    try:
        yield
    finally:
        vars(class_cache).update(before)
