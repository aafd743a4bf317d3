"""A check: one row of the catalogue and the function that measures.

Checks register in the files of this package, so a new one is one function in one file. A check
reads a Material and yields what it saw, to which its row adds code, severity, meaning and next
step, or whole findings where these differ. It raises NotEvaluable when what it needs is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lvm.audit.finding import Finding, Seen, Severity
from lvm.core.registry import Registry

if TYPE_CHECKING:
    from lvm.audit.material import Material

Look = Callable[["Material"], Iterable[Finding | Seen]]


@dataclass(frozen=True, kw_only=True)
class About:
    """The catalogue entry of a check, without its code and question."""

    blocks: bool = False  # whether a finding stops a run, where it does not say itself
    meaning: str = ""  # what a finding means, where all mean the same
    next: str = ""  # what to do about one, likewise
    cause: int | None = None  # place among the causes, which are listed before the rest
    of_model: bool = False  # checks a trained model, so it runs again after phase 1
    thorough: bool = False  # searches with many queries or needs a model: not for the quick look
    because: str = ""  # why a finding has steps asked first, as a clause
    for_arms: str = ""  # what a finding means for the arms of the steps, as a clause


@dataclass(frozen=True, kw_only=True)
class Check(About):
    """One row of the catalogue: a code, what it asks, and how it looks."""

    code: str
    question: str  # what it asks, in a few words
    look: Look

    def findings(self, material: Material) -> Iterator[Finding]:
        """Look, and give what was seen the row's words where it has none of its own."""
        yield from map(self.finding, self.look(material))

    def finding(self, seen: Finding | Seen) -> Finding:
        """Return what was seen as a finding of this check."""
        if isinstance(seen, Finding):
            return seen
        own = {
            "severity": seen.severity or (Severity.BLOCK if self.blocks else Severity.WARN),
            "meaning": seen.meaning or self.meaning,
            "next": seen.next or self.next,
        }
        return Finding(code=self.code, **{**vars(seen), **own})


CHECKS: Registry[Check] = Registry("check", "lvm.audit")


def check(code: str, question: str, about: About | None = None) -> Callable[[Look], Look]:
    """Return a decorator that registers a function as the check of `code`."""

    def register(look: Look) -> Look:
        row = vars(about or About())
        CHECKS.register(code)(Check(code=code, question=question, look=look, **row))
        return look

    return register


def causes_first() -> list[str]:
    """Return the codes of the causes, in their order."""
    causes = [(row.cause, row.code) for row in CHECKS if row.cause is not None]
    return [code for _, code in sorted(causes)]
