"""`lvm doctor`: this machine, a cluster file, a live cluster, the runs in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lvm.core.errors import ExitStatus
from lvm.doctor.yaml_file import Defect, Severity
from lvm.jobs.options import DoctorOptions

if TYPE_CHECKING:  # its module imports torch, which linting a file does not need
    from lvm.doctor.machine import Finding

PRESET = "cluster"  # the preset that a cluster file is for


def run(options: DoctorOptions) -> int:
    """Report what is found and return the exit status: 2 when something has to be fixed."""
    if options.cluster is not None:
        return _cluster_file(options.cluster)
    here = options.address is None and options.runs is None
    return _findings(_examined(options), "MISSING" if here else "FIX    ")


def _cluster_file(path: Path) -> int:
    from lvm.doctor.cluster_file import lint
    from lvm.jobs.presets import preset

    defects = lint(path, preset(PRESET).schedule)
    for defect in defects:
        print(f"{path}:{defect.line}: {defect.severity} {defect.code}: {defect.what}")
        print(f"    fix: {defect.fix}")
    print(f"{path}: {_count(defects)}")
    return _status(not any(d.severity is Severity.ERROR for d in defects))


def _count(defects: Sequence[Defect]) -> str:
    errors = sum(d.severity is Severity.ERROR for d in defects)
    warnings = len(defects) - errors
    if not defects:
        return "nothing to fix"
    return f"{errors} to fix, {warnings} to know"


def _examined(options: DoctorOptions) -> Sequence[Finding]:
    if options.address is not None:
        from lvm.doctor.live import look

        return look(options.address)
    if options.runs is not None:
        from lvm.doctor.runs import orphans
        from lvm.views.tracking.left_open import open_runs

        return orphans(options.runs, open_runs)
    from lvm.doctor.machine import examine

    return examine()


def _findings(findings: Sequence[Finding], bad: str) -> int:
    for finding in findings:
        print(f"{'ok     ' if finding.ok else bad} {finding.what}: {finding.seen}")
        if not finding.ok:
            print(f"        {finding.next}")
    return _status(all(f.ok or f.optional for f in findings))


def _status(well: bool) -> int:
    return ExitStatus.OK if well else ExitStatus.USAGE
