"""The entry points of a job: from its options, or from the words of a command line.

What a job needs takes seconds to import. Functions import it, so that a Ctrl-C or an error is
handled, and after a Ray head has begun to start in parallel.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lvm.core.command import Parser
from lvm.core.printed import triage_command
from lvm.jobs.flags import add_train_flags, add_triage_flags, options_of
from lvm.jobs.options import AuditOptions, DoctorOptions, EvalOptions, TrainOptions, TriageOptions

if TYPE_CHECKING:
    from lvm.jobs.results import TriageResult


def triage(options: TriageOptions) -> int:
    """Run, resume or show a triage; return the exit status."""
    from lvm.triage.local_head import local_head

    with local_head(wanted=options.address is None and not options.show) as head:
        from lvm.jobs.run import run

        return run(options, head)


def triaged(options: TriageOptions, *, progress: bool) -> TriageResult:
    """Run or resume a triage for a program, and return its result."""
    from lvm.triage.local_head import local_head

    with local_head(wanted=options.address is None) as head:  # it starts during the imports
        from lvm.jobs.audience import of_call
        from lvm.jobs.run import triaged

        return triaged(options, of_call(progress=progress), head)


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


def embed(args: argparse.Namespace) -> int:
    """Turn texts into a bank; return the exit status."""
    from lvm.data.embed import embed_files

    bank = embed_files(args.files, args.model, args.out, skip=args.skip)
    print(f"{args.out}: {len(bank):,} vectors of width {bank.width}")
    print(f"next: {triage_command({'data': args.out})}")
    return 0


# --- as programs ----------------------------------------------------------------------------------


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
    return triage(options_of(TriageOptions, triage_parser().parse_args(argv)))


def train_program(argv: Sequence[str]) -> int:
    """Run `tune_jobs/train.py` with these words; return the exit status."""
    return train(options_of(TrainOptions, train_parser().parse_args(argv)))
