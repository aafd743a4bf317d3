"""An audit as `audit.json` and the journal of a run tell it: one frozen struct.

What has a default here was not always written.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from lvm.audit.finding import Severity, Status
from lvm.core.records import Count, Part


class Where(Part, frozen=True, kw_only=True):
    """Where a finding lies; other keys that are texts or numbers are shown under their names."""

    input: str | None = None
    source: str | None = None
    count: int | UnsetType = UNSET
    of: int | UnsetType = UNSET
    rows: list[int | float | str] | None = None
    articles: list[int | float | str] | None = None
    blocks: list[tuple[int | float | str, int | float | str]] | None = None


class FindingTold(Part, frozen=True, kw_only=True):
    """One finding, as `lvm.audit.finding.Finding` writes it."""

    code: str
    severity: Severity
    seen: str
    allowed: str
    where: dict[str, Any]  # the keys of a Where, and others that are shown under their names
    meaning: str
    next: str
    values: dict[str, int | float | None] = {}

    def __post_init__(self) -> None:
        try:
            msgspec.convert(self.where, Where)
        except msgspec.ValidationError as error:
            raise ValueError(f"{error} in `where`") from None


class CheckTold(Part, frozen=True, kw_only=True):
    """What became of one check."""

    code: str
    question: str
    status: Status
    reason: str
    next: str
    seconds: float


class Route(Part, frozen=True, kw_only=True):
    """What the findings ask for."""

    blocked: list[str]
    order: list[str] = []
    reasons: list[str] = []


class InputTold(Part, frozen=True, kw_only=True):
    """One side of the data, or its bank."""

    source: str | None = None
    windows: Count | None = None
    rows: Count | None = None
    width: Count | None = None


class Profile(Part, frozen=True, kw_only=True):
    """A mean with its error at some places."""

    x: list[int] = []
    mean: list[float | None] = []
    error: list[float | None] | None = None
    windows: Count | None = None


class Block(Part, frozen=True, kw_only=True):
    """How a block of articles coheres."""

    first: int | None = None
    last: int | None = None
    articles: Count | None = None
    windows: Count | None = None
    near: float | None = None
    error: float | None = None

    def __post_init__(self) -> None:
        if self.first is not None and self.last is None:
            raise ValueError("Object missing required field `last`")


class Coherence(Part, frozen=True, kw_only=True):
    """How the eval side coheres, block by block, beside the train side."""

    blocks: list[Block] = []
    by_article: bool = True
    train: Block | None = None
    low: float | None = None
    high: float | None = None


class Histogram(Part, frozen=True, kw_only=True):
    """Cosines with own targets and with those of other articles, in bins."""

    edges: list[float]
    paired: list[float | None]
    shuffled: list[float | None]
    paired_mean: float | None = None
    shuffled_mean: float | None = None
    windows: Count | None = None

    def __post_init__(self) -> None:
        if not len(self.edges) - 1 == len(self.paired) == len(self.shuffled) > 0:
            raise ValueError("Expected one number for every bin")


class Plots(Part, frozen=True, kw_only=True):
    """The numbers behind an audit's plots."""

    position_profile: dict[str, Profile] | None = None
    lag_profile: dict[str, Profile] | None = None
    offset_sweep: dict[str, Profile] | None = None
    coherence_blocks: Coherence | None = None
    cosine_histograms: dict[str, Histogram] | None = None
    prediction_histogram: Histogram | None = None


class AuditDocument(Part, frozen=True, kw_only=True):
    """The result of an audit."""

    schema: int = 1
    verdict: str
    findings: list[FindingTold]
    checks: list[CheckTold]
    allowed: list[str] = []
    inputs: dict[str, InputTold] = {}
    seconds: float = 0.0
    quick: bool = False
    ladder: dict[str, dict[str, int | float | None]] | None = None
    plots: Plots = msgspec.field(default_factory=lambda: Plots())
    route: Route
