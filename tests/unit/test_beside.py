"""Work in a thread that gives way, and products that outlive a fork."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from lvm.beside import LEAST_URGENT, beside


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


FORKS = """
import subprocess
import numpy as np
from lvm.beside import beside, while_forking

over = []
def products():
    square = np.ones((600, 600))
    while not over:
        square @ square

with while_forking():
    ladder = beside(products, "ladder")
    for _ in range(30):
        subprocess.Popen(["true"], preexec_fn=lambda: None).wait()
over.append(True)
ladder.result()
print("ended")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="that is how Ray starts there")
def test_products_go_on_while_another_thread_forks() -> None:
    """Without it they wait for ever for a thread that OpenBLAS has ended, nearly each time."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "ended\n", done.stderr
