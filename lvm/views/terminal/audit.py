"""An audit on a terminal: its progress and its result."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lvm.audit.document import (
    AuditDocument,
    answer,
    cautions,
    not_looked_at,
    severity_of,
    where_in_words,
)
from lvm.core.plain_json import Json
from lvm.views.terminal import NAMED, duration
from lvm.views.terminal.live import LiveFrames

STYLES = {"BLOCKED": "bold red", "CLEAN": "bold green"}
SEVERITY_STYLES = {"block": "red", "warn": "yellow"}


def print_audit(document: AuditDocument, stream: TextIO) -> None:
    """Print the result of an audit: the answer, findings, blind spots, seconds."""
    console = Console(file=stream, highlight=False)

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=True)

    style = STYLES.get(document.verdict, "bold yellow")
    say(answer(document), style)
    for sentence in cautions(document):
        console.print(Text(sentence, style="yellow"))
    if document.findings:
        console.print(Padding(audit_table(document), (1, 0)))
    for finding in document.findings:
        console.print(Text(f"{finding.code}: {finding.meaning}"))
        say(f"  next: {finding.next}", "bold")  # not wrapped, so that a command can be copied
    if blind := not_looked_at(document):
        say("not checked, so not passed:", "dim")
        for line in blind:
            console.print(Padding(Text(line, style="dim"), (0, 0, 0, 2)))
    say(f"{document.seconds:.1f} s", "dim")


def audit_table(document: AuditDocument) -> Table:
    """Return the table of findings, worst first."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("code", no_wrap=True)
    table.add_column("severity")
    for title, ratio in (("seen", 5), ("allowed", 4), ("where", 5)):
        table.add_column(title, ratio=ratio, overflow="fold")
    for finding in document.findings:
        severity = severity_of(finding, document)
        cells = (finding.seen, finding.allowed, _place(finding.where))
        table.add_row(
            Text(finding.code),
            Text(severity, style=SEVERITY_STYLES.get(severity, "")),
            *(Text(cell) for cell in cells),
        )
    return table


def _place(where: Mapping[str, Json]) -> str:
    """Return where a finding is, the file without its folder."""
    short = {"source": Path(str(where["source"])).name} if where.get("source") else {}
    return where_in_words({**where, **short}, NAMED)


class AuditProgress(LiveFrames):
    """Shows on a terminal which check runs, after two seconds; used as a `Progress` callback."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._started = time.monotonic()
        self._now = ("", 0, 1)

    def __call__(self, code: str, number: int, total: int) -> None:
        """Take note of the check that starts."""
        self._now = (code, number, total)

    def _render(self) -> RenderableType:
        code, number, total = self._now
        spent = time.monotonic() - self._started
        if spent < 2 or not code:
            return Text("")
        left = spent / max(1, number - 1) * (total - number + 1)
        return Text(
            f"audit: {code} ({number} of {total}), {duration(spent)} so far, about "
            f"{duration(left)} left",
            style="dim",
        )
