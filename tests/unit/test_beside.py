"""Work in a thread that gives way."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from lvm.core.beside import LEAST_URGENT, beside, products_alone


def test_what_it_returns_or_raises_is_the_futures() -> None:
    assert beside(lambda: threading.current_thread().name, "ladder").result() == "ladder"

    def breaks() -> None:
        raise ValueError("odd data")

    with pytest.raises(ValueError, match="odd data"):
        beside(breaks, "ladder").result()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have urgencies on Linux alone")
def test_its_thread_gives_way_and_no_other_does() -> None:
    def urgency() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = urgency()
    assert beside(urgency, "ladder").result() == LEAST_URGENT
    assert urgency() == before


def test_products_alone_use_one_thread_of_numpys() -> None:
    from threadpoolctl import threadpool_info

    def threads() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    before = threads()
    with products_alone():
        assert threads() == {1}
    assert threads() == before
