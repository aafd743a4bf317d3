"""The audit in a report: findings with the worst first, what could not be looked at, small plots.

The audit document is read as a plain mapping, and any part of it may be missing: it may come from
another version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lvm.triage.events import Audited, BelowLadder, Inspected
from lvm.audit.words import (
    Document,
    answer,
    as_sentence,
    blocking_codes,
    broken,
    checks_with,
    not_looked_at,
    overrides,
    severity_of,
    unverified,
    where_in_words,
)
from lvm.metrics import METRICS
from lvm.report import (
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
from lvm.text import number, seconds, title_of

# --- the section ----------------------------------------------------------------------------------


def audit_of(run: Run) -> Document:
    """Return the last audit of a run; empty for a run from before there was one."""
    audit: Document = run.last(Audited).get("audit") or {}
    return audit


def audit_section(run: Run) -> Iterator[Block]:
    """Yield what the audit found; nothing for a run without one."""
    document = audit_of(run)
    if document:
        yield Paragraph(answer(document))
        for sentence in [*unverified(document), *overrides(document), *broken(document)]:
            yield Paragraph(sentence, "warning")
        yield from _details(document)
    yield from _model_of_phase_1(run)


def _model_of_phase_1(run: Run) -> Iterator[Block]:
    """Yield what the models of phase 1 showed of themselves, and the order of the steps."""
    seen, below = run.last(Inspected), run.last(BelowLadder)
    if not seen and not below:
        return
    yield Heading("What the models of phase 1 show")
    if below:
        told = [_told(f) for f in below.findings] or [as_sentence(below.reason)]
        yield Items(f"{below.name}, on dev", told)
    if seen:
        name, findings = seen.get("name", "the base recipe"), seen.get("findings", [])
        told = [_told(f) for f in findings]
        yield Items(f"{name}, on dev", told or ["none of the checks of predictions found it odd"])
    reasons = [f.next for f in below.get("findings", [])]
    yield Items("What follows for the steps", [*reasons, *seen.get("reasons", [])])


def _told(finding: Mapping[str, Any]) -> str:
    return f"{finding.code}: {as_sentence(finding.seen)} {finding.meaning}"


def standalone(document: Document) -> list[Section]:
    """Return the report of an audit alone."""
    first = list(first_screen(document))
    return [
        Section("verdict", "Verdict", first),
        Section("audit", "The audit", list(_details(document))),
    ]


def first_screen(document: Document) -> Iterator[Block]:
    """Yield the answer, what was overridden or broke, what blocks and what to do about it."""
    yield Paragraph(_lead(document), "lead")
    for sentence in [*unverified(document), *overrides(document), *broken(document)]:
        yield Paragraph(sentence, "warning")
    findings = document.get("findings", [])
    shown = [f for f in findings if f.code in blocking_codes(document)] or findings[:3]
    pairs = [(f.code, f"{as_sentence(f.seen)} {f.meaning}") for f in shown]
    pairs.append(("Cost", f"0 s of training; the audit took {seconds(_seconds(document))}"))
    steps = list(dict.fromkeys(f.next for f in shown if f.get("next")))
    pairs += [("Next" if i == 0 else "Then", step) for i, step in enumerate(steps)]
    if codes := blocking_codes(document):
        flags = " ".join(f"--allow {code}" for code in codes)
        pairs.append(("To go on regardless", f"{flags}; the report then says so at the top"))
    yield Facts(pairs)


def _lead(document: Document) -> str:
    text = answer(document)
    if document.get("verdict") == "BLOCKED":
        return f"{text}. No training can help before this is mended, so none was started."
    return f"{text[:1].upper()}{text[1:]}."


def _seconds(document: Document) -> float:
    return float(document.get("seconds") or 0.0)


def _details(document: Document) -> Iterator[Block]:
    """Yield findings, blind spots, routing, ladder, plots and inputs."""
    yield from _findings(document)
    yield Heading("What was looked at")
    if blind := not_looked_at(document):
        yield Items("Could not be looked at, and so has not passed", blind)
    if passed := [f"{c.code}: {c.question}" for c in checks_with(document, "PASS")]:
        yield Items("Passed", passed)
    yield from _route(document)
    yield from _ladder(document)
    plots = document.get("plots") or {}
    if drawn := small_plots.panels(plots):
        yield Heading("What the data looks like")
        yield Figure(drawn, "Bars show two standard errors over articles, to each side.")
        yield Preformatted(plot_words.as_text(plots), only_markdown=True)
    yield from _inputs(document)


def _findings(document: Document) -> Iterator[Block]:
    findings = document.get("findings", [])
    if not findings:
        yield Paragraph("Nothing was found.", "note")
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


def _route(document: Document) -> Iterator[Block]:
    route = document.get("route") or {}
    if route.get("reasons"):
        yield Items("What follows for the steps", route.reasons)
    if route.get("blocked"):
        yield Paragraph(f"Nothing is run: {', '.join(route.blocked)}.")
    elif route.get("order"):
        yield Paragraph(f"Order of the steps: {', '.join(route.order)}.")


def _ladder(document: Document) -> Iterator[Block]:
    ladder = document.get("ladder") or {}
    every = {metric for row in ladder.values() for metric in row}
    known = [m.name for m in METRICS if m.name in every]
    metrics = known + sorted(every - set(known))
    if metrics:
        yield Table(
            "what predictors without training reach on the eval windows",
            "l" + "r" * len(metrics),
            ("Predictor", *(title_of(metric) for metric in metrics)),
            [[name, *(number(row.get(m)) for m in metrics)] for name, row in ladder.items()],
        )


def _inputs(document: Document) -> Iterator[Block]:
    pairs = []
    for name, about in (document.get("inputs") or {}).items():
        if about:
            sizes = [f"{about[k]:,} {k}" for k in ("windows", "rows") if about.get(k) is not None]
            sizes += [f"width {about.width}"] if about.get("width") is not None else []
            pairs.append((name.capitalize(), "; ".join([str(about.get("source", "")), *sizes])))
    how = "samples of the train side" if document.get("quick") else "every check at full size"
    yield Facts([*pairs, ("Time", f"{seconds(_seconds(document))}, {how}")])
