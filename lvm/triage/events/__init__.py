"""Every kind of event that a journal holds, each one frozen struct: what is written and read.

`told(record)` turns a line of a journal into its struct, or says which field is wrong. A field
without a default is one that the event cannot be told without.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from lvm.config.plain import to_dict
from lvm.errors import ConfigError
from lvm.triage.events.parts import Event
from lvm.triage.events.race import (
    ArmEnded,
    ArmJudged,
    ArmRestarted,
    Epoch,
    Rung,
    StepStarted,
    TestJudged,
    Waiting,
)
from lvm.triage.events.run import (
    Audited,
    BelowLadder,
    Compared,
    Confirmed,
    Decision,
    Forecast,
    Inspected,
    Interrupted,
    Ladder,
    Nodes,
    Phase1Judged,
    Reopened,
    Repeated,
    Resumed,
    RunStarted,
    Settled,
    StepEnded,
    Tidied,
)

KINDS: dict[str, type[Event]] = {
    str(kind.__struct_config__.tag): kind
    for kind in (
        RunStarted,
        Resumed,
        Interrupted,
        Reopened,
        Audited,
        Forecast,
        Nodes,
        Ladder,
        StepStarted,
        Epoch,
        Rung,
        ArmRestarted,
        Waiting,
        ArmEnded,
        ArmJudged,
        TestJudged,
        Phase1Judged,
        BelowLadder,
        Inspected,
        StepEnded,
        Confirmed,
        Settled,
        Repeated,
        Compared,
        Decision,
        Tidied,
    )
}


class NotToldError(ValueError):
    """An event lacks what it cannot be told without, or says it in another form."""


def read_event(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an event whose recipes have every key that a recipe has now.

    Raises NotToldError like `told`.
    """
    event = told(record)
    if isinstance(event, RunStarted):
        return {**record, "config": to_dict(event.config)}
    if isinstance(event, StepStarted):
        recipes = [to_dict(arm.recipe) for arm in event.arms]
        arms = zip(record["arms"], recipes, strict=True)
        return {**record, "arms": [{**arm, "recipe": recipe} for arm, recipe in arms]}
    return record


def told(record: Mapping[str, Any]) -> Event | None:
    """Return an event as its struct; None for a kind that this version does not know.

    Raises NotToldError with the field and what is wrong with it.
    """
    kind = KINDS.get(record["event"])
    if kind is None:
        return None
    try:
        return msgspec.convert(record, kind)
    except msgspec.ValidationError as error:
        raise NotToldError(str(error)) from None
    except ConfigError as error:
        raise NotToldError(f"{error} - at `$.config`") from None
