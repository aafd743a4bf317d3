"""A triage from its options: a new run, a resumed one, or a preview."""

from __future__ import annotations

import sys
from pathlib import Path

from lvm.core.errors import ExitStatus, RunInterrupted, UsageError
from lvm.jobs import request as asked
from lvm.jobs.audience import Audience, at_terminal
from lvm.jobs.job import Job
from lvm.jobs.options import TriageOptions
from lvm.jobs.own import check_trainer
from lvm.jobs.results import TriageResult
from lvm.jobs.start import show
from lvm.jobs.steps import chosen_steps
from lvm.triage.address import check_address, check_growth
from lvm.triage.folder import new_run, run_to_resume
from lvm.triage.journal import Journal
from lvm.triage.local_head import LocalHead
from lvm.triage.step import steps_in_order
from lvm.views.progress import JsonLines

RUNS = Path("runs")


def run(options: TriageOptions, head: LocalHead | None = None) -> int:
    """Start or resume a triage, or show what it would do; return the exit status."""
    if options.show:
        _refuse_early(options)
        if options.resume is not None:
            raise UsageError("--show cannot be combined with --resume; use lvm status.")
        show(options)
        return ExitStatus.OK
    with JsonLines(sys.stdout if options.json else None) as lines:
        try:
            return triaged(options, at_terminal(lines), head).exit_status
        except RunInterrupted:  # what to type next is printed, before the last files were written
            return ExitStatus.INTERRUPTED


def triaged(
    options: TriageOptions, audience: Audience, head: LocalHead | None = None
) -> TriageResult:
    """Start or resume a triage; return its result.

    Raises RunInterrupted after Ctrl-C and SIGTERM, and an LvmError where there is no verdict.
    """
    _refuse_early(options)
    if options.resume is None:
        return _start(options, audience, head)
    return _resume(options, options.resume, audience, head)


def _refuse_early(options: TriageOptions) -> None:
    """Refuse what no triage can do, before anything starts."""
    check_address(options.address)
    steps_in_order()  # refuses two that contradict each other


def _start(options: TriageOptions, audience: Audience, head: LocalHead | None) -> TriageResult:
    config = asked.configuration(options)
    check_trainer(config, options)
    chosen_steps(options, config)  # refuses what is wrong before there is a folder
    check_growth(config.schedule, options.address)
    command = asked.command(options)
    with new_run(options.out, RUNS) as lock:
        return Job(options, command, config, lock, Journal(lock.folder), audience, head).run()


def _resume(
    options: TriageOptions, folder: Path, audience: Audience, head: LocalHead | None
) -> TriageResult:
    command = asked.command(options)
    with run_to_resume(folder) as lock:
        journal = Journal(lock.folder)
        options = asked.resumed(options, journal)
        config = asked.configuration(options, journal)
        check_trainer(config, options)
        check_growth(config.schedule, options.address)
        audience.lines.skip(journal)
        return Job(options, command, config, lock, journal, audience, head).run()
