"""The ways into a job: from its options, or from the words of a command line.

What a job needs takes seconds to import. It is imported here in functions, where a Ctrl-C or an
error is answered, and after a Ray head has begun to start beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

from lvm.command import Parser
from lvm.jobs.flags import add_train_flags, add_triage_flags, train_options, triage_options
from lvm.jobs.options import AuditOptions, DoctorOptions, EvalOptions, TrainOptions, TriageOptions


def triage(options: TriageOptions) -> int:
    """Run, resume or show a triage; return the exit status."""
    from lvm.triage.local_head import local_head

    with local_head(wanted=options.address is None and not options.show) as head:
        from lvm.jobs.run import run

        return run(options, head)


def train(options: TrainOptions) -> int:
    """Train, judge on the test split, print the result; return the exit status."""
    from lvm.jobs.training import run

    return run(options)


def judge(options: EvalOptions) -> int:
    """Judge a checkpoint on the test split, print the result; return the exit status."""
    from lvm.jobs import judging

    return judging.judge(options)


def audit(options: AuditOptions) -> int:
    """Audit what is named, print and write what was found; return the exit status."""
    from lvm.jobs import audit as job

    return job.run(options)


def doctor(options: DoctorOptions) -> int:
    """Report what has to be fixed before a run; return the exit status."""
    from lvm.jobs import doctor as job

    return job.run(options)


# --- as a program of its own ----------------------------------------------------------------------


def triage_parser() -> Parser:
    """Return the parser of `tune_jobs/triage.py`."""
    parser = Parser(prog="python tune_jobs/triage.py")
    add_triage_flags(parser)
    return parser


def train_parser() -> Parser:
    """Return the parser of `tune_jobs/train.py`, which always trains on Ray."""
    parser = Parser(prog="python tune_jobs/train.py")
    add_train_flags(parser, workers=1)
    return parser


def triage_program(argv: Sequence[str]) -> int:
    """Run `tune_jobs/triage.py` with these words; return the exit status."""
    return triage(triage_options(triage_parser().parse_args(argv)))


def train_program(argv: Sequence[str]) -> int:
    """Run `tune_jobs/train.py` with these words; return the exit status."""
    return train(train_options(train_parser().parse_args(argv)))
