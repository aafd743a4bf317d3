"""What MLflow is told while a run goes on is what it is told of all events at once."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import asdict
from pathlib import Path
from typing import Any

import made
import pytest
from msgspec.structs import replace

from lvm.core.records import Position
from lvm.triage.events import ArmJudged, Compared, Event, TestJudged, Waiting
from lvm.triage.journal import Journal, read_run
from lvm.triage.state import RunState
from lvm.views.tracking.arms import arm_views, changed_views
from lvm.views.tracking.inbox import Inbox
from lvm.views.tracking.marks import Marks
from lvm.views.tracking.store import PAGE, search, sweep
from tests.tracked import Writer, whole_journal
from tests.wide import SAMPLE, wide_run


def sample(folder: Path) -> list[Event]:
    return list(read_run(SAMPLE.parent))


def combined(folder: Path) -> list[Event]:
    writer = Writer(Journal(folder))
    writer.start()
    writer.phase_1()
    writer.temperature(writer.begin_temperature())
    writer.confirm()
    writer.combine()
    writer.stop("temperature", "anchor")
    return list(writer.journal.events)


def predictions(folder: Path) -> list[Event]:
    """A run that judged a file of predictions in place of a model."""
    events = whole_journal(folder)
    test, compared = events.last(TestJudged, name="AR-only"), events.last(Compared)
    found = list(events)
    found.insert(found.index(test) + 1, replace(test, arm="predictions", name="given"))
    below = dataclasses.replace(compared.front[test.arm], position=Position.BELOW)
    front = {**compared.front, "predictions": below}
    found[found.index(compared)] = replace(compared, front=front)
    return found


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("run", [sample, whole_journal, combined, predictions])
def test_the_views_that_events_change_add_up_to_all_views(run, size: int, tmp_path: Path) -> None:
    every, events, known = list(run(tmp_path)), RunState(), dict[str, Any]()
    for start in range(0, len(every), size):
        new = every[start : start + size]
        for event in new:
            events.append(event)
        known |= {view.key: asdict(view) for view in changed_views(events, new)}
        assert known == {v.key: asdict(v) for v in arm_views(events, closed=False)}
    assert len(known) >= 5


@pytest.mark.parametrize("run", [combined, predictions])
def test_a_model_on_test_has_its_place_against_the_front(run, tmp_path: Path) -> None:
    events = RunState(run(tmp_path))
    front = events.last(Compared).front
    views = {view.tags["arm"]: view for view in arm_views(events, closed=True)}
    for arm, found in front.items():
        assert views[arm].tags["front.position"] == found.position
        metrics = {name: value for name, value, _, _ in views[arm].metrics}
        assert metrics["front.lower"] == found.distance.lower
    placed = {arm for arm, view in views.items() if "front.position" in view.tags}
    assert placed == set(front)


def test_an_event_changes_the_views_of_its_own_arm_alone() -> None:
    events = RunState(wide_run(100))
    judged = events.of(ArmJudged, step="negatives")[3]
    assert [view.tags["arm"] for view in changed_views(events, [judged])] == [judged.arm]


# --- from thread to thread ------------------------------------------------------------------------


def test_only_what_is_new_changes_hands() -> None:
    inbox, events = Inbox(), [made.event(Waiting, at=float(i)) for i in range(6)]
    inbox.put(events[:2])
    inbox.put(events[:3])
    assert inbox.take() == (True, events[:3])
    assert inbox.take() == (False, [])
    inbox.put(events[:5])
    assert inbox.take() == (False, events[3:5])
    inbox.put([copy.copy(event) for event in events])  # equal, and not the same: read anew
    assert inbox.take() == (True, events)
    inbox.put(events[:1])
    assert inbox.take() == (True, events[:1])


# --- pages ----------------------------------------------------------------------------------------


class Page(list):
    token: str | None = None


class Run:
    def __init__(self, name: str) -> None:
        self.info, self.data = self, self
        self.run_id, self.tags = name, {"lvm.pid": "0", "lvm.pid_started": "0"}


class Store:
    """Answers in pages of runs that are open, as a store does: a run that ends leaves them."""

    def __init__(self, num_runs: int) -> None:
        self._open = {str(i): Run(str(i)) for i in range(num_runs)}

    @property
    def open(self) -> list[Run]:
        return list(self._open.values())

    def search_runs(self, experiments, wanted, *, max_results, page_token=None):
        first = int(page_token or 0)
        page = Page(self.open[first : first + max_results])
        page.token = str(first + max_results) if first + max_results < len(self.open) else None
        return page

    def set_terminated(self, run: str, status: str) -> None:
        del self._open[run]


@pytest.mark.parametrize("num_runs", [0, 1, PAGE - 1, PAGE, PAGE + 1])
def test_every_page_of_a_search_is_read(num_runs: int) -> None:
    store = Store(num_runs)
    assert search(store, "1", "") == store.open


def test_the_sweep_ends_the_runs_of_every_page() -> None:
    store = Store(PAGE + 1)
    sweep(store, "1")
    assert store.open == []


# --- marks ----------------------------------------------------------------------------------------


def test_marks_are_read_back_for_the_runs_that_are_still_there(tmp_path: Path) -> None:
    marks = Marks(tmp_path)
    marks.values_written("a", "1")
    marks.values_written("b", "2")
    marks.model_kept("b", "m")
    marks.save({"runs": {"a": "run a", "b": "run b"}})
    again = Marks(tmp_path)
    again.load({"a": "another run", "b": "run b"})
    assert [again.has_values("a", "1"), again.has_values("b", "2")] == [False, True]
    assert again.has_model("b", "m")
    assert not again.has_model("b", "another model")


def test_marks_are_saved_a_few_times_however_many_there_are(tmp_path: Path) -> None:
    marks, written = Marks(tmp_path), 0
    for place in range(2000):
        marks.values_written(str(place), "mark")
        if marks.due:
            marks.save({"runs": {}})
            written += place
    assert written < 20 * 2000  # each would be 2,000 * 2,000 / 2
