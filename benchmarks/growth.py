"""What does one more event cost after 50, 500 and 5,000 arms, and what do the views of all of them?

    python benchmarks/growth.py [--write] [--arms 50 500 5000]

A run of very many arms is made up from the journal of `make triage` (tests/wide.py): five steps,
three rungs, some six events per arm. CPU seconds of this process, not wall time; the first call,
which builds the parts of the index that it needs, is left out where calls repeat. `--write` keeps
the table in reports/growth/.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keep import REPORTS, origin, show

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from msgspec.structs import replace

from lvm.triage.events import Epoch, Event, RunStarted, StepEnded, StepStarted
from lvm.triage.journal import Journal
from lvm.triage.state import RunState
from lvm.triage.verdict import build_verdict
from lvm.views.progress import JsonLines
from lvm.views.report.markdown import write_report
from lvm.views.status import status
from lvm.views.status.screen import screen
from lvm.views.terminal import Screen
from lvm.views.tracking.arms import arm_views, changed_views
from lvm.views.tracking.views import parent_view
from tests.wide import write_wide_run

OUT = REPORTS / "growth"
ARMS = (50, 500, 5000)
NUM_CALLS = 200  # of what is done once per event
RUNNING = 0.9  # of a run's events, up to which it is a running one


@dataclass(frozen=True)
class Row:
    """One thing that a run does, and what it costs."""

    name: str
    seconds: float  # CPU
    per_event: bool = False  # the same however many arms there are, or else linear in these


def measure(num_arms: int, folder: Path) -> tuple[list[Row], dict[str, int]]:
    """Return the costs of a run of so many arms, and the bytes of its files."""
    events = write_wide_run(num_arms, folder)
    rows = [Row("open the journal", cpu(lambda: Journal(folder)))]
    journal = Journal(folder)
    rows += [
        Row("write one epoch once", _once(journal), True),
        Row("one line of --json", _line(journal), True),
        Row("one frame of the screen", _frame(events), True),
    ]
    folder_of_all = folder / "report"
    journal = Journal(folder)
    document = build_verdict(journal.events, resume="")
    now = events[-1].at
    state, running = RunState(events), RunState(events[: int(RUNNING * len(events))])
    rows += [
        Row("verdict.json", cpu(lambda: build_verdict(state, resume=""))),
        Row("lvm status, running", cpu(lambda: screen(status(running, folder, now)))),
        Row("report.md and report.html", cpu(lambda: write_report(state, document, folder_of_all))),
        Row("MLflow views of all arms", cpu(lambda: _views(state))),
        Row("MLflow views after each step, all", cpu(lambda: _changed(events))),
    ]
    files = [folder / "journal.jsonl", *(folder_of_all / f"report.{s}" for s in ("md", "html"))]
    return rows, {file.name: file.stat().st_size for file in files}


def cpu(call: Callable[[], Any]) -> float:
    """Return the CPU seconds of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def _repeated(call: Callable[[int], Any]) -> float:
    """Return the CPU seconds of one call of many, without the first."""
    call(0)
    start = time.process_time()
    for number in range(1, NUM_CALLS + 1):
        call(number)
    return (time.process_time() - start) / NUM_CALLS


def _epoch(journal: Journal, number: int) -> Epoch:
    latest = journal.events.last(Epoch)
    assert latest is not None
    return replace(latest, epoch=1000 + number)


def _once(journal: Journal) -> float:
    """Write epochs as `Runner.once` does: look for it, then append."""

    def write(number: int) -> None:
        event = _epoch(journal, number)
        if journal.events.last(Epoch, arm=event.arm, epoch=event.epoch) is None:
            journal.append(event)

    return _repeated(write)


def _line(journal: Journal) -> float:
    lines = JsonLines(io.StringIO())
    lines.skip(journal)

    def tell(number: int) -> None:
        journal.events.append(_epoch(journal, NUM_CALLS + number))
        lines.tell(journal)

    return _repeated(tell)


def _frame(events: Sequence[Event]) -> float:
    """Draw the widest step of the run on a terminal."""
    shown = Screen(io.StringIO())
    shown.console.size = (120, 40)
    for event in events:
        if isinstance(event, RunStarted | StepStarted | Epoch):
            shown.event(event)
    return _repeated(lambda number: shown.console.print(shown._render()))


def _views(events: RunState) -> None:
    parent_view(events, None, closed=True)
    arm_views(events, None, closed=True)


def _changed(events: Sequence[Event]) -> None:
    """Make the views that the tracker writes while the run goes on."""
    known, new = RunState(), []
    for event in events:
        known.append(event)
        new.append(event)
        if isinstance(event, StepEnded):
            changed_views(known, new)
            new.clear()


def report(sizes: Sequence[int]) -> Iterator[str]:
    """Measure every size and yield the report line by line."""
    yield from origin(
        "Growth of a run", __doc__.splitlines()[0], "python benchmarks/growth.py --write"
    )
    yield (
        "CPU seconds of one process. What a run does for every event should cost the same in each "
        "column; a view of all arms should cost the same per arm."
    )
    yield ""
    found = []
    for num_arms in sizes:
        with tempfile.TemporaryDirectory() as scratch:
            found.append(measure(num_arms, Path(scratch) / "run"))
    yield "| | " + " | ".join(f"{n:,} arms | per arm" for n in sizes) + " |"
    yield "|---|" + "---:|---:|" * len(sizes)
    for same in zip(*(rows for rows, _ in found), strict=True):
        cells = (_cells(num_arms, row) for num_arms, row in zip(sizes, same, strict=True))
        yield f"| {same[0].name} | {' | '.join(cells)} |"
    for name in found[0][1]:
        kept = [files[name] for _, files in found]
        cells = (
            f"{s / 1e6:.2f} MB | {s / n / 1e3:.1f} kB" for s, n in zip(kept, sizes, strict=True)
        )
        yield f"| {name} | {' | '.join(cells)} |"


def _cells(num_arms: int, row: Row) -> str:
    if row.per_event:
        return f"{1000 * row.seconds:.2f} ms | "
    return f"{row.seconds:.2f} s | {1000 * row.seconds / num_arms:.2f} ms"


def main() -> None:
    """Print the table, and keep it when told to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"keep the output in {OUT}")
    parser.add_argument("--arms", type=int, nargs="+", default=ARMS, help="sizes of the runs")
    arguments = parser.parse_args()
    show(report(arguments.arms), OUT / "growth.md" if arguments.write else None)


if __name__ == "__main__":
    main()
