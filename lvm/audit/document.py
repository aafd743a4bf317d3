"""An audit as `audit.json` and the journal of a run tell it, one frozen struct, and its words.

What has a default here was not always written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from lvm.audit.finding import Severity, Status
from lvm.core.records import Count, Part
from lvm.core.text import counted

NUM_NAMED = 5  # rows or articles of a finding that are named in words


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


def answer(document: AuditDocument) -> str:
    """Return the result of the audit in one line."""
    match document.verdict:
        case "BLOCKED":
            return f"BLOCKED: {', '.join(blocking_codes(document))}"
        case "UNSURE":
            broke = ", ".join(check.code for check in checks_with(document, "FAILED"))
            found = ", ".join(_codes(document, "block", "warn"))
            rest = f"; found: {found}" if found else ""
            return f"not sure: {broke or 'a check'} crashed{rest}; {_counts(document)}"
        case "NOT_EVALUABLE":
            found = ", ".join(_codes(document, "block", "warn"))
            rest = f"; found: {found}" if found else ""
            return f"not evaluable: too little data{rest}; {_counts(document)}"
        case "WARNINGS":
            return f"warnings: {', '.join(_codes(document, 'block', 'warn'))}; {_counts(document)}"
        case _:
            known = ", ".join(_codes(document, "info"))
            rest = f"; worth knowing: {known}" if known else ""
            return f"clean: {_counts(document)}{rest}"


def blocking_codes(document: AuditDocument) -> list[str]:
    """Return the codes that block, worst first, without those that the person allowed."""
    allowed = document.allowed
    return [code for code in _codes(document, "block") if code not in allowed]


def overrides(document: AuditDocument) -> list[str]:
    """Return a sentence for each blocking finding that was overridden with --allow."""
    allowed = document.allowed
    return [
        f"--allow {f.code}: the audit would have stopped this run. {as_sentence(f.seen)} "
        f"{as_sentence(f.meaning)}"
        for f in document.findings
        if f.severity == "block" and f.code in allowed
    ]


def broken(document: AuditDocument) -> list[str]:
    """Return a sentence for each check that broke."""
    return [
        f"Check {check.code} crashed, so the data cannot be called clean: "
        f"{as_sentence(check.reason or 'no reason was recorded')}"
        for check in checks_with(document, "FAILED")
    ]


def unverified(document: AuditDocument) -> list[str]:
    """Return a sentence for a checkpoint that may be computed otherwise than it was trained."""
    return [
        f"The checkpoint is {as_sentence(f.seen)}"
        for f in document.findings
        if f.code == "LOADER" and f.values.get("not_verified")
    ]


def cautions(document: AuditDocument) -> list[str]:
    """Return the warnings that come before everything else in an audit report."""
    return [*unverified(document), *overrides(document), *broken(document)]


def not_looked_at(document: AuditDocument) -> list[str]:
    """Return one line per reason for which checks had nothing to look at."""
    groups: dict[tuple[str, str], list[str]] = {}
    for check in checks_with(document, "NOT_EVALUABLE"):
        reason = check.reason or "no reason was recorded"
        groups.setdefault((reason, check.next), []).append(check.code)
    return [
        f"{', '.join(codes)}: {reason}" + (f" ({next})" if next else "")
        for (reason, next), codes in groups.items()
    ]


def where_in_words(where: Mapping[str, object], named: int = NUM_NAMED) -> str:
    """Return where a finding lies: input, file, how many rows, and the worst of them.

    At most `named` rows, articles and blocks are listed; further scalars follow under their name.
    """
    parts, known = [], msgspec.convert(where, Where)
    if not isinstance(known.count, msgspec.UnsetType):
        of = "" if isinstance(known.of, msgspec.UnsetType) else f" of {known.of:,}"
        parts.append(f"{known.count:,}{of} rows")
    for key, ids in (("rows", known.rows), ("articles", known.articles)):
        if ids:
            parts.append(f"{key} {_listed([str(value) for value in ids], named)}")
    if known.blocks:
        spans = [f"{first}–{last}" for first, last in known.blocks]
        parts.append(f"blocks of articles {_listed(spans, named)}")
    others = {k: v for k, v in where.items() if k not in Where.__struct_fields__}
    parts += [f"{key} {value}" for key, value in others.items() if isinstance(value, str | int)]
    place = ", ".join(text for text in (known.input, known.source) if text)
    return ": ".join(part for part in (place, "; ".join(parts)) if part)


def severity_of(finding: FindingTold, document: AuditDocument) -> str:
    """Return the severity of a finding, and whether it was overridden."""
    severity = str(finding.severity)
    allowed = severity == "block" and finding.code in document.allowed
    return f"{severity} (allowed)" if allowed else severity


def _listed(values: Sequence[str], named: int) -> str:
    return ", ".join(values[:named]) + (" …" if len(values) > named else "")


def as_sentence(text: str) -> str:
    """Return text with a full stop where it has no end."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _codes(document: AuditDocument, *severities: str) -> list[str]:
    found = [f.code for f in document.findings if f.severity in severities]
    return list(dict.fromkeys(found))


def checks_with(document: AuditDocument, status: str) -> list[CheckTold]:
    """Return the checks that ended with this status."""
    return [check for check in document.checks if check.status == status]


def _counts(document: AuditDocument) -> str:
    passed, blind = (len(checks_with(document, status)) for status in ("PASS", "NOT_EVALUABLE"))
    return f"{counted(passed, 'check')} passed, {blind} had no input"
