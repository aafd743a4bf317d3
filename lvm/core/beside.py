"""Run work in a background thread of low priority."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from threadpoolctl import threadpool_limits

Result = TypeVar("Result")
LEAST_URGENT = 19  # Ray's own workers run at 15


def beside(work: Callable[[], Result], name: str, *, gives_way: bool = True) -> Future[Result]:
    """Start `work` in a thread and return a future of its result or error.

    The process does not wait for it when it exits. Without `gives_way`, and on systems where
    threads have no priority of their own (all but Linux), it runs at normal priority.
    """
    future: Future[Result] = Future()

    def run() -> None:
        with contextlib.suppress(AttributeError, OSError):
            if gives_way:
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LEAST_URGENT)
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


@contextlib.contextmanager
def products_alone() -> Iterator[None]:
    """Limit NumPy's matrix products to the calling thread.

    OpenBLAS' other threads belong to the process: they have its priority, whichever thread gave
    them work.
    """
    with threadpool_limits(1, user_api="blas"):
        yield
