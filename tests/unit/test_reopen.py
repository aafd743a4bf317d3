"""Which events count once absent arms are tried again."""

from __future__ import annotations

import io
import json

import made
import numpy as np
import pytest

from lvm.core.records import ABSENT
from lvm.triage.agreement import disagreement
from lvm.triage.events import (
    ArmEnded,
    ArmJudged,
    Confirmed,
    Decision,
    Epoch,
    Reopened,
    Resumed,
    Rung,
    RunStarted,
    StepEnded,
    StepStarted,
)
from lvm.triage.journal import Journal, read_run
from lvm.triage.reopen import effective, reopening
from lvm.views.progress import JsonLines

ARMS = [made.arm(i, name=f"name {i}") for i in "ab"]


def step(name, *, reasons=("finished", "finished"), stage="FAIL"):
    """The events of a step with two arms."""
    found = [made.event(Decision, number=len(name), action="RunStep", step=name)]
    found.append(made.event(StepStarted, step=name, arms=ARMS))
    for arm, reason in zip("ab", reasons, strict=True):
        about = {"arm": arm, "step": name, "name": f"name {arm}"}
        detail = "CUDA out of memory" if reason in ABSENT else ""
        found.append(made.event(Epoch, **about))
        found.append(made.event(ArmEnded, **about, reason=reason, detail=detail))
    found.append(made.event(Rung, step=name))
    found += [made.event(ArmJudged, arm=arm, step=name) for arm in "ab"]
    return [*found, made.event(StepEnded, step=name, stage=stage)]


STARTED = made.event(RunStarted)
STOP = made.event(Decision, number=9, action="Stop", verdict="INCONCLUSIVE", cause=[])


def test_a_run_without_absent_arms_has_nothing_to_try_again() -> None:
    events = [STARTED, *step("one", reasons=("pruned", "diverged")), STOP]
    assert reopening(events) is None
    assert effective(events) == events


@pytest.mark.parametrize("reason", ABSENT)
def test_judgements_from_the_first_step_that_lacks_an_arm_are_taken_back(reason) -> None:
    before = [STARTED, *step("one")]
    lacking = step("two", reasons=("diverged", reason))
    events = [*before, *lacking, *step("three", reasons=(reason, "finished")), STOP]
    again = reopening(events)
    assert again.step == "two"
    assert [(arm.step, arm.arm) for arm in again.arms] == [
        ("two", "name b"),
        ("three", "name a"),
    ]
    assert {arm.detail for arm in again.arms} == {"CUDA out of memory"}
    left = effective([*events, again])
    assert left[: len(before)] == before  # with what was kept of step one
    kinds = [(type(e), e.step, getattr(e, "arm", None)) for e in left[len(before) :]]
    assert kinds == [
        (Decision, "two", None),
        (StepStarted, "two", None),  # asked, and still so
        (Epoch, "two", "a"),
        (ArmEnded, "two", "a"),  # it diverged, wherever it runs
        (Epoch, "two", "b"),
        (Epoch, "three", "a"),
        (Epoch, "three", "b"),  # trained, and not trained again
        (Reopened, "two", None),
    ]


def test_what_is_judged_anew_counts_and_can_be_taken_back_again() -> None:
    events = [STARTED, *step("one", reasons=("finished", "crashed")), STOP]
    first = reopening(events)
    anew = [e for e in step("one", reasons=("lost", "finished"))[2:] if not isinstance(e, Epoch)]
    events = [*events, first, *anew, STOP]
    left = effective(events)
    assert left[-len(anew) - 1 :] == [*anew, STOP]
    second = reopening(left)
    assert [(arm.arm, arm.reason) for arm in second.arms] == [("name a", "lost")]
    left = effective([*events, second])
    assert [type(e) for e in left] == [
        RunStarted,
        Decision,
        StepStarted,
        Epoch,
        Epoch,
        Reopened,
        Reopened,
    ]


def test_reading_twice_or_piece_by_piece_gives_the_same() -> None:
    rng = np.random.default_rng(0)
    reasons = ("finished", "pruned", "diverged", "crashed", "unplaced")
    reopened = 0
    for _ in range(200):
        events, left = [STARTED], [STARTED]
        for name in ("one", "two", "three")[: rng.integers(1, 4)]:
            drawn = [reasons[i] for i in rng.integers(len(reasons), size=2)]
            for happened in step(name, reasons=drawn):
                events.append(happened)
                left.append(happened)
            again = reopening(left)
            if again is not None and rng.integers(2):
                reopened += 1
                events.append(again)
                left = effective([*left, events[-1]])
                assert reopening(left) is None
        assert effective(events) == left == effective(left)
    assert reopened > 20


def test_the_journal_shows_what_counts_and_its_file_only_grows(tmp_path) -> None:
    journal = Journal(tmp_path)
    for happened in [STARTED, *step("one", reasons=("finished", "crashed")), STOP]:
        journal.append(happened)
    written = journal.path.read_bytes()
    assert journal.events.last(Decision, action="Stop") is not None
    journal.append(reopening(journal.events))
    assert journal.events.last(Decision, action="Stop") is None
    assert journal.path.read_bytes().startswith(written)
    assert journal.events == Journal(tmp_path).events == read_run(tmp_path)
    assert isinstance(journal.events[-1], Reopened)


def test_every_view_reads_what_counts(tiny_folder, tmp_path) -> None:
    """`read_run` is what report, status and MLflow are made from."""
    (tmp_path / "journal.jsonl").write_bytes((tiny_folder / "journal.jsonl").read_bytes())
    journal = Journal(tmp_path)
    (first, *_) = [e.step for e in journal.events.of(StepStarted)]
    journal.append(made.event(Reopened, step=first))
    kinds = {type(e) for e in read_run(tmp_path)}
    assert kinds & {Decision, ArmJudged, Confirmed} == {Decision}


def test_lines_of_progress_go_on_after_events_were_taken_back(tmp_path, capsys) -> None:
    stream, journal = io.StringIO(), Journal(tmp_path)
    lines = JsonLines(stream)

    def note(event):
        journal.append(event)
        lines.tell(journal)

    for happened in [STARTED, *step("one", reasons=("finished", "crashed")), STOP]:
        note(happened)
    told = len(stream.getvalue().splitlines())
    note(made.event(Resumed, command="x"))
    note(reopening(journal.events))
    note(made.event(ArmEnded, arm="b", step="one", name="name b", reason="finished"))
    new = [json.loads(line) for line in stream.getvalue().splitlines()[told:]]
    assert [line["event"] for line in new] == ["resumed", "reopened", "arm_ended"]
    assert new[1]["arms"] == ["name b"]


# --- one truth -----------------------------------------------------------------------------------


STOPPED = {"action": "Stop", "verdict": "FIXED", "cause": ["a"]}


@pytest.mark.parametrize(
    ("kind", "written", "now", "differs"),
    [
        (Decision, STOPPED, {**STOPPED, "cause": ("a",), "since": "other words"}, ""),
        (Decision, STOPPED, {"action": "RunStep"}, "action"),
        (StepEnded, {"kept": "b"}, {"kept": None}, "kept"),
        (
            Confirmed,
            {"verdict": "PASS", "attribution": "step"},
            {"verdict": "INCONCLUSIVE", "attribution": "open"},
            "verdict",
        ),
        (ArmJudged, {"detail": "x"}, {"detail": "y"}, ""),
    ],
)
def test_what_decides_must_be_what_was_written(kind, written, now, differs) -> None:
    found = disagreement(made.event(kind, **written), made.event(kind, **now))
    assert found.split(" ")[0] == differs
