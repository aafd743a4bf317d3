"""What a resumed run takes back: the judgements that absent arms had a part in.

    run_started .. phase 1 .. step A (one arm crashed) .. step B .. Stop: INCONCLUSIVE
    reopened: step A                    appended by the resume; the file itself only grows
    step A (that arm again) .. Stop     judged anew; what was trained is not trained again

A resumed run tries every absent arm once more, whatever the verdict was, and judges anew from the
first step that lacks one. An arm that is absent again, for whatever reason, stays so until the next
resume. `effective` gives the events that count: every reader of a journal sees only these, so that
the verdict, its views and the tree agree without knowing of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lvm.absence import absences
from lvm.records import StopReason, to_plain

Event = Mapping[str, Any]

REOPENED = "reopened"
JUDGEMENTS = frozenset(
    {
        "arm_ended",
        "arm_judged",
        "below_ladder",
        "compared",
        "confirmed",
        "decision",
        "inspected",
        "phase_1_judged",
        "repeated",
        "rung",
        "settled",
        "step_ended",
        "step_started",
        "test_judged",
    }
)
STAYS = (StopReason.DIVERGED,)  # it ends so wherever it runs; other endings follow from epochs


def reopening(events: Sequence[Event]) -> dict[str, Any] | None:
    """Return what the event `reopened` says when a run resumes; None when no arm is absent."""
    absent = absences(events)
    if not absent:
        return None
    lacking = {one.step for one in absent}
    started = (e["step"] for e in events if e["event"] == "step_started")
    return {"step": next(s for s in started if s in lacking), "arms": to_plain(absent)}


def effective(events: Iterable[Event]) -> list[Event]:
    """Return the events that count: none that a later `reopened` has taken back.

    Epochs stay, and so do the endings in `STAYS`. Applied to its own answer it changes nothing.
    """
    kept: list[Event] = []
    for event in events:
        if event["event"] == REOPENED:
            kept = _taken_back(kept, event.get("step"))
        kept.append(event)
    return kept


def _taken_back(events: list[Event], step: Any) -> list[Event]:
    """Drop every judgement after the start of a step; the arms that it starts with are the same."""
    for index, event in enumerate(events):
        if event["event"] == "step_started" and event.get("step") == step:
            after = events[index + 1 :]
            return [*events[: index + 1], *(e for e in after if not _is_judgement(e))]
    return events


def _is_judgement(event: Mapping[str, Any]) -> bool:
    stays = event["event"] == "arm_ended" and event.get("reason") in STAYS
    return event["event"] in JUDGEMENTS and not stays
