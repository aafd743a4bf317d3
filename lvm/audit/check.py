"""A check: one code of the catalogue and the function that looks for it.

Checks register in the files of this package, so a new one is one function in one file. A check
reads a Material and yields findings; it raises NotEvaluable when what it needs is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lvm.audit.finding import Finding
from lvm.registry import Registry

if TYPE_CHECKING:
    from lvm.audit.material import Material

Look = Callable[["Material"], Iterable[Finding]]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One code, what it asks, and how it looks."""

    code: str
    question: str  # what it asks, in a few words
    look: Look


CHECKS: Registry[Check] = Registry("check", "lvm.audit")


def check(code: str, question: str) -> Callable[[Look], Look]:
    """Return a decorator that registers a function as the check of `code`."""

    def register(look: Look) -> Look:
        CHECKS.register(code)(Check(code=code, question=question, look=look))
        return look

    return register
