"""What a check reports: findings, or the reason why it could not look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from lvm.core.outside import printable

# What repairs a file; the commands put in their own files before they print it.
REPAIR = "lvm audit ... --repair OUT"


class Severity(StrEnum):
    """What a finding does to a run."""

    BLOCK = "block"  # no training can help; nothing is started
    WARN = "warn"  # the run goes on, and its report says so
    INFO = "info"  # worth knowing

    @property
    def rank(self) -> int:
        """Place in a list with the worst first."""
        return list(Severity).index(self)


class Status(StrEnum):
    """What became of one check."""

    PASS = "PASS"
    FOUND = "FOUND"  # it has findings
    NOT_EVALUABLE = "NOT_EVALUABLE"  # it had nothing to look at; never counts as passed
    FAILED = "FAILED"  # it broke on odd data; the data is then not called clean


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One defect: what was seen, what is allowed, where, what it means and what to do.

    `where` says which input and which rows, articles or blocks are worst: the keys `input` (one of
    train, eval, bank, index, predictions, checkpoint, gate, training), and where they apply
    `source` (file), `count` (rows concerned), `of` (rows looked at), `rows` (worst ones, at most
    10), `articles` (likewise) and `blocks` ([[first, last], ...]).
    """

    code: str
    severity: Severity
    seen: str
    allowed: str
    where: Mapping[str, Any]
    meaning: str  # one sentence
    next: str  # a command or an edit, concrete
    values: Mapping[str, float] = field(default_factory=dict)  # the numbers behind `seen`

    def __post_init__(self) -> None:
        _print_safely(self, "seen", "allowed", "meaning", "next")
        where = {k: printable(v) if isinstance(v, str) else v for k, v in self.where.items()}
        object.__setattr__(self, "where", where)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a check saw, with the fields of a Finding; what it leaves out its catalogue row says."""

    seen: str
    allowed: str
    where: Mapping[str, Any]
    severity: Severity | None = None
    meaning: str = ""
    next: str = ""
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """The result of one check."""

    code: str
    status: Status
    findings: tuple[Finding, ...] = ()
    reason: str = ""  # why it could not look, or how it broke
    next: str = ""  # what to supply
    seconds: float = 0.0

    def __post_init__(self) -> None:
        _print_safely(self, "reason", "next")


def _print_safely(record: object, *names: str) -> None:
    """Escape in fields what a terminal would obey: they name what is in files of others."""
    for name in names:
        object.__setattr__(record, name, printable(getattr(record, name)))


class NotEvaluable(Exception):  # not an error: an answer
    """Raised by a check that has nothing to look at: why, and what to supply."""

    def __init__(self, reason: str, next: str = "") -> None:
        super().__init__(reason)
        self.reason, self.next = reason, next
