"""How a verdict's model compares with the front of untrained baselines."""

from __future__ import annotations

from lvm.core.records import FrontPosition, Position, RunVerdict
from lvm.core.text import title_of
from lvm.triage.step import Role
from lvm.triage.subject import PREDICTIONS
from lvm.triage.summary import ModelShown, Summary

FRONT = "the front of untrained baselines"


def subjects(summary: Summary) -> list[ModelShown]:
    """Return the models that the verdict is about: the person's predictions, and what passes.

    Without a model that passes, the last one that was confirmed; never a control.
    """
    models, shown = summary.models, summary.arm
    own = [m for m in models if summary.judged.stand_in and m.arm == PREDICTIONS]
    ours = [m for m in models if shown and m.arm == shown.id]
    if not ours:
        roles = [Role.CONFIRM, *([Role.PHASE1] if summary.verdict == RunVerdict.PASSED else [])]
        ours = [m for m in models if m.role in roles and m not in own][-1:]
    if summary.verdict == RunVerdict.PASSED and own:
        ours = []
    return [*own, *ours]


def beats_ladder(summary: Summary) -> bool | None:
    """Return whether the model of the verdict is above the front; None if unmeasured."""
    found = _position(summary)
    return found.position.beats if found else None


def worth(summary: Summary) -> str:
    """Return where the model of the verdict lies, as a clause with its comma; "" if unmeasured."""
    found = _position(summary)
    if found is None:
        return ""
    titles = " and ".join(title_of(metric) for metric in found.metrics)
    match found.position:
        case Position.ABOVE if found.distance:
            return f", above {FRONT} by {found.distance.value:.3f} in both {titles}"
        case Position.ON:
            return f", on {FRONT}{_losses(found)}"
        case Position.BELOW:
            return f", below {FRONT}, where {found.rung} does better"
        case _:
            return ""


def _losses(found: FrontPosition) -> str:
    """Return in brackets what a model on the front clearly loses to the next rung; else ""."""
    lost = [
        f"{title_of(metric)} {gain.value:+.3f}"
        for metric, gain in found.gains.items()
        if gain.upper < 0
    ]
    return f" ({' and '.join(lost)} against {found.rung})" if lost else ""


def _position(summary: Summary) -> FrontPosition | None:
    """Return where the model that the verdict is about lies; None where nobody measured it.

    FIXED is about our network even where it stood in for predictions; all else about these.
    """
    models = subjects(summary)
    if not models:
        return None
    model = models[-1] if summary.verdict == RunVerdict.FIXED else models[0]
    return summary.front.get(model.arm)
