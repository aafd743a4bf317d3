"""Every kind of event that a journal holds, each one frozen struct: what is written and read.

`told(record)` turns a line of a journal into its struct, or says which field is wrong. A field
without a default is required.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from lvm.core.errors import ConfigError
from lvm.core.plain_json import Json
from lvm.core.records import to_plain
from lvm.triage.events.evidence import OfSeed, SpaceTold
from lvm.triage.events.parts import Event
from lvm.triage.events.race import (
    ArmEnded,
    ArmJudged,
    ArmRestarted,
    ArmsAdded,
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

__all__ = [
    "KINDS",
    "ArmEnded",
    "ArmJudged",
    "ArmRestarted",
    "ArmsAdded",
    "Audited",
    "BelowLadder",
    "Compared",
    "Confirmed",
    "Decision",
    "Epoch",
    "Event",
    "Forecast",
    "Inspected",
    "Interrupted",
    "Ladder",
    "Nodes",
    "NotToldError",
    "Phase1Judged",
    "Reopened",
    "Repeated",
    "Resumed",
    "RunStarted",
    "Rung",
    "Settled",
    "StepEnded",
    "StepStarted",
    "TestJudged",
    "Tidied",
    "Waiting",
    "as_read",
    "event_of",
    "kind_of",
    "migrated",
    "told",
]

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
        ArmsAdded,
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


E = TypeVar("E", bound=Event)


def event_of(kind: type[E], **values: object) -> E:
    """Return an event made of what the program computes with, in the form that is on disk."""
    return msgspec.convert(migrated({"event": _tag(kind), **to_plain(values)}), kind)


def as_read(event: E) -> E:
    """Return an event as a journal gives it back."""
    return msgspec.convert(to_plain(event), type(event))


def kind_of(event: Event) -> str:
    """Return the kind of an event, as a journal names it."""
    return _tag(type(event))


def _tag(kind: type[Event]) -> str:
    return str(kind.__struct_config__.tag)


def migrated(record: Mapping[str, Json]) -> Mapping[str, Json]:
    """Return a record of any schema in the current one.

    In schema 1 what parts from outside the package measured was among the keys of our own.
    """
    if record["event"] == "epoch":
        return _gathered(record, Epoch)
    evidence, models = record.get("evidence"), record.get("models")
    if record["event"] == "test_judged" and isinstance(evidence, dict):
        return {**record, "evidence": {**evidence, "spaces": _each(evidence.get("spaces"))}}
    if record["event"] == "repeated" and isinstance(models, dict):
        return {**record, "models": {name: _of_seeds(model) for name, model in models.items()}}
    return record


def _each(spaces: Json) -> Json:
    if not isinstance(spaces, dict):
        return spaces
    return {name: _within(space, SpaceTold) for name, space in spaces.items()}


def _of_seeds(model: Json) -> Json:
    seeds = model.get("per_seed") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(seeds, list):
        return model
    return {**model, "per_seed": [_within(one, OfSeed) for one in seeds]}


def _within(part: Json, kind: type[msgspec.Struct]) -> Json:
    return _gathered(part, kind) if isinstance(part, dict) else part


def _gathered(record: Mapping[str, Json], kind: type[msgspec.Struct]) -> dict[str, Json]:
    """Return a record with the numbers of unknown keys under `also`."""
    known = (*kind.__struct_fields__, "event")
    also: dict[str, Json] = {
        key: value
        for key, value in record.items()
        if key not in known and (value is None or isinstance(value, int | float))
    }
    return {**record, "also": also} if also and "also" not in record else {**record}


class NotToldError(ValueError):
    """An event lacks a required field, or has one of the wrong type."""


def told(record: Mapping[str, Json]) -> Event | None:
    """Return an event as its struct; None for a kind that this version does not know.

    Raises NotToldError with the field and what is wrong with it.
    """
    kind = KINDS.get(str(record["event"]))
    if kind is None:
        return None
    try:
        return msgspec.convert(migrated(record), kind)
    except msgspec.ValidationError as error:
        raise NotToldError(str(error)) from None
    except ConfigError as error:
        raise NotToldError(f"{error} - at `$.config`") from None
