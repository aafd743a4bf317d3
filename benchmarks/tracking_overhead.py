"""What MLflow costs a triage: time its own thread spends in the tracker, against the whole run.

    python benchmarks/tracking_overhead.py RUN

RUN is the folder of a finished run. Its journal is played back in the order in which it was
written, twice. With pauses, the writer's thread may finish, uncounted, wherever the run trained for
seconds before its next call; without, it has no time of its own, and the last call waits for all of
its work, models included: the worst case, to which the limit applies. The store is new, a SQLite
file beside a copy of the run; making it is timed apart, since a triage does that beside the start
of Ray. The exit status is 1 where the share passes the limit.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

LIMIT = 0.02  # of the run's wall time
PAUSE_SECONDS = 10.0  # between two calls, after which the writer has surely finished
NUM_REPEATS = 3  # the fastest counts: other programs slow a call down and never speed it up

ROWS = {
    "start": "Tracker()",
    "sync": "sync, all calls",
    "close": "close",
    "prepare": "prepare (not counted)",
}


def measure(run: Path, scratch: Path, *, pauses: bool) -> dict[str, float]:
    """Return the seconds of each kind of call while the journal of `run` is played back."""
    from lvm.jobs.writer import TRACKED
    from lvm.triage.journal import read_run
    from lvm.triage.state import RunState
    from lvm.triage.verdict import build_verdict
    from lvm.views.tracking import Tracker

    folder = scratch / "runs" / run.name
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("mlflow.json", "tune", "*.npz"))
    events = read_run(folder)
    summary = build_verdict(events, resume="")
    seconds = {"start": 0.0, "sync": 0.0, "close": 0.0, "prepare": 0.0}

    def timed(kind: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = call()
        seconds[kind] += time.perf_counter() - start
        return result

    tracker = timed("start", lambda: Tracker(folder, f"sqlite:///{scratch / 'mlflow.db'}"))
    timed("prepare", tracker.prepare)
    called_at = events[0].at
    for count, event in enumerate(events, start=1):
        if isinstance(event, TRACKED):
            if pauses and event.at - called_at > PAUSE_SECONDS:
                tracker.wait()
            called_at = event.at
            timed("sync", lambda count=count: tracker.sync(RunState(events[:count])))
    timed("close", lambda: tracker.close(events, summary))
    if tracker.problem is not None:
        raise SystemExit(f"error: {tracker.problem}")
    return {**seconds, "wall": events[-1].at - events[0].at}


def own_thread(seconds: dict[str, float]) -> float:
    """Return what the triage itself waited for."""
    return seconds["start"] + seconds["sync"] + seconds["close"]


def best(run: Path, *, pauses: bool) -> dict[str, float]:
    """Return the cheapest of some repeats, each in a new store."""
    found = []
    for _ in range(NUM_REPEATS):
        with tempfile.TemporaryDirectory() as scratch:
            found.append(measure(run, Path(scratch), pauses=pauses))
    return min(found, key=own_thread)


def main(argv: Sequence[str]) -> int:
    """Measure, print a table, and return 1 where tracking costs more than it may."""
    if len(argv) != 1:
        raise SystemExit("error: one argument is needed, the folder of a finished run.")
    columns = {p: best(Path(argv[0]).resolve(), pauses=p) for p in (True, False)}
    print(f"{argv[0]}: {columns[True]['wall']:.1f} s from the first event to the last")
    print(f"{'seconds':28} {'with pauses':>12} {'without':>12}")
    for kind, title in ROWS.items():
        print(f"{title:28} {columns[True][kind]:12.3f} {columns[False][kind]:12.3f}")
    shares = {p: own_thread(seconds) / seconds["wall"] for p, seconds in columns.items()}
    title = f"share of the run (<= {LIMIT:.0%})"
    print(f"{title:28} {shares[True]:12.2%} {shares[False]:12.2%}")
    return 0 if max(shares.values()) <= LIMIT else 1


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    sys.exit(main(sys.argv[1:]))
