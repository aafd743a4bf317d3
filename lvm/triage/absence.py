"""Absent arms: what left nothing to judge because of where it ran, and how to say so.

An arm that crashed, got stuck, found no room or was lost says nothing about the arm. It is never
evidence, and a verdict that would have needed it is INCONCLUSIVE. Pure functions of plain values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from lvm.core.records import ABSENT, Absence, StopReason
from lvm.triage.events import ArmEnded, Event, StepStarted

ARM = "arm"  # the role of what a step tries
CONFIRMATION, SEED = "confirm_", "seed_"  # how the names of such races begin

VERBS = {  # reason -> one, several
    StopReason.CRASHED: ("crashed", "crashed"),
    StopReason.STUCK: ("got stuck", "got stuck"),
    StopReason.UNPLACED: ("could not be placed", "could not be placed"),
    StopReason.LOST: ("was lost", "were lost"),
}


def absences(events: Iterable[Event]) -> list[Absence]:
    """Return the arms that are absent in a journal, in the order in which they ended."""
    arms: dict[tuple[str, str], tuple[str, int]] = {}  # (step, arm) -> role, arms of the step
    found = []
    for event in events:
        if isinstance(event, StepStarted):
            roles = {spec.id: spec.role for spec in event.arms}
            num_arms = sum(role == ARM for role in roles.values())
            arms |= {(event.step, arm): (role, num_arms) for arm, role in roles.items()}
        elif isinstance(event, ArmEnded) and event.reason in ABSENT:
            role, num_arms = arms.get((event.step, event.arm), (ARM, 1))
            found.append(
                Absence(
                    step=event.step,
                    arm=event.name,
                    role=role,
                    num_arms=num_arms,
                    reason=event.reason,
                    detail=event.detail,
                )
            )
    return found


def sentences(absent: Iterable[Absence]) -> list[str]:
    """Say which arms are absent and why: one clause per step and reason, without a full stop."""
    groups: dict[tuple[str, ...], list[Absence]] = {}
    for one in absent:
        alone = "" if one.role == ARM else f"{one.role} {one.arm}"
        groups.setdefault((one.step, one.reason, alone), []).append(one)
    return [_sentence(group) for group in groups.values()]


def in_short(absent: Iterable[Absence]) -> str:
    """Return the first of these clauses, and how many more there are."""
    first, *more = sentences(absent)
    return f"{first}; {len(more)} more like this" if more else first


def _sentence(group: Sequence[Absence]) -> str:
    """Say why one arm, or several arms of one step, are absent."""
    verb = VERBS[group[0].reason][len(group) > 1]
    firsts = [one.detail.splitlines()[0].rstrip(".") for one in group if one.detail]
    causes = Counter(firsts).most_common()
    text = f"{_subject(group)} {verb}"
    if causes:
        text += f": {causes[0][0]}"
    if len(causes) > 1:
        text += f" (and {len(causes) - 1} other cause{'s' if len(causes) > 2 else ''})"
    return text


def _subject(group: Sequence[Absence]) -> str:
    one = group[0]
    match one.role:
        case "arm":  # ARM would be a pattern that matches anything
            return f"{len(group)} of {one.num_arms} arms of {one.step}"
        case "control" if one.step.startswith(CONFIRMATION):
            return f"the control of the full training for {one.step.removeprefix(CONFIRMATION)}"
        case "control":
            return f"the control of {one.step}"
        case "confirm":
            return f"the full training of {one.arm}"
        case "repeat":
            return f"{one.arm} with seed {one.step.removeprefix(SEED)}"
        case _:
            return one.arm
