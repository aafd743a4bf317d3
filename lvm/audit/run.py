"""Run every check, even if some crash, collect the results, and say what they mean for the steps.

Steps go by their numbers. A step names the findings on which it is asked first; the catalogue says
why. Where something blocks, nothing runs; where nothing points to a step, the failure report's
steps come in order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from msgspec import convert

from lvm.audit.check import CHECKS, Check, causes_first
from lvm.audit.document import AuditDocument
from lvm.audit.finding import CheckResult, Finding, NotEvaluable, Severity, Status
from lvm.audit.material import Material
from lvm.core.errors import ExitStatus
from lvm.core.metrics import FRONT
from lvm.core.records import LIMITS, to_plain

SCHEMA = 1
MIN_CHECKS = 10  # that have looked at something, before anything is called clean
Progress = Callable[[str, int, int], None]  # code of the check that starts, its number, of how many
LOW_RECALL = 0.5  # of the best trivial predictor's R@5
RARELY_FOUND = "RARELY_FOUND"  # no check: the model's metrics beside the ladder's show it
WHY_RARELY_FOUND = "the cosine beats every trivial predictor, but the target is rarely found"


class AuditVerdict(StrEnum):
    """The result of an audit."""

    BLOCKED = "BLOCKED"
    UNSURE = "UNSURE"  # a check broke: the data is not called clean
    WARNINGS = "WARNINGS"
    CLEAN = "CLEAN"
    NOT_EVALUABLE = "NOT_EVALUABLE"  # too little was looked at to call anything clean

    @property
    def exit_status(self) -> int:
        """Exit status of `lvm audit`: a check that broke is an error of the program, not clean."""
        ends = {
            "BLOCKED": ExitStatus.BLOCKED,
            "UNSURE": ExitStatus.PROGRAM,
            "NOT_EVALUABLE": ExitStatus.TOO_LITTLE,
        }
        return ends.get(self.value, ExitStatus.OK)


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The results of all checks; codes in `allowed` were overridden by the person."""

    results: Sequence[CheckResult]
    allowed: frozenset[str] = frozenset()
    seconds: float = 0.0

    @property
    def findings(self) -> list[Finding]:
        """All findings, worst first, and causes before what follows from them."""
        found = [finding for result in self.results for finding in result.findings]
        place = {code: at for at, code in enumerate(causes_first())}
        return sorted(found, key=lambda f: (f.severity.rank, place.get(f.code, len(place))))

    @property
    def blocking(self) -> list[str]:
        """Codes that stop a run."""
        codes = (f.code for f in self.findings if f.severity is Severity.BLOCK)
        return [code for code in dict.fromkeys(codes) if code not in self.allowed]

    @property
    def verdict(self) -> AuditVerdict:
        """The answer in a word."""
        if self.blocking:
            return AuditVerdict.BLOCKED
        if any(result.status is Status.FAILED for result in self.results):
            return AuditVerdict.UNSURE
        looked = sum(result.status is not Status.NOT_EVALUABLE for result in self.results)
        if looked < min(MIN_CHECKS, len(self.results)):
            return AuditVerdict.NOT_EVALUABLE
        if any(finding.severity is not Severity.INFO for finding in self.findings):
            return AuditVerdict.WARNINGS
        return AuditVerdict.CLEAN  # what is only worth knowing makes nothing unclean


def run_checks(
    material: Material,
    *,
    codes: Iterable[str] | None = None,
    allowed: Iterable[str] = (),
    progress: Progress = lambda code, number, total: None,
) -> Audit:
    """Run the checks named by `codes` (by default all) and collect what they say.

    A check that breaks on odd data is named with its error; the others still run. ConfigError for
    an unknown code in `allowed`.
    """
    started = time.perf_counter()
    overridden = frozenset(CHECKS.get(code).code for code in allowed)
    chosen = [CHECKS.get(code) for code in (CHECKS.names() if codes is None else codes)]
    results = []
    for number, one in enumerate(chosen, start=1):
        progress(one.code, number, len(chosen))
        results.append(_run(one, material))
    return Audit(
        results=results, allowed=overridden, seconds=round(time.perf_counter() - started, 3)
    )


