"""The audit in a report: the worst findings first, what was not checked, small plots."""

from __future__ import annotations

from collections.abc import Iterator

from lvm.audit.document import (
    AuditDocument,
    FindingTold,
    answer,
    as_sentence,
    blocking_codes,
    cautions,
    checks_with,
    not_looked_at,
    severity_of,
    where_in_words,
)
from lvm.core.metrics import METRICS
from lvm.core.text import number, seconds, title_of
from lvm.triage.events import Audited, BelowLadder, Inspected
from lvm.views.report import (
    Block,
    Facts,
    Figure,
    Heading,
    Items,
    Paragraph,
    Preformatted,
    Run,
    Section,
    Table,
    plot_words,
    small_plots,
)

# --- the section ----------------------------------------------------------------------------------


def audit_of(run: Run) -> AuditDocument | None:
    """Return the audit of a run; None before there is one."""
    audited = run.state.last(Audited)
    return audited.audit if audited else None


def audit_section(run: Run) -> Iterator[Block]:
    """Yield what the audit found; nothing for a run without one."""
    document = audit_of(run)
    if document is not None:
        yield Paragraph(answer(document))
        for sentence in cautions(document):
            yield Paragraph(sentence, "warning")
        yield from _details(document)
    yield from _model_of_phase_1(run)


def _model_of_phase_1(run: Run) -> Iterator[Block]:
    """Yield the findings on the models of phase 1, and the order of the steps."""
    seen, below = run.state.last(Inspected), run.state.last(BelowLadder)
    if not seen and not below:
        return
    yield Heading("What the phase 1 models show")
    if below:
        told = [_told(f) for f in below.findings] or [as_sentence(below.reason)]
        yield Items(f"{below.name}, on dev", told)
    if seen:
        told = [_told(f) for f in seen.findings]
        nothing = ["none of the checks of predictions found it odd"]
        yield Items(f"{seen.name}, on dev", told or nothing)
    reasons = [f.next for f in below.findings] if below else []
    yield Items("What follows for the steps", [*reasons, *(seen.reasons if seen else ())])


def _told(finding: FindingTold) -> str:
    return f"{finding.code}: {as_sentence(finding.seen)} {finding.meaning}"


def standalone(document: AuditDocument) -> list[Section]:
    """Return the report of an audit alone."""
    first = list(first_screen(document))
    return [
        Section("verdict", "Verdict", first),
        Section("audit", "The audit", list(_details(document))),
    ]


def first_screen(document: AuditDocument) -> Iterator[Block]:
    """Yield the answer, overrides and failures, what blocks and what to do about it."""
    yield Paragraph(_lead(document), "lead")
    for sentence in cautions(document):
        yield Paragraph(sentence, "warning")
    findings = document.findings
    shown = [f for f in findings if f.code in blocking_codes(document)] or findings[:3]
    pairs = [(f.code, f"{as_sentence(f.seen)} {f.meaning}") for f in shown]
    pairs.append(("Cost", f"0 s of training; the audit took {seconds(document.seconds)}"))
    steps = list(dict.fromkeys(f.next for f in shown if f.next))
    pairs += [("Next" if i == 0 else "Then", step) for i, step in enumerate(steps)]
    if codes := blocking_codes(document):
        flags = " ".join(f"--allow {code}" for code in codes)
        pairs.append(("To continue regardless", f"{flags}; the report then says so at the top"))
    yield Facts(pairs)


def _lead(document: AuditDocument) -> str:
    text = answer(document)
    if document.verdict == "BLOCKED":
        return f"{text}. Training cannot fix this, so none was started. Repair the data first."
    return f"{text[:1].upper()}{text[1:]}."


def _details(document: AuditDocument) -> Iterator[Block]:
    """Yield findings, blind spots, routing, ladder, plots and inputs."""
    yield from _findings(document)
    yield Heading("What was checked")
    if blind := not_looked_at(document):
        yield Items("Not checked (missing input)", blind)
    if passed := [f"{c.code}: {c.question}" for c in checks_with(document, "PASS")]:
        yield Items("Passed", passed)
    yield from _route(document)
    yield from _ladder(document)
    plots = document.plots
    if drawn := small_plots.panels(plots):
        yield Heading("What the data looks like")
        yield Figure(drawn, "Bars show two standard errors over articles, on each side.")
        yield Preformatted(plot_words.as_text(plots), only_markdown=True)
    yield from _inputs(document)


def _findings(document: AuditDocument) -> Iterator[Block]:
    findings = document.findings
    if not findings:
        yield Paragraph("No findings.", "note")
        return
    rows = [
        [f.code, severity_of(f, document), f.seen, f.allowed, where_in_words(f.where)]
        for f in findings
    ]
    strong = frozenset(i for i, row in enumerate(rows) if row[1] == "block")
    header = ("Code", "Severity", "Seen", "Allowed", "Where")
    yield Table("findings, worst first", "lllll", header, rows, strong)
    yield Heading("What the findings mean, and what to do")
    pairs = []
    for finding in findings:
        place = finding.where.get("input")
        name = f"{finding.code}, {place}" if place else finding.code
        pairs += [(name, finding.meaning), ("next", finding.next)]
    yield Facts(pairs)


def _route(document: AuditDocument) -> Iterator[Block]:
    route = document.route
    if route.reasons:
        yield Items("What follows for the steps", route.reasons)
    if route.blocked:
        yield Paragraph(f"Nothing is run: {', '.join(route.blocked)}.")
    elif route.order:
        yield Paragraph(f"Order of the steps: {', '.join(route.order)}.")


def _ladder(document: AuditDocument) -> Iterator[Block]:
    ladder = document.ladder or {}
    every = {metric for row in ladder.values() for metric in row}
    known = [m.name for m in METRICS if m.name in every]
    metrics = known + sorted(every - set(known))
    if metrics:
        yield Table(
            "what untrained baselines reach on the eval windows",
            "l" + "r" * len(metrics),
            ("Predictor", *(title_of(metric) for metric in metrics)),
            [[name, *(number(row.get(m)) for m in metrics)] for name, row in ladder.items()],
        )


def _inputs(document: AuditDocument) -> Iterator[Block]:
    pairs = []
    for name, about in document.inputs.items():
        counts = (("windows", about.windows), ("rows", about.rows))
        sizes = [f"{count:,} {word}" for word, count in counts if count is not None]
        sizes += [f"width {about.width}"] if about.width is not None else []
        pairs.append((name.capitalize(), "; ".join([about.source or "", *sizes])))
    how = "on samples of the train side" if document.quick else "every check on all data"
    yield Facts([*pairs, ("Time", f"{seconds(document.seconds)}, {how}")])
