"""Why the tree goes where it goes, in a clause that follows "since"."""

from __future__ import annotations

from lvm.core.records import Verdict
from lvm.triage.absence import in_short
from lvm.triage.actions import (
    Attribution,
    ConfirmOutcome,
    Outcome,
    Phase1Outcome,
    StepOutcome,
    TrainedOutcome,
)


def why(step: StepOutcome) -> str:
    """Say why an arm of a step is trained in full."""
    if step.candidate is None:
        return f"{step.carried} beats its control"
    word = "holds" if step.stage is Verdict.PASS else "may hold (its interval crosses)"
    return f"{step.candidate} {word} the stage gate"


def why_go_on(last: Outcome) -> str:
    """Say why the next step runs."""
    if isinstance(last, Phase1Outcome | StepOutcome | ConfirmOutcome) and last.absent:
        return in_short(last.absent)
    match last:
        case Phase1Outcome():
            return f"the success gate of phase 1 is {last.verdict}"
        case ConfirmOutcome(attribution=Attribution.STEP):
            return (
                f"{last.arm} holds the success gate, but an untrained baseline does better and "
                "a step is left"
            )
        case ConfirmOutcome(verdict=Verdict.PASS):
            return (
                f"{last.arm} holds the success gate, but does not clearly beat the unchanged "
                "recipe at the same budget"
            )
        case ConfirmOutcome():
            return f"the success gate of {last.arm} is {last.verdict}"
        case TrainedOutcome():
            return "every step has been measured"
        case StepOutcome():
            return f"no arm of {last.step} holds the stage gate"
    raise AssertionError(last)  # nothing follows a settlement or a repetition
