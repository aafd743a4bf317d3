"""What a run measures and decides, as plain typed records that turn into JSON and back.

Metrics are referred to by name (`lvm.core.metrics` declares them). Verdicts and stop reasons are
enumerations, so that no decision hangs on a loose string.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, overload

import msgspec

from lvm.core.errors import ExitStatus
from lvm.core.plain_json import Json
from lvm.core.setting import Section

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Count = Annotated[int, msgspec.Meta(ge=0)]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a kept record; keys that this version does not know are ignored."""


class Verdict(StrEnum):
    """Answer of one gate."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"  # the interval crosses the bound
    NOT_EVALUABLE = "NOT_EVALUABLE"  # there is nothing to judge; the reason says why


class RunVerdict(StrEnum):
    """Answer of one triage."""

    PASSED = "PASSED"
    FIXED = "FIXED"
    NOT_FIXED = "NOT_FIXED"
    INCONCLUSIVE = "INCONCLUSIVE"
    BLOCKED = "BLOCKED"

    @property
    def exit_status(self) -> int:
        """Exit status of the triage command."""
        ends = {"PASSED": ExitStatus.OK, "FIXED": ExitStatus.OK, "BLOCKED": ExitStatus.BLOCKED}
        return ends.get(self.value, ExitStatus.NOT_FIXED)


class StopReason(StrEnum):
    """Why an arm ended."""

    GATE_HELD = "gate held"
    PRUNED = "pruned"
    FINISHED = "finished"
    DIVERGED = "diverged"
    NOT_EVALUABLE = "not evaluable"
    CRASHED = "crashed"
    STUCK = "stuck"  # no epoch for many times its usual time, twice
    UNPLACED = "unplaced"  # no node had room for it in time
    LOST = "lost"  # its node or process went away more often than it may
    CANCELLED = "cancelled"


ABSENT = (StopReason.CRASHED, StopReason.STUCK, StopReason.UNPLACED, StopReason.LOST)
"""Endings that say nothing about the arm: never evidence, and tried again by a resumed run."""


@dataclass(frozen=True, kw_only=True)
class Absence:
    """One arm that is not there to be judged."""

    step: str  # the race it ran in: phase_1, a step, confirm_STEP or seed_N
    arm: str  # its name
    role: str  # "phase 1", "arm", "control", "confirm" or "repeat"
    reason: StopReason  # one of ABSENT
    detail: str = ""  # the first line of the cause
    num_arms: int = 1  # arms that its step tries, without the control


LIMITS = ("oracle", "random")  # baselines that mark the ends of the scale, not competitors


@dataclass(frozen=True, kw_only=True)
class Pool:
    """What may be retrieved, stated with every retrieval number."""

    id: str  # fingerprint of the rows
    size: int  # rows
    mask: str  # "own contexts" or "none"
    ties: str = "split"  # a tie counts half a place for every equal row

    def chance(self, k: int) -> float:
        """Return the R@k of a random ranking."""
        return min(1.0, k / self.size)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over windows with an interval whose unit is the article."""

    value: float
    lower: float
    upper: float
    confidence: float
    num_windows: int
    num_articles: int


@dataclass(frozen=True, kw_only=True)
class SeededEstimate(Estimate):
    """A mean over several training seeds, with an interval over seeds and articles together."""

    num_seeds: int
    between_seeds: float  # variance of a seed's mean, with infinitely many articles
    between_articles: float  # variance of an article's contribution, with infinitely many seeds
    rest: float  # variance of the interaction of seed and article


class Position(StrEnum):
    """Where a model lies against the front of untrained baselines."""

    ABOVE = "above"  # nothing on the front is as good in both metrics
    ON = "on"  # not separable from the front
    BELOW = "below"  # a point of the front is better in both, or in one metric by far
    NOT_EVALUABLE = "not evaluable"

    @property
    def beats(self) -> bool | None:
        """Whether a model there is worth more than the front; None where that is unknown."""
        return None if self is Position.NOT_EVALUABLE else self is Position.ABOVE


@dataclass(frozen=True, kw_only=True)
class FrontPosition:
    """A model compared with the front; `lvm.evaluation.front` defines the terms."""

    position: Position
    metrics: tuple[str, str]
    distance: Estimate | None = None  # in both metrics at once; above zero is above the front
    rung: str | None = None  # the baseline that comes closest to the model or beats it
    gains: Mapping[str, Estimate] = field(default_factory=dict)  # metric -> model - baseline
    mixture: Mapping[str, float] = field(default_factory=dict)  # baseline -> share, nearest point
    reason: str = ""  # why nothing could be compared


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """One gate judged: what was measured, against which bound, with what answer."""

    gate: str  # "stage", "success" or "gain"
    metric: str
    bound: float
    estimate: Estimate | None
    verdict: Verdict
    reason: str  # one clause in words
    p_value: float | None = None  # one-sided, of the difference lying at or below the bound
    adjusted_p: float | None = None  # the same after Holm; the one that decides a PASS
    num_tests: int | None = None  # comparisons that were corrected for, known looks among them
    sign_flip_p: float | None = None  # by flipping the signs of articles; it decides nothing
    design_effect: float | None = None  # variance of the mean over that of independent windows
    degrees: float | None = None  # degrees of freedom of the interval
    effective_articles: float | None = None  # articles of equal length with the same information
    size_correlation: float | None = None  # of the articles' values and the logarithm of their size
    skew: float | None = None  # of the articles' values
    articles_needed: int | None = (
        None  # more that would settle it with the chance of lvm.core.outlook
    )
    articles_range: tuple[int, int] | None = None  # its range, since the error is an estimate too


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics of one predictor on one split, raw and with own contexts masked out of the pool."""

    split: str  # "dev" or "test"
    space: str  # "raw" or "projected"
    num_windows: int
    num_articles: int
    pool: Pool  # of the masked metrics; the raw ones are over the same rows, unmasked
    masked: Mapping[str, float | None]
    raw: Mapping[str, float | None]
    latency: Mapping[str, float | None] = field(default_factory=dict)  # p50_ms, p95_ms


@overload
def to_plain(
    value: msgspec.Struct | Section | DataclassInstance | Mapping[str, object],
) -> dict[str, Json]: ...
@overload
def to_plain(value: object) -> Json: ...
def to_plain(value: object) -> Json:
    """Turn records, mappings and sequences into what JSON can hold; NaN and infinity into null."""
    if isinstance(value, msgspec.Struct):
        return _struct_to_plain(value)
    if isinstance(value, Section):
        return value.to_plain()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in dataclasses.fields(value)]
        return {name: to_plain(getattr(value, name)) for name in names}
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, float):  # also NumPy's, which JSON libraries refuse
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _struct_to_plain(value: msgspec.Struct) -> dict[str, Json]:
    about = value.__struct_config__
    tag = {} if about.tag is None else {str(about.tag_field): about.tag}
    names = zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True)
    given = {written: getattr(value, name) for name, written in names}
    told = {key: to_plain(item) for key, item in given.items() if item is not msgspec.UNSET}
    return {**tag, **told}


def flatten(values: Mapping[str, Json], prefix: str = "") -> Iterator[tuple[str, Json]]:
    """Yield (dotted key, leaf) of nested mappings in order."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
