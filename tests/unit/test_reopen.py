"""Which events count once absent arms are tried again."""

from __future__ import annotations
import made
from lvm.triage.events import ArmEnded, ArmJudged, Decision, Epoch, Resumed, RunStarted, Rung, StepEnded, StepStarted

import io
import json

import numpy as np
import pytest

from lvm.progress import JsonLines
from lvm.records import ABSENT
from lvm.triage.agreement import disagreement
from lvm.triage.events import Decision, StepStarted
from lvm.triage.journal import Journal, read_journal, read_run
from lvm.triage.reopen import REOPENED, effective, reopening

ARMS = [{"id": i, "name": f"name {i}", "role": "arm", "source": None} for i in "ab"]


def event(kind, **values):
    return {"event": kind, "at": 0.0, **values}


def ended(arm, step, reason, detail=""):
    return event(
        "arm_ended", arm=arm, step=step, name=f"name {arm}", reason=reason, epoch=1, detail=detail
    )


def step(name, *, reasons=("finished", "finished"), stage="FAIL"):
    """The events of a step with two arms."""
    found = [event("decision", number=len(name), action="RunStep", step=name, since="x")]
    found.append(event("step_started", step=name, title=name, arms=ARMS))
    for arm, reason in zip("ab", reasons, strict=True):
        found += [
            event("epoch", arm=arm, step=name, name=f"name {arm}", epoch=1),
            ended(arm, name, reason, "CUDA out of memory" if reason in ABSENT else ""),
        ]
    found.append(event("rung", step=name, epoch=1))
    found += [event("arm_judged", arm=arm, step=name, reason="x") for arm in "ab"]
    return [*found, event("step_ended", step=name, stage=stage)]


STARTED = event("run_started", schema=1)
STOP = event("decision", number=9, action="Stop", verdict="INCONCLUSIVE", cause=[], since="x")


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
    left = effective([*events, event(REOPENED, **again)])
    assert left[: len(before)] == before  # with what was kept of step one
    kinds = [(e["event"], e.get("step"), e.get("arm")) for e in left[len(before) :]]
    assert kinds == [
        ("decision", "two", None),
        ("step_started", "two", None),  # asked, and still so
        ("epoch", "two", "a"),
        ("arm_ended", "two", "a"),  # it diverged, wherever it runs
        ("epoch", "two", "b"),
        ("epoch", "three", "a"),
        ("epoch", "three", "b"),  # trained, and not trained again
        (REOPENED, "two", None),
    ]


def test_what_is_judged_anew_counts_and_can_be_taken_back_again() -> None:
    events = [STARTED, *step("one", reasons=("finished", "crashed")), STOP]
    first = event(REOPENED, **reopening(events))
    anew = [e for e in step("one", reasons=("lost", "finished"))[2:] if not isinstance(e, Epoch)]
    events = [*events, first, *anew, STOP]
    left = effective(events)
    assert left[-len(anew) - 1 :] == [*anew, STOP]
    second = reopening(left)
    assert [(arm.arm, arm.reason) for arm in second.arms] == [("name a", "lost")]
    left = effective([*events, event(REOPENED, **second)])
    assert [e["event"] for e in left] == [
        "run_started",
        "decision",
        "step_started",
        "epoch",
        "epoch",
        REOPENED,
        REOPENED,
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
                events.append(event(REOPENED, **again))
                left = effective([*left, events[-1]])
                assert reopening(left) is None
        assert effective(events) == left == effective(left)
    assert reopened > 20


def test_the_journal_shows_what_counts_and_its_file_only_grows(tmp_path) -> None:
    journal = Journal(tmp_path)
    for happened in [STARTED, *step("one", reasons=("finished", "crashed")), STOP]:
        values = {k: v for k, v in happened.items() if k not in ("event", "at")}
        journal.append(happened["event"], **values)
    written = journal.path.read_bytes()
    assert journal.events.last(Decision, action="Stop") is not None
    journal.append(REOPENED, **reopening(journal.events))
    assert journal.events.last(Decision, action="Stop") is None
    assert journal.path.read_bytes().startswith(written)
    assert journal.events == Journal(tmp_path).events == effective(read_journal(tmp_path))
    assert journal.events[-1]["event"] == REOPENED


def test_every_view_reads_what_counts(tiny_folder, tmp_path) -> None:
    """`read_run` is what report, status and MLflow are made from."""
    (tmp_path / "journal.jsonl").write_bytes((tiny_folder / "journal.jsonl").read_bytes())
    journal = Journal(tmp_path)
    (first, *_) = [e.step for e in journal.events.of(StepStarted)]
    journal.append(REOPENED, step=first, arms=[])
    kinds = {e["event"] for e in read_run(tmp_path)}
    assert kinds & {"decision", "arm_judged", "confirmed"} == {"decision"}


def test_lines_of_progress_go_on_after_events_were_taken_back(tmp_path, capsys) -> None:
    stream, journal = io.StringIO(), Journal(tmp_path)
    lines = JsonLines(stream)

    def note(kind, **values):
        journal.append(kind, **values)
        lines.tell(journal)

    for happened in [STARTED, *step("one", reasons=("finished", "crashed")), STOP]:
        note(happened["event"], **{k: v for k, v in happened.items() if k not in ("event", "at")})
    told = len(stream.getvalue().splitlines())
    note(made.event(Resumed, command="x"))
    note(REOPENED, **reopening(journal.events))
    note(made.event(ArmEnded, arm="b", step="one", name="name b", reason="finished", epoch=1, detail=""))
    new = [json.loads(line) for line in stream.getvalue().splitlines()[told:]]
    assert [line["event"] for line in new] == ["resumed", REOPENED, "arm_ended"]
    assert new[1]["arms"] == ["name b"]


# --- one truth -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "written", "now", "differs"),
    [
        (
            "decision",
            {"action": "Stop", "verdict": "FIXED", "cause": ["a"], "since": "x"},
            {"action": "Stop", "verdict": "FIXED", "cause": ("a",), "since": "other words"},
            "",
        ),
        ("decision", {"action": "Stop", "verdict": "FIXED"}, {"action": "RunStep"}, "action"),
        (
            "step_ended",
            {"stage": "FAIL", "candidate": None, "kept": "b"},
            {"stage": "FAIL", "candidate": None, "kept": None},
            "kept",
        ),
        (
            "confirmed",
            {"verdict": "PASS", "attribution": "step"},
            {"verdict": "INCONCLUSIVE", "attribution": "open"},
            "verdict",
        ),
        ("arm_judged", {"detail": "x"}, {"detail": "y"}, ""),
    ],
)
def test_what_decides_must_be_what_was_written(kind, written, now, differs) -> None:
    found = disagreement(event(kind, **written), now)
    assert found.split(" ")[0] == differs
