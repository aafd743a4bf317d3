"""What absent arms are called, and which a journal holds."""

from __future__ import annotations

import made
import pytest

from lvm.core.records import ABSENT, Absence, StopReason, to_plain
from lvm.triage.absence import absences, in_short, sentences
from lvm.triage.events import ArmEnded, StepStarted

CRASHED, STUCK, UNPLACED, LOST = ABSENT


def one(step="negatives", arm="a", role="arm", *, reason=CRASHED, detail="CUDA out of memory"):
    return Absence(step=step, arm=arm, role=role, reason=reason, detail=detail, num_arms=4)


@pytest.mark.parametrize(
    ("absent", "said"),
    [
        ([one(arm=a) for a in "abc"], ["3 of 4 arms of negatives crashed: CUDA out of memory"]),
        ([one(detail="first line.\nand more")], ["1 of 4 arms of negatives crashed: first line"]),
        ([one(detail="")], ["1 of 4 arms of negatives crashed"]),
        ([one(reason=LOST, detail="")], ["1 of 4 arms of negatives was lost"]),
        (
            [one(arm=a, reason=LOST, detail="x.") for a in "ab"],
            ["2 of 4 arms of negatives were lost: x"],
        ),
        (
            [one(reason=STUCK), one(arm="b", reason=UNPLACED, detail="no GPU")],
            [
                "1 of 4 arms of negatives got stuck: CUDA out of memory",
                "1 of 4 arms of negatives could not be placed: no GPU",
            ],
        ),
        (
            [one(arm="control", role="control")],
            ["the control of negatives crashed: CUDA out of memory"],
        ),
        (
            [one("phase_1", "AR-only", "phase 1", detail="no space left on /data")],
            ["AR-only crashed: no space left on /data"],
        ),
        (
            [
                one("confirm_negatives", "hard", "confirm"),
                one("confirm_negatives", "control", "control"),
            ],
            [
                "the full training of hard crashed: CUDA out of memory",
                "the control of the full training for negatives crashed: CUDA out of memory",
            ],
        ),
        ([one("seed_3", "AR-only", "repeat")], ["AR-only with seed 3 crashed: CUDA out of memory"]),
        ([], []),
    ],
)
def test_absent_arms_are_said_by_step_and_reason(absent, said) -> None:
    assert sentences(absent) == said


def test_the_commonest_cause_of_a_step_is_named_and_the_others_are_counted() -> None:
    causes = ("x", "y", "y", "z")
    (said,) = sentences(one(arm=str(i), detail=cause) for i, cause in enumerate(causes))
    assert said == "4 of 4 arms of negatives crashed: y (and 2 other causes)"


def test_in_short_there_is_one_clause_and_a_count() -> None:
    assert in_short([one()]) == "1 of 4 arms of negatives crashed: CUDA out of memory"
    more = in_short([one(), one("temperature"), one("temperature", "b"), one("phase_1", "x", "")])
    assert more == "1 of 4 arms of negatives crashed: CUDA out of memory; 2 more like this"


def test_what_a_document_holds_is_said_like_what_a_run_has_seen() -> None:
    assert sentences(Absence(**plain) for plain in to_plain([one()])) == sentences([one()])


def test_a_journal_holds_the_arms_that_ended_because_of_where_they_ran() -> None:
    arms = [made.arm(str(reason)) for reason in StopReason]
    events = [
        made.event(StepStarted, arms=[*arms, made.arm("c", role="control")]),
        *(
            made.event(
                ArmEnded, arm=str(reason), name=f"name {reason}", reason=reason, detail="why"
            )
            for reason in StopReason
        ),
        made.event(ArmEnded, arm="c", name="control", reason="lost"),
    ]
    found = absences(events)
    assert [(a.arm, a.role, a.reason) for a in found] == [
        *((f"name {reason}", "arm", reason) for reason in ABSENT),
        ("control", "control", LOST),
    ]
    assert {a.num_arms for a in found} == {len(StopReason)}  # the control is not counted
    assert {a.detail for a in found} == {"why", ""}
    assert absences([]) == []
