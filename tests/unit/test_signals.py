"""Ctrl-C and SIGTERM: when they are raised, when they wait, and what a second one does."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

import pytest

from lvm.core import signals
from lvm.core.signals import heed_signals_again, heeding_signals, held_signals, whole

BOTH = [signal.SIGINT, signal.SIGTERM]
IGNORED = 1  # SIG_IGN, to C


@pytest.fixture(autouse=True)
def as_at_a_terminal():
    """A process that was started in the background is told to ignore Ctrl-C."""
    before = {number: signal.getsignal(number) for number in BOTH}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler or signal.SIG_DFL)


@pytest.fixture
def exits(monkeypatch):
    """The statuses with which the process was to end at once."""
    found = []
    monkeypatch.setattr(os, "_exit", found.append)
    return found


@pytest.mark.parametrize("number", BOTH)
def test_both_are_raised_in_the_block_and_handled_as_before_after_it(number) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), heeding_signals():
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", BOTH)
def test_what_the_process_was_told_to_ignore_stays_ignored(number) -> None:
    signal.signal(number, signal.SIG_IGN)
    with heeding_signals():
        signal.raise_signal(number)
        heed_signals_again()
        signal.raise_signal(number)
    assert signal.getsignal(number) is signal.SIG_IGN


@pytest.mark.parametrize("second", BOTH)
def test_a_second_one_ends_at_once(second, exits) -> None:
    with heeding_signals():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        time.sleep(signals.ONE_REQUEST_SECONDS)
        signal.raise_signal(second)
    assert exits == [130]


def test_one_request_that_arrives_twice_is_one(exits) -> None:
    """`timeout` signals a process, and then its whole group."""
    with heeding_signals():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert exits == []


def test_a_whole_block_is_not_torn_and_then_raises() -> None:
    steps = []
    with heeding_signals():
        with pytest.raises(KeyboardInterrupt), whole():  # noqa: PT012
            signal.raise_signal(signal.SIGTERM)
            with whole():
                steps.append("inner")
            steps.append("outer")
        steps.append("after")  # and it is raised once
        with whole():
            steps.append("later")
    assert steps == ["inner", "outer", "after", "later"]


def test_a_second_one_ends_a_whole_block(exits) -> None:
    with heeding_signals(), pytest.raises(KeyboardInterrupt), whole():  # noqa: PT012
        signal.raise_signal(signal.SIGTERM)
        time.sleep(signals.ONE_REQUEST_SECONDS)
        signal.raise_signal(signal.SIGTERM)
    assert exits == [130]


def test_a_signal_that_a_library_took_is_taken_back() -> None:
    taken = []
    with heeding_signals():
        signal.signal(signal.SIGTERM, lambda *_: taken.append(1))  # as ray.init does
        signal.raise_signal(signal.SIGTERM)
        heed_signals_again()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert taken == [1]


def test_a_library_that_takes_a_signal_on_its_way_does_not_keep_it() -> None:
    """The signal comes while the library is still busy, some calls after it took the signal."""

    def busy() -> None:
        signal.raise_signal(signal.SIGTERM)

    def start() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which would end this process
        busy()

    before = sys.getprofile()
    with heeding_signals(), pytest.raises(KeyboardInterrupt), held_signals():
        start()
    assert sys.getprofile() is before


def test_an_interrupt_that_python_drops_in_a_destructor_is_raised_again() -> None:
    class Dying:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    def work() -> None:
        dying = Dying()
        del dying
        for _ in range(100):
            time.sleep(0.05)

    hook = sys.unraisablehook
    with heeding_signals(), pytest.raises(KeyboardInterrupt):
        work()
    assert sys.unraisablehook is hook


def test_another_error_in_a_destructor_goes_to_whoever_asked_for_it(monkeypatch) -> None:
    class Dying:
        def __del__(self) -> None:
            raise ValueError("in a destructor")

    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: seen.append(dropped.exc_type))
    with heeding_signals():
        dying = Dying()
        del dying
    assert seen == [ValueError]


def test_nothing_changes_in_another_thread_or_outside_a_command() -> None:
    before = {number: signal.getsignal(number) for number in BOTH}
    heed_signals_again()
    found = []

    def elsewhere() -> None:
        with heeding_signals(), held_signals(), whole():
            heed_signals_again()
            found.append({number: signal.getsignal(number) for number in BOTH})

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [before]


def test_a_block_in_a_block_leaves_the_outer_one_in_charge() -> None:
    with heeding_signals():
        with heeding_signals():
            pass
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_a_signal_that_comes_while_the_process_ends_changes_no_status(exits) -> None:
    signals.end_with(3)
    signal.raise_signal(signal.SIGTERM)
    assert exits == [3]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signals.end_with(4)
    signal.raise_signal(signal.SIGINT)
    assert exits == [3]


def test_a_thread_that_starts_ray_has_the_main_one_take_the_signals_back() -> None:
    """Compiled code takes SIGTERM in whichever thread Ray starts in."""
    libc, done = ctypes.CDLL(None), threading.Event()
    libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]

    def start() -> None:
        with held_signals():
            libc.signal(signal.SIGTERM, IGNORED)
        done.set()

    with heeding_signals():
        threading.Thread(target=start, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            assert done.wait(10)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
