"""What a trial reports to the driver, and workers to their trial, and how that travels: as JSON.

Tune flattens the dictionaries of a result and mixes in keys of its own; a text it leaves alone. The
mailbox of workers hands one on without importing anything of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from lvm.core.errors import ClusterError
from lvm.core.records import StopReason
from lvm.triage.events import Epoch

KEY = "report"  # of a result of Tune


class Sign(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """A report that is no epoch."""


class Started(Sign, tag="started", frozen=True, kw_only=True):
    """A process has taken an arm."""

    node: str
    pid: int
    facts: dict[str, str]  # its code and versions


class Workers(Sign, tag="workers", frozen=True, kw_only=True):
    """A sign of life of a trial that drives workers; of a worker, once it has its place."""

    waits: bool  # for room
    facts: dict[str, str] = {}
    placement_group: str = ""  # id of what holds the workers, from the first of them


class Ended(Sign, tag="ended", frozen=True, kw_only=True):
    """An arm has ended by itself, in a way that was foreseen."""

    reason: StopReason
    detail: str


class Over(Sign, tag="over", frozen=True, kw_only=True):
    """An arm has nothing more to say."""


Report: TypeAlias = Started | Workers | Ended | Over | Epoch
_DECODER: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)


def to_text(report: Report) -> str:
    """Return a report as it travels."""
    return msgspec.json.encode(report).decode()


def from_text(text: str) -> Report:
    """Return a report that has travelled; ClusterError for what is none."""
    try:
        return _DECODER.decode(text)
    except msgspec.DecodeError as error:
        raise ClusterError(
            f"a trial sent a report that this version cannot read ({error}); install the same "
            "lvm on every node."
        ) from None


def from_result(result: Mapping[str, object]) -> Report:
    """Return the report in a result of Tune; ClusterError where there is none."""
    return from_text(str(result.get(KEY, "")))
