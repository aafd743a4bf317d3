"""Results of jobs as values; their text, and their HTML in a notebook, show the answer first."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lvm.audit.document import AuditDocument
from lvm.audit.repair import Repaired
from lvm.audit.run import AuditVerdict
from lvm.core.command import shown
from lvm.core.metrics import METRICS, Shown
from lvm.core.records import Evaluation, GateResult, RunVerdict, Verdict
from lvm.core.text import number, title_of
from lvm.jobs.ending import not_uploaded_line, report_line, say_verdict
from lvm.triage.events import Audited
from lvm.triage.folder import found_at
from lvm.triage.state import RunState
from lvm.triage.summary import Summary
from lvm.views.report import Block, Facts, Paragraph, Run, Table
from lvm.views.report.audit import first_screen, standalone
from lvm.views.report.html import fragment
from lvm.views.report.models import models_section
from lvm.views.report.summary import verdict_section
from lvm.views.terminal import Screen
from lvm.views.terminal.audit import print_audit


class Answer(ABC):
    """A result that prints its answer first."""

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """Yield what a notebook shows, the answer first."""

    @abstractmethod
    def __str__(self) -> str: ...

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return fragment(list(self.blocks()))


@dataclass(frozen=True, kw_only=True, repr=False)
class AuditResult(Answer):
    """What an audit found, and where its report is."""

    document: AuditDocument  # the content of audit.json
    folder: Path
    report: Path
    repaired: Repaired | None = None  # what a repair wrote
    after: AuditResult | None = None  # the audit of the repaired files

    @property
    def verdict(self) -> AuditVerdict:
        """The answer in a word."""
        return AuditVerdict(self.document.verdict)

    @property
    def exit_status(self) -> int:
        """The exit status of `lvm audit`; after a repair, that of the repaired files."""
        return int(self.after.exit_status if self.after else self.verdict.exit_status)

    def __str__(self) -> str:
        text = io.StringIO()
        print_audit(self.document, text)
        print(report_line(self.report), file=text)
        if self.after is not None:
            print(f"\naudit of the repaired files:\n{self.after}", file=text)
        return text.getvalue().rstrip()

    def blocks(self) -> Iterator[Block]:
        """Yield the first screen and the tables of the report."""
        yield from first_screen(self.document)
        details = (block for section in standalone(self.document) for block in section.blocks)
        yield from (block for block in details if isinstance(block, Table))
        yield Facts([("Report", str(self.report))])
        if self.after is not None:
            yield Paragraph("Audit of the repaired files:", "label")
            yield from self.after.blocks()


@dataclass(frozen=True, kw_only=True, repr=False)
class TriageResult(Answer):
    """The result of a run, and its folder."""

    summary: Summary  # the content of verdict.json
    folder: Path
    report: Path
    events: RunState  # the journal
    not_uploaded: str = ""  # what MLflow did not take, and why

    @property
    def verdict(self) -> RunVerdict:
        """The answer in a word."""
        assert self.summary.verdict is not None, "a run that has ended has a verdict"
        return self.summary.verdict

    @property
    def checkpoint(self) -> Path | None:
        """The model of the fix; None where none was found or needed."""
        arm = self.summary.arm
        return None if arm is None else found_at(arm.checkpoint, self.folder)

    @property
    def exit_status(self) -> int:
        """The exit status of `lvm triage`."""
        return int(self.verdict.exit_status)

    def __str__(self) -> str:
        text = io.StringIO()
        audited = self.events.last(Audited)
        if self.verdict is RunVerdict.BLOCKED and audited is not None:
            print_audit(audited.audit, text)
        else:
            say_verdict(self.summary, Screen(text))
        if self.not_uploaded:
            print(not_uploaded_line(self.not_uploaded), file=text)
        print(report_line(self.report), file=text)
        return text.getvalue().rstrip()

    def blocks(self) -> Iterator[Block]:
        """Yield the first screen of the report and its tables of models."""
        run = Run(self.events, self.summary)
        yield from verdict_section(run)
        if self.not_uploaded:
            yield Paragraph(not_uploaded_line(self.not_uploaded), "warning")
        yield from (block for block in models_section(run) if isinstance(block, Table))
        yield Facts([("Report", str(self.report))])


@dataclass(frozen=True, kw_only=True, repr=False)
class EvaluationResult(Answer):
    """What a model and the ladder reached on the test split."""

    model: str
    source: str  # of the data
    evaluation: Evaluation
    ladder: Mapping[str, Evaluation] = field(default_factory=dict)  # empty: not asked for
    warnings: Sequence[str] = ()
    verdict: Verdict | None = None  # of the success gate over AR-only, where that was given
    gates: Sequence[GateResult] = ()  # one for each metric of the success gate

    def lead(self) -> str:
        """Return the answer in one line."""
        masked = self.evaluation.masked
        told = ", ".join(f"{title_of(name)} {number(masked[name])}" for name in _columns())
        first = "" if self.verdict is None else f"success gate over AR-only: {self.verdict}; "
        return f"{first}{self.model} on {self.source}: {told}"

    def rows(self) -> list[list[str]]:
        """Return name and metrics of the model and of the ladder, own contexts masked."""
        ladder = {f"ladder: {name}": row.masked for name, row in self.ladder.items()}
        models = {self.model: self.evaluation.masked, **ladder}
        return [[n, *(number(row.get(c)) for c in _columns())] for n, row in models.items()]

    def __str__(self) -> str:
        pool, judged = self.evaluation.pool, self.evaluation
        header = ["test split", *map(title_of, _columns())]
        return "\n".join(
            [
                self.lead(),
                *(f"but: {warning}" for warning in self.warnings),
                *(_gate_line(gate) for gate in self.gates),
                *_aligned([header, *self.rows()]),
                f"{judged.num_windows} windows of {judged.num_articles} articles, pool {pool.id} "
                f"of {pool.size} rows, mask: {pool.mask}, {judged.space} space",
            ]
        )

    def blocks(self) -> Iterator[Block]:
        """Yield the answer, what qualifies it, the gates, and the table."""
        yield Paragraph(self.lead(), "lead")
        for warning in self.warnings:
            yield Paragraph(warning, "warning")
        if self.gates:
            yield Facts([(title_of(g.metric), f"{g.verdict}: {g.reason}") for g in self.gates])
        header = ("Model", *map(title_of, _columns()))
        judged = self.evaluation
        caption = (
            f"test split, own contexts masked, {judged.num_windows} windows of "
            f"{judged.num_articles} articles, pool of {judged.pool.size} rows, {judged.space} space"
        )
        yield Table(caption, "l" + "r" * len(_columns()), header, self.rows(), frozenset({0}))


@dataclass(frozen=True, kw_only=True, repr=False)
class TrainResult(Answer):
    """A trained model, and what it reached on the test split."""

    checkpoint: Path
    source: str  # of the data
    evaluation: Evaluation
    next: str  # the command that judges it again

    def _judged(self) -> EvaluationResult:
        return EvaluationResult(
            model=shown(self.checkpoint), source=self.source, evaluation=self.evaluation
        )

    def __str__(self) -> str:
        return str(self._judged())

    def blocks(self) -> Iterator[Block]:
        """Yield what it reached."""
        yield from self._judged().blocks()


def _columns() -> tuple[str, ...]:
    return tuple(METRICS.shown(Shown.TERMINAL))


def _gate_line(gate: GateResult) -> str:
    return f"gain over AR-only in {title_of(gate.metric)}: {gate.verdict}, {gate.reason}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines: names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
