"""Work in a thread of its own, which gives way to whatever else wants the processor."""

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
    """Start `work` in a thread; what it returns or raises is the future's.

    The process does not wait for it at its end. Where threads cannot be told apart by urgency
    (anywhere but on Linux), and without `gives_way`, it is as urgent as all others.
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
    """Limit numpy's products to the calling thread.

    OpenBLAS' other threads belong to the process: they are as urgent as its first one, whoever asks
    for their work.
    """
    with threadpool_limits(1, user_api="blas"):
        yield
