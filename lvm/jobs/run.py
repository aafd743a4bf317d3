"""A triage from its options: a new run, one that is resumed, or what a run would do."""

from __future__ import annotations

import sys
from pathlib import Path

from lvm.errors import ExitStatus, UsageError
from lvm.jobs import request as asked
from lvm.jobs.job import Job
from lvm.jobs.options import TriageOptions
from lvm.jobs.start import show
from lvm.jobs.steps import chosen_steps
from lvm.progress import JsonLines
from lvm.triage.address import check_address, check_growth
from lvm.triage.folder import new_run, run_to_resume
from lvm.triage.journal import Journal
from lvm.triage.local_head import LocalHead
from lvm.triage.step import steps_in_order

RUNS = Path("runs")


def run(options: TriageOptions, head: LocalHead | None = None) -> int:
    """Start or resume a triage, or show what it would do; return the exit status."""
    check_address(options.address)
    steps_in_order()  # refuses two that contradict each other, before anything is started
    if options.show:
        if options.resume is not None:
            raise UsageError("--show cannot be given with --resume; use lvm status.")
        show(options)
        return ExitStatus.OK
    with JsonLines(sys.stdout if options.json else None) as lines:
        if options.resume is None:
            return _start(options, head, lines)
        return _resume(options, options.resume, head, lines)


def _start(options: TriageOptions, head: LocalHead | None, lines: JsonLines) -> int:
    config = asked.configuration(options)
    chosen_steps(options, config)  # refuses what is wrong before there is a folder
    check_growth(config.schedule, options.address)
    command = asked.command(options)
    with new_run(options.out, RUNS) as lock:
        return Job(options, command, config, lock, Journal(lock.folder), lines, head).run()


def _resume(options: TriageOptions, folder: Path, head: LocalHead | None, lines: JsonLines) -> int:
    command = asked.command(options)
    with run_to_resume(folder) as lock:
        journal = Journal(lock.folder)
        options = asked.resumed(options, journal)
        config = asked.configuration(options, journal)
        check_growth(config.schedule, options.address)
        lines.skip(journal)
        return Job(options, command, config, lock, journal, lines, head).run()