def _run(one: Check, material: Material) -> CheckResult:
    started = time.perf_counter()
    findings: list[Finding] = []
    status, reason, supply = Status.PASS, "", ""
    try:
        findings.extend(one.findings(material))
    except NotEvaluable as answer:
        status, reason, supply = Status.NOT_EVALUABLE, answer.reason, answer.next
    except Exception as error:
        status, reason = Status.FAILED, f"{type(error).__name__}: {error}"
        supply = "report this with the file that caused it; the other checks are not affected"
    if findings and status in (Status.PASS, Status.NOT_EVALUABLE):
        status = Status.FOUND
    return CheckResult(
        code=one.code,
        status=status,
        findings=tuple(findings),
        reason=reason,
        next=supply,
        seconds=round(time.perf_counter() - started, 3),
    )


def audit_document(audit: Audit, material: Material, **more: object) -> AuditDocument:
    """Return the content of `audit.json`."""
    questions = {check.code: check.question for check in CHECKS}
    plain = to_plain(
        {
            "schema": SCHEMA,
            "verdict": audit.verdict,
            "findings": audit.findings,
            "checks": [
                {**vars(result), "question": questions[result.code], "findings": ()}
                for result in audit.results
            ],
            "allowed": sorted(audit.allowed),
            "inputs": _inputs(material),
            "seconds": audit.seconds,
            "quick": material.quick,
            **more,
        }
    )
    return convert(plain, AuditDocument)


def _inputs(material: Material) -> dict[str, object]:
    inputs: dict[str, object] = {
        side.name: {"source": side.source, "windows": len(side), "width": side.width}
        for side in material.sides
    }
    if (bank := material.bank) is not None:
        inputs["bank"] = {"source": bank.source, "rows": len(bank), "width": bank.width}
    return inputs


class Routed(Protocol):
    """The part of a step that routing needs."""

    @property
    def number(self) -> int:
        """Its place in the order."""

    @property
    def reported(self) -> bool:
        """Whether it is one of the failure report's."""

    @property
    def first_on(self) -> Collection[str]:
        """The finding codes that put it first."""


@dataclass(frozen=True, kw_only=True)
class Route:
    """The order of the steps by number, and why."""

    order: Sequence[int]
    reasons: Sequence[str]


def route(
    codes: Sequence[str],
    steps: Collection[Routed],
    *,
    model: Mapping[str, object] | None = None,
    ladder: Mapping[str, Mapping[str, object]] | None = None,
) -> Route:
    """Return the order of `steps` for the codes that were found.

    `model` holds the masked metrics of the model under triage and `ladder` those of the trivial
    predictors on the same windows, where they are known.
    """
    signs = [*codes, *([RARELY_FOUND] if _lacks_discrimination(model, ladder) else [])]
    rows = {row.code: row for row in CHECKS}
    pointed: list[tuple[list[int], str]] = []
    because = {code: row.because for code, row in rows.items()} | {RARELY_FOUND: WHY_RARELY_FOUND}
    for sign in dict.fromkeys(signs):
        if numbers := sorted(step.number for step in steps if sign in step.first_on):
            pointed.append((numbers, because.get(sign) or f"{sign} was found"))
    pointed.sort()
    in_order = sorted(step.number for step in steps if step.reported)
    reasons = [f"{_named(numbers)} first: {why}" for numbers, why in pointed]
    reasons += [row.for_arms for row in rows.values() if row.for_arms and row.code in codes]
    if not pointed and in_order:
        span = f"{in_order[0]} to {in_order[-1]}"
        reasons.append(f"steps {span} in order: no finding points to any of them")
    first = [number for numbers, _ in pointed for number in numbers]
    return Route(order=list(dict.fromkeys([*first, *in_order])), reasons=reasons)


def _named(numbers: Sequence[int]) -> str:
    *most, last = map(str, numbers)
    return f"steps {', '.join(most)} and {last}" if most else f"step {last}"


def _lacks_discrimination(
    model: Mapping[str, object] | None, ladder: Mapping[str, Mapping[str, object]] | None
) -> bool:
    if not model or not ladder:
        return False
    rungs = [row for name, row in ladder.items() if name not in LIMITS]
    if not rungs:
        return False
    best = {key: max(_number(row[key]) for row in rungs) for key in FRONT["raw"]}
    low = _number(model["r_at_5"]) < LOW_RECALL * best["r_at_5"]
    return low and _number(model["eval_cosine"]) > best["eval_cosine"]


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
