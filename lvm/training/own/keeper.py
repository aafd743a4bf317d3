"""The keeper of a person's training: a process that starts it, holds it, and ends all it started.

    python keeper.py LOCK LOG FOLDER GRACE WORD...   stdin: h (hold), g (go on); its end: end it

It outlives whoever started it, so that a kill of that process leaves no training behind, and it
holds a lock, so that a folder has one training at a time. Its answer is the exit status.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time

SWEEP_SECONDS = 10.0  # after which a process that cannot be killed is let be
LOOK_SECONDS = 0.05
SET_PARENT_DEATH_SIGNAL, SET_SUBREAPER = 1, 36  # of prctl(2)


def main() -> None:
    """Run a command to its end, or until nobody listens any more."""
    lock, log, folder, grace, *words = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for whoever started this
    with open(lock, "w") as held, open(log, "ab", buffering=0) as output:
        fcntl.flock(held, fcntl.LOCK_EX)
        _prctl(SET_SUBREAPER, 1)  # what the training leaves behind becomes a child of this one
        try:
            training = subprocess.Popen(
                words,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: _prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL),
                close_fds=True,
            )
        except OSError as error:
            _answer({"failed": f"{words[0]}: {error.strerror}"})
            return
        ended = _serve(training, float(grace))
        left = _end_what_is_left()
    _answer({"status": training.returncode, "ended": ended, "left": left})


def _serve(training: "subprocess.Popen[bytes]", grace: float) -> bool:
    """Wait for the training; return whether it was ended from outside."""
    while training.poll() is None:
        if not select.select([0], [], [], LOOK_SECONDS)[0]:
            continue
        word = os.read(0, 1)
        if word == b"h":
            _signal(training, signal.SIGSTOP)
        elif word == b"g":
            _signal(training, signal.SIGCONT)
        else:
            _end(training, grace)
            return True
    return False


def _end(training: "subprocess.Popen[bytes]", grace: float) -> None:
    """End the training's group: politely, then not."""
    _signal(training, signal.SIGTERM)
    _signal(training, signal.SIGCONT)  # what is held does not hear the first one
    try:
        training.wait(grace)
    except subprocess.TimeoutExpired:
        _signal(training, signal.SIGKILL)
        training.wait()


def _signal(training: "subprocess.Popen[bytes]", what: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(training.pid, what)


def _end_what_is_left() -> int:
    """Kill every process that the training left; return how many there were."""
    import psutil  # only at the end: a training starts as fast as its keeper is imported

    found: set[int] = set()
    until = time.monotonic() + SWEEP_SECONDS
    while time.monotonic() < until:
        left = psutil.Process().children(recursive=True)
        if not left:
            break
        for process in left:
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.add(process.pid)
                process.kill()
        psutil.wait_procs(left, timeout=0.2)
    return len(found)


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _answer(answer: dict[str, object]) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more
        sys.stdout.write(json.dumps(answer))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
