"""One more event costs the same whatever came before, and a view of all arms the same per arm.

What is counted is every look at an event, at anything inside one, and at a place in the sequence:
numbers that do not hang on the machine. Wall time is what benchmarks/growth.py keeps.
"""

from __future__ import annotations

import io
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import made
import pytest

from lvm.core.records import Part
from lvm.triage.events import ArmEnded, Epoch, Event, RunStarted, StepEnded, StepStarted
from lvm.triage.journal import Journal
from lvm.triage.state import RunState
from lvm.triage.verdict import build_verdict
from lvm.views.progress import JsonLines
from lvm.views.report.markdown import write_report
from lvm.views.status import status
from lvm.views.status.screen import screen
from lvm.views.terminal import Screen
from lvm.views.tracking.arms import arm_views, changed_views
from lvm.views.tracking.inbox import Inbox
from lvm.views.tracking.views import parent_view
from tests.wide import wide_run

SIZES = (160, 240, 320)  # arms in five steps, each with more than a report shows
LOOKS: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def _every_look_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (Event, Part):
        monkeypatch.setattr(kind, "__getattribute__", counted, raising=False)


def counted(part: object, name: str) -> Any:
    LOOKS["read"] += 1
    return object.__getattribute__(part, name)


class CountedEvents(RunState):
    """RunState that count how many of them are handed out."""

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        LOOKS["read"] += len(found) if isinstance(place, slice) else 1
        return found

    def __iter__(self) -> Iterator[Any]:
        for event in super().__iter__():
            LOOKS["read"] += 1
            yield event

    def of(self, kind: type[Event], **values: Any) -> list[Any]:
        found = super().of(kind, **values)
        LOOKS["read"] += len(found)
        return found


def looks(call: Callable[[], Any]) -> int:
    """Return how often events are looked at by a call."""
    before = LOOKS["read"]
    call()
    return LOOKS["read"] - before


@pytest.fixture(scope="module")
def runs() -> dict[int, CountedEvents]:
    return {size: CountedEvents(wide_run(size)) for size in SIZES}


# --- views of all arms ----------------------------------------------------------------------------


def the_verdict(events: RunState, folder: Path) -> int:
    return looks(lambda: build_verdict(events, resume=""))


def the_status(events: RunState, folder: Path) -> int:
    return looks(lambda: screen(status(events, folder, events[-1].at)))


def the_status_of_a_running_step(events: RunState, folder: Path) -> int:
    last = max(i for i, event in enumerate(events) if isinstance(event, Epoch))
    running = CountedEvents(events[: last + 1])
    return looks(lambda: screen(status(running, folder, running[-1].at)))


def the_report(events: RunState, folder: Path) -> int:
    document = build_verdict(events, resume="")
    return looks(lambda: write_report(events, document, folder))


def the_mlflow_views(events: RunState, folder: Path) -> int:
    return looks(lambda: (arm_views(events, closed=True), parent_view(events, None, closed=True)))


def all_lines_of_json(events: RunState, folder: Path) -> int:
    journal, lines = Journal(folder), JsonLines(io.StringIO())
    journal.events = CountedEvents()

    def tell() -> None:
        for event in events:
            journal.events.append(event)
            lines.tell(journal)

    return looks(tell)


def all_syncs_of_mlflow(events: RunState, folder: Path) -> int:
    inbox, known = Inbox(), CountedEvents()

    def sync() -> None:
        for count, event in enumerate(events, start=1):
            if not isinstance(event, StepEnded) and count < len(events):
                continue
            inbox.put(events[:count])  # the test's own slices cost; what is new is what matters
            _, new = inbox.take()
            for one in new:
                known.append(one)
            changed_views(known, new)

    slices = [i for i, e in enumerate(events, start=1) if isinstance(e, StepEnded)]
    return looks(sync) - sum(slices)


@pytest.mark.parametrize(
    "view",
    [
        the_verdict,
        the_status,
        the_status_of_a_running_step,
        the_report,
        the_mlflow_views,
        all_lines_of_json,
        all_syncs_of_mlflow,
    ],
)
def test_every_arm_costs_a_view_the_same(view, runs, tmp_path: Path) -> None:
    small, middle, large = (view(runs[size], tmp_path / str(size)) for size in SIZES)
    assert small < middle  # something was counted
    # Linear: the last 80 arms cost what the 80 before them do. Quadratic: far more.
    assert large - middle <= 1.02 * (middle - small)


# --- one event ------------------------------------------------------------------------------------


def once(events: RunState, folder: Path) -> int:
    """What `Runner.once` does for an epoch, beside writing a line."""
    journal = Journal(folder)
    journal.events = events
    journal.events.last(Epoch, arm="another", epoch=1)  # the index of these keys is there
    return looks(
        lambda: (journal.events.last(Epoch, arm="new", epoch=1), journal.events.last(Epoch))
    )


def appended(events: RunState, folder: Path) -> int:
    new = made.event(Epoch, arm="new")
    return looks(lambda: CountedEvents.append(events, new))


def replayed(events: RunState, folder: Path) -> int:
    """What `lvm.triage.replay` looks at for one arm."""
    arm = events.of(ArmEnded)[-1].arm
    return looks(lambda: events.about([arm]))


def a_line_of_json(events: RunState, folder: Path) -> int:
    journal, lines = Journal(folder), JsonLines(io.StringIO())
    journal.events = CountedEvents(events)
    lines.skip(journal)
    journal.events.append(events.of(Epoch)[-1])
    return looks(lambda: lines.tell(journal))


@pytest.mark.parametrize("cost", [once, appended, replayed, a_line_of_json])
def test_an_event_costs_the_same_whatever_came_before(cost, tmp_path: Path) -> None:
    early, late = (cost(CountedEvents(wide_run(size)), tmp_path / str(size)) for size in (20, 400))
    assert early == late


# --- what a person is shown -----------------------------------------------------------------------


def test_a_report_of_more_arms_is_no_longer(runs, tmp_path: Path) -> None:
    lengths = []
    for size in SIZES:
        document = build_verdict(runs[size], resume="")
        write_report(runs[size], document, tmp_path)
        lengths.append([len((tmp_path / f"report.{s}").read_text()) for s in ("md", "html")])
    for shorter, longer in itertools.pairwise(lengths):
        assert longer == pytest.approx(shorter, rel=0.05)


def test_a_report_says_what_it_leaves_out(runs, tmp_path: Path) -> None:
    document = build_verdict(runs[160], resume="")
    write_report(runs[160], document, tmp_path)
    text = (tmp_path / "report.md").read_text()
    reasons = Counter(arm.reason for arm in document.steps[1].arms)
    assert reasons == {"pruned": 23, "finished": 9}
    assert "2 more arms (2 pruned) of this step are in verdict.json" in text
    assert "Drawn: 12 of 32 arms." in (tmp_path / "report.html").read_text()
    assert len(document.steps[1].arms) == 32  # nothing is missing there


def test_a_frame_costs_the_same_however_many_arms_a_step_has() -> None:
    found = []
    for size in (200, 600):
        shown = Screen(io.StringIO())
        shown.console.size = (120, 40)
        for event in wide_run(size):
            if isinstance(event, RunStarted | StepStarted | Epoch):
                shown.event(event)
        before = len(shown.console.file.getvalue())
        shown.console.print(shown._render())
        found.append(shown.console.file.getvalue()[before:].count("\n"))
    assert found[0] == found[1] <= 40
