"""What the events of a run are made of: arms, findings, evidence, in the form that is on disk.

Records that the program computes with (`lvm.core.records`) are used as they are. The others have
their form here, because a journal is read without what computed them: nothing heavy is imported.

A part may be older than a key: what has a default here was not always written.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from lvm.core.config.recipe import Recipe
from lvm.core.config.run import GateConfig
from lvm.core.metrics import DECIDING
from lvm.core.records import (
    Count,
    Evaluation,
    GateResult,
    Part,
    StopReason,
    Verdict,
)


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """What all events have."""

    at: float = 0.0  # seconds since 1970, as the journal took it


# --- the run --------------------------------------------------------------------------------------


class Size(Part, frozen=True, kw_only=True):
    """How much a split held before a part of it was drawn."""

    windows: Count
    articles: Count


class DataSeen(Part, frozen=True, kw_only=True):
    """The data of a run."""

    source: str
    width: Count
    rows: Count
    fingerprint: str | None
    windows: dict[str, Count]
    articles: dict[str, Count]
    drawn_from: dict[str, Size] = {}


class Arguments(Part, frozen=True, kw_only=True):
    """The command line of a run."""

    data: str | None = None
    train: str | None = None
    eval: str | None = None
    payload: str | None = None
    checkpoint: str | None = None
    predictions: str | None = None
    seen: str | None = None
    recipe: str | None = None
    plugin: list[str] = []
    preset: str | None = None
    steps: list[str] = []
    order: list[str] = []
    independent: bool = False
    five_steps: bool = False
    all_steps: bool = False
    extended: bool = False
    seeds: int | None = None
    allow: list[str] | None = None


class Environment(Part, frozen=True, kw_only=True):
    """Where a run was started."""

    versions: dict[str, str | None]
    platform: str
    cpus: Count
    memory_gib: float


class Probe(Part, frozen=True, kw_only=True):
    """What was timed before a forecast."""

    seconds: float
    update_seconds: float
    dev_seconds: float
    test_seconds: float
    start_seconds: float


# --- arms -----------------------------------------------------------------------------------------


class Arm(Part, frozen=True, kw_only=True):
    """An arm as its step starts it."""

    id: str
    step: str
    name: str
    role: str
    recipe: Recipe
    folder: str
    gates: GateConfig
    source: str | None
    baseline: str | None
    evaluate_test: bool
    workers: Annotated[int, msgspec.Meta(ge=1)]
    threads: Annotated[int, msgspec.Meta(ge=1)]
    device: str
    commit: str | None
    why: str
    changes: dict[str, str | int | float | bool | None] = {}


class ControlTold(Part, frozen=True, kw_only=True):
    """The control of a full training, as it was judged."""

    spec: str
    name: str
    reason: StopReason | None = None
    verdict: Verdict | None = None
    gates: list[GateResult] = []


# --- what is measured -----------------------------------------------------------------------------


def check_evaluation(evaluation: Evaluation) -> None:
    """Raise ValueError where a metric is unknown that every view asks for."""
    for name in DECIDING:
        if evaluation.masked.get(name) is None:
            raise ValueError(f"Object missing required field `masked.{name}`")
