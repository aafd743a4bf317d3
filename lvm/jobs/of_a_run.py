"""`lvm report`, `status`, `track` and `ui`: what is made from the journal of a run."""

from __future__ import annotations

import argparse
import json

from lvm.core.command import lvm_command, shown
from lvm.core.errors import UsageError
from lvm.core.printed import resume_command


def report(args: argparse.Namespace) -> int:
    """Write the report again."""
    from lvm.triage.journal import read_run
    from lvm.triage.verdict import build_verdict
    from lvm.views.report.markdown import write_report

    events = read_run(args.run)
    document = build_verdict(events, resume=resume_command(args.run, events.address, kept=True))
    path = write_report(events, document, args.run)
    print(document.headline)
    print(f"report: {shown(path)}")
    return 0


def status(args: argparse.Namespace) -> int:
    """Print how far it is."""
    import time

    from lvm.triage.journal import read_run
    from lvm.triage.lock import driver_of
    from lvm.views.status import as_json, status
    from lvm.views.status.screen import screen

    seen = status(read_run(args.run), args.run, time.time(), driver_of(args.run))
    print(json.dumps(as_json(seen), indent=1) if args.json else "\n".join(screen(seen)))
    return 0


def track(args: argparse.Namespace) -> int:
    """Write its MLflow runs again."""
    from lvm.triage.journal import read_run
    from lvm.triage.verdict import build_verdict
    from lvm.views.tracking import Tracker

    events = read_run(args.run)
    document = build_verdict(events, resume=resume_command(args.run, events.address, kept=True))
    tracker = Tracker(args.run)
    tracker.close(events, document if document.verdict else None)
    if tracker.problem:
        raise UsageError(f"Some results were not uploaded to MLflow: {tracker.problem}")
    print(f"next: {lvm_command()} ui {shown(args.run)}")
    return 0


def ui(args: argparse.Namespace) -> int:
    """Serve the MLflow UI until a Ctrl-C."""
    import subprocess

    from lvm.views.tracking import Tracker

    command = Tracker(args.run).ui_command()
    print(command)
    server = subprocess.Popen(f"exec {command}", shell=True)  # our own line, already quoted
    try:
        return server.wait()
    except KeyboardInterrupt:  # also SIGTERM, which a terminal does not send to the server as well
        server.terminate()
        server.wait()
        raise
