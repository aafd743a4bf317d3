"""Write the report of a run: `report.md` in plain GitHub Markdown, and `report.html`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from lvm.audit.document import AuditDocument
from lvm.core.errors import UsageError
from lvm.core.files import write_whole
from lvm.core.outside import harmless
from lvm.core.text import one_line
from lvm.triage.state import RunState
from lvm.triage.summary import Summary
from lvm.views.report import (
    Block,
    Facts,
    Figure,
    Folded,
    Heading,
    Items,
    Paragraph,
    Preformatted,
    Run,
    Section,
    Table,
    html,
)
from lvm.views.report.audit import audit_of, audit_section, standalone
from lvm.views.report.cost import cost_section
from lvm.views.report.evidence import evidence_section
from lvm.views.report.front import front_blocks
from lvm.views.report.gates import gates_section
from lvm.views.report.ledger import ledger_sections
from lvm.views.report.models import models_section
from lvm.views.report.origin import not_tried_section, origin_section
from lvm.views.report.seeds import seeds_section
from lvm.views.report.steps import steps_section
from lvm.views.report.summary import stopped_by_audit, verdict_section
from lvm.views.report.tree import tree_section


def write_report(state: RunState, summary: Summary, folder: Path) -> Path:
    """Write report.md and report.html into `folder`; return the path of report.md.

    Each file is replaced whole or not at all. An unfinished run gives a report that says so.

    Raises UsageError when the folder cannot be written.
    """
    run = Run(state, summary)
    sections = report_sections(run)
    title = str(summary.verdict or "UNFINISHED")
    _write(folder / "report.html", html.render(sections, title))
    return _write(folder / "report.md", render(sections, title))


def write_audit_report(document: AuditDocument, folder: Path) -> Path:
    """Write report.md and report.html of an audit alone; return the path of report.md.

    Raises UsageError when the folder cannot be written.
    """
    sections, verdict = standalone(document), document.verdict
    _write(folder / "report.html", html.render(sections, verdict, "Audit report"))
    return _write(folder / "report.md", render(sections, verdict, "Audit report"))


def report_sections(run: Run) -> list[Section]:
    """Return all sections of the report, verdict first."""
    verdict = Section("verdict", "Verdict", list(verdict_section(run)))
    audit = [Section("audit", "The audit", list(audit_section(run)))] if audit_of(run) else []
    origin = Section("origin", "Where the numbers come from", list(origin_section(run)))
    if audit and stopped_by_audit(run):
        return [verdict, *audit, origin]
    seeds = []
    if run.summary.seeds:
        seeds = [Section("seeds", "Effect of the seed", list(seeds_section(run)))]
    return [
        verdict,
        Section("models", "Models on the test split", [*models_section(run), *front_blocks(run)]),
        Section("gates", "Gates", list(gates_section(run))),
        *seeds,
        Section("tree", "The path through the tree", list(tree_section(run))),
        Section("evidence", "Distributions and examples", list(evidence_section(run))),
        *audit,
        Section("steps", "Step by step", list(steps_section(run))),
        *ledger_sections(run),
        Section("cost", "Cost", list(cost_section(run))),
        Section("not-tried", "What was not tried", list(not_tried_section(run))),
        origin,
    ]


def render(sections: Sequence[Section], verdict: str, title: str = "Triage report") -> str:
    """Return the sections as GitHub Markdown."""
    parts = [f"# {plain(title)}: {plain(verdict)}"]
    for section in sections:
        parts.append(f"## {plain(section.title)}")
        parts += [text for block in section.blocks if (text := _block(block))]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    match block:
        case Paragraph(text=text, tone="lead"):
            return f"**{plain(text)}**"
        case Paragraph(text=text, tone="warning"):
            return f"> **Warning:** {plain(text)}"
        case Paragraph(text=text, tone="label"):
            return f"**{plain(text)}**"
        case Paragraph(text=text):
            return plain(text)
        case Heading(text=text, verdict=""):
            return f"### {plain(text)}"
        case Heading(text=text, gate=gate, verdict=verdict):
            return f"### {plain(text)} ({plain(gate)}: {plain(verdict)})"
        case Items(label=label, items=items):
            return "\n".join([f"{plain(label)}:", "", *(f"- {plain(item)}" for item in items)])
        case Facts(pairs=pairs):
            return "\n".join(f"- **{plain(key)}**: {plain(value)}" for key, value in pairs)
        case Preformatted(text=text):
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
            return f"{fence}text\n{text}\n{fence}"
        case Table():
            return _table(block)
        case Figure() | Folded(only_html=True):
            return ""
        case Folded(summary=summary, blocks=blocks):
            inside = [text for inner in blocks if (text := _block(inner))]
            return "\n\n".join([f"#### {plain(summary)}", *inside])


def _table(table: Table) -> str:
    rule = "|".join(" --- " if letter == "l" else " ---: " for letter in table.align)
    lines = [
        f"{plain(table.caption[:1].upper() + table.caption[1:])}:",
        "",
        _row(table.header),
        f"|{rule}|",
    ]
    for index, row in enumerate(table.rows):
        cells = [plain(cell) for cell in row]
        if index in table.strong:
            cells = [f"**{cell}**" if cell else "" for cell in cells]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(plain(cell) for cell in cells)} |"


_MARKUP = re.compile(
    r"[\\`*|$~<]|(?<!\w)_|_(?!\w)|\](?=\()|&(?=#?\w+;)|^>|^(?:[#+-]|\d+[.)])(?=\s)"
)


def plain(text: str) -> str:
    """Return text that Markdown shows unchanged, on one line."""
    return _MARKUP.sub(lambda found: f"{found[0][:-1]}\\{found[0][-1]}", one_line(text))


def _write(path: Path, text: str) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, harmless(text))
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written ({error.strerror}); free some space or make the folder "
            "writable, then continue with --resume."
        ) from None
    return path
