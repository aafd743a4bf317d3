"""What a resumed run takes back: the judgements that absent arms had a part in.

run_started .. phase 1 .. step A (one arm crashed) .. step B .. Stop: INCONCLUSIVE reopened: step A
appended by the resume; the file itself only grows step A (that arm again) .. Stop judged again;
what was trained is not trained again

A resumed run tries every absent arm once more, whatever the verdict was, and judges again from the
first step that lacks one. An arm that is absent again, for whatever reason, stays so until the next
resume. `effective` gives the events that count: every reader of a journal sees only these, so that
the verdict, its views and the tree agree without knowing of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lvm.core.records import StopReason
from lvm.triage.absence import absences
from lvm.triage.events import (
    ArmEnded,
    ArmJudged,
    BelowLadder,
    Compared,
    Confirmed,
    Decision,
    Event,
    Inspected,
    Phase1Judged,
    Reopened,
    Repeated,
    Rung,
    Settled,
    StepEnded,
    StepStarted,
    TestJudged,
    event_of,
)

JUDGEMENTS = (
    ArmEnded,
    ArmJudged,
    BelowLadder,
    Compared,
    Confirmed,
    Decision,
    Inspected,
    Phase1Judged,
    Repeated,
    Rung,
    Settled,
    StepEnded,
    StepStarted,
    TestJudged,
)
STAYS = (StopReason.DIVERGED,)  # it ends so wherever it runs; other endings follow from epochs


def reopening(events: Sequence[Event]) -> Reopened | None:
    """Return the event with which a run resumes that lacks an arm; None when no arm is absent."""
    absent = absences(events)
    if not absent:
        return None
    lacking = {one.step for one in absent}
    started = (e.step for e in events if isinstance(e, StepStarted))
    return event_of(Reopened, step=next(s for s in started if s in lacking), arms=absent)


def effective(events: Iterable[Event]) -> list[Event]:
    """Return the events that count: none that a later `reopened` has taken back.

    Epochs stay, and so do the endings in `STAYS`. Applied to its own answer it changes nothing.
    """
    kept: list[Event] = []
    for event in events:
        if isinstance(event, Reopened):
            kept = _taken_back(kept, event.step)
        kept.append(event)
    return kept


def _taken_back(events: list[Event], step: str) -> list[Event]:
    """Drop every judgement after the start of a step; the arms that it starts with are the same."""
    for index, event in enumerate(events):
        if isinstance(event, StepStarted) and event.step == step:
            after = events[index + 1 :]
            return [*events[: index + 1], *(e for e in after if not _is_judgement(e))]
    return events


def _is_judgement(event: Event) -> bool:
    stays = isinstance(event, ArmEnded) and event.reason in STAYS
    return isinstance(event, JUDGEMENTS) and not stays
