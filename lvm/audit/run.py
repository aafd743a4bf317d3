"""Run every check, even if some crash, and collect the results."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from msgspec import convert

from lvm.audit.check import CHECKS, Check, causes_first
from lvm.audit.document import AuditDocument
from lvm.audit.finding import CheckResult, Finding, NotEvaluable, Severity, Status
from lvm.audit.material import Material
from lvm.core.errors import ExitStatus
from lvm.core.records import to_plain

SCHEMA = 1
MIN_CHECKS = 10  # that have looked at something, before anything is called clean
Progress = Callable[[str, int, int], None]  # code of the check that starts, its number, of how many


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
    inputs: dict[str, Any] = {
        side.name: {"source": side.source, "windows": len(side), "width": side.width}
        for side in material.sides
    }
    with contextlib.suppress(NotEvaluable):
        bank = material.pool
        inputs["bank"] = {"source": bank.source, "rows": len(bank), "width": bank.width}
    return inputs
