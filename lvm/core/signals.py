"""Ctrl-C and SIGTERM: both raise KeyboardInterrupt in the main thread, a second one ends at once.

`ray job stop`, Kubernetes and SLURM send SIGTERM. By default it ends a run without a message. Ray
installs its own handler when it starts, which ends the process with a C++ stack trace, and removes
it when it ends.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

from lvm.core.errors import ExitStatus

Hook = Callable[["sys.UnraisableHookArgs"], object]

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TAKE_BACK = signal.SIGURG  # how another thread calls the main one; ignored by default
TAKE_BACK_SECONDS = 0.005  # between two such requests
ONE_REQUEST_SECONDS = 0.1  # `timeout` and others signal a process and then its group: twice
AGAIN_SECONDS = 0.05  # after which an interrupt that Python dropped is raised once more


@dataclass
class _Heeding:
    """Whether an interrupt is pending, and whether it may be raised now."""

    taken: tuple[signal.Signals, ...]
    asked_at: float | None = None  # of the first signal, monotonic
    waiting: bool = False  # asked for and not raised yet
    blocks: int = 0  # nested blocks that must not be interrupted

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        now = time.monotonic()
        if self.asked_at is None:
            self.asked_at, self.waiting = now, True
            self.raise_waiting()
        elif now - self.asked_at >= ONE_REQUEST_SECONDS:
            os._exit(ExitStatus.INTERRUPTED)

    def raise_waiting(self) -> None:
        """Raise a pending KeyboardInterrupt if nothing would be left half-written."""
        if self.waiting and not self.blocks:
            self.waiting = False
            raise KeyboardInterrupt


_heeding: _Heeding | None = None  # of this process, while a command runs


@contextlib.contextmanager
def heeding_signals() -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into KeyboardInterrupt in the main thread; a second one ends at once.

    Signals that the process ignores stay ignored, as Ctrl-C is by a shell's background jobs. Inside
    another such block, or outside the main thread, nothing changes.
    """
    global _heeding
    if _heeding is not None or not _in_main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    taken = tuple(number for number in SIGNALS if before[number] is not signal.SIG_IGN)
    dropped, _heeding = sys.unraisablehook, _Heeding(taken)
    sys.unraisablehook = _raised_again(dropped)
    asked = signal.signal(TAKE_BACK, lambda *_: heed_signals_again())
    heed_signals_again()
    try:
        yield
    finally:
        signal.signal(TAKE_BACK, asked or signal.SIG_DFL)
        for number in taken:
            signal.signal(number, before[number] or signal.SIG_DFL)
        sys.unraisablehook, _heeding = dropped, None


def end_was_asked_for() -> bool:
    """Whether a signal has asked this command to end.

    What fails from then on is not reported: compiled code turns an interrupt into its own error,
    and Ray's processes may have received the same signal.
    """
    return _heeding is not None and _heeding.asked_at is not None


def heed_signals_again() -> None:
    """Reinstall our handlers after a library has replaced them; does nothing outside a command."""
    if _heeding is not None and _in_main_thread():
        for number in _heeding.taken:
            signal.signal(number, _heeding)


@contextlib.contextmanager
def held_signals() -> Iterator[None]:
    """Keep our signal handlers installed while Ray starts or ends.

    Ray replaces the SIGTERM handler halfway through its start, and restores the default a second
    before its end is complete. Both happen in compiled code, so the handlers are reinstalled
    whenever this thread calls a function: 0.2 s in a start of ten. Python lets only the main thread
    install handlers; another thread asks it to.
    """
    if _heeding is None:
        yield
        return
    before, again = sys.getprofile(), heed_signals_again if _in_main_thread() else _asking_main()

    def take_back(frame: FrameType, event: str, arg: object) -> None:
        if event == "call":
            again()

    sys.setprofile(take_back)
    try:
        yield
    finally:
        sys.setprofile(before)
        heed_signals_again() if _in_main_thread() else _thread.interrupt_main(TAKE_BACK)


def _asking_main() -> Callable[[], None]:
    """Return a function that asks the main thread to reinstall the handlers, at most so often."""
    last = 0.0

    def ask() -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= TAKE_BACK_SECONDS:
            last = now
            _thread.interrupt_main(TAKE_BACK)

    return ask


@contextlib.contextmanager
def whole() -> Iterator[None]:
    """Delay an interrupt to the end of this block. A second one still ends the process."""
    if _heeding is None or not _in_main_thread():
        yield
        return
    _heeding.blocks += 1
    try:
        yield
    finally:
        _heeding.blocks -= 1
    _heeding.raise_waiting()


def end_with(status: int) -> None:
    """Exit with this status whatever signal arrives while the process is ending."""
    for number in SIGNALS:
        if _in_main_thread() and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: os._exit(status))


def _raised_again(other: Hook) -> Hook:
    """Return a hook that raises an interrupt again after Python dropped it in a destructor.

    A destructor or a callback of compiled code cannot raise, and the run would go on. The signal is
    sent once more after the hook returns.
    """

    def hook(dropped: sys.UnraisableHookArgs) -> None:
        if _heeding is None or not issubclass(dropped.exc_type, KeyboardInterrupt):
            other(dropped)
            return
        _heeding.asked_at = None
        main = threading.main_thread().ident
        timer = threading.Timer(AGAIN_SECONDS, signal.pthread_kill, (main, _heeding.taken[-1]))
        timer.daemon = True
        timer.start()

    return hook


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
