"""What a person gets at the end of a triage: files, one screen, and what to type next."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

from msgspec.structs import asdict

from lvm.audit.document import AuditDocument
from lvm.core.command import lvm_command, shown
from lvm.core.files import write_json
from lvm.core.plugins import module_names
from lvm.core.printed import eval_command
from lvm.core.records import RunVerdict, to_plain
from lvm.core.text import title_of
from lvm.jobs import request as asked
from lvm.jobs.options import TriageOptions
from lvm.triage.events import Audited
from lvm.triage.folder import found_at
from lvm.triage.journal import Journal
from lvm.triage.seeds import over_seeds
from lvm.triage.subject import TRAINER
from lvm.triage.summary import Summary
from lvm.views.report.markdown import write_report
from lvm.views.terminal import Screen, models_table
from lvm.views.terminal.audit import print_audit


def write_views(journal: Journal, document: Summary) -> Path:
    """Write verdict.json, audit.json and the report; return the path of the report."""
    write_json(journal.folder / "verdict.json", to_plain(document))
    audited = journal.events.last(Audited)
    if audited is not None:
        write_json(journal.folder / "audit.json", to_plain(audited.audit))
    return write_report(journal.events, document, journal.folder)


def print_blocked(audit: AuditDocument, report: Path, stream: TextIO) -> None:
    """Print what blocks, and that nothing was started."""
    print_audit(audit, stream)
    print("no training was started; exit status 3", file=stream)
    print(report_line(report), file=stream)
    print(f"MLflow: {lvm_command()} track {shown(report.parent)} records this run", file=stream)


def print_verdict(document: Summary, report: Path, options: TriageOptions, stream: TextIO) -> None:
    """Print the verdict, the table, and what to type next."""
    screen = Screen(stream)
    say_verdict(document, screen)
    screen.say(report_line(report))
    screen.say(f"MLflow: {lvm_command()} ui {shown(report.parent)}")
    screen.say(f"next: {_next_command(document, report.parent, options)}")


def report_line(report: Path) -> str:
    """Return in words where the report of a run is."""
    return f"report: {shown(report)} (and {report.with_suffix('.html').name} beside it)"


def not_uploaded_line(problem: str) -> str:
    """Return in words what MLflow lacks, and why."""
    return f"Some results were not uploaded to MLflow: {problem}"


def say_verdict(document: Summary, screen: Screen) -> None:
    """Say the verdict, the table of models, the gates and the cost."""
    if document.judged.sentence:
        screen.say(document.judged.sentence, "bold")
    good = document.verdict in (RunVerdict.PASSED, RunVerdict.FIXED)
    screen.say(document.headline, "bold green" if good else "bold yellow")
    lineage = document.lineage.sentence
    if lineage and lineage not in document.warnings:
        screen.say(lineage)
    for warning in document.warnings:
        screen.say(f"but: {warning}", "yellow")
    screen.console.print(models_table(document))
    judged = document.arm or document.phase1
    for gate in judged.gates:
        if gate.gate == "success":
            title = title_of(gate.metric)
            screen.say(f"gain over AR-only in {title}: {gate.verdict}, {gate.reason}")
    if document.seeds and (seeds := over_seeds(document.seeds)):
        screen.say(f"{seeds[0].lower()}{seeds[1:]}")
    compute = document.compute
    screen.say(
        f"cost: {compute.train_seconds:.0f} s of training in {compute.trials} trials, "
        f"{compute.saved_seconds:.0f} s saved by gates and pruning"
    )


def _next_command(document: Summary, folder: Path, options: TriageOptions) -> str:
    if document.arm is not None and document.judged.kind != TRAINER:
        checkpoint = found_at(document.arm.checkpoint, folder)
        return eval_command(checkpoint, asdict(asked.arguments(options)), module_names())
    if document.verdict in (RunVerdict.PASSED, RunVerdict.FIXED):
        return f"{lvm_command()} report {shown(folder)}"
    if document.lineage.verdict_if_unseen:
        return f"{asked.again(options)} --seen FILE (the articles that the model has read)"
    if document.absent:
        return str(document.resume)
    if options.steps:
        return f"{asked.again(options, steps=())} (the steps that --steps left out)"
    command = asked.again(options, recipe=None)
    return f"{command} --recipe FILE (what was not tried: see the report)"
