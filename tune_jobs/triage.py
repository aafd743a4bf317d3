"""The main job: from a failed gate to a verdict. `python tune_jobs/triage.py --help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # started as a file: make the checkout importable
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lvm.command import run_program
from lvm.triage.local_head import local_head
from tune_jobs.flags import parser as parser


def main(argv: Sequence[str]) -> int:
    """Run the triage and return its exit status."""
    args = parser().parse_args(argv)
    with local_head(wanted=args.address is None and not args.show) as head:
        from tune_jobs.job import run  # seconds of imports: here a Ctrl-C or an error is answered

        return run(args, head)


if __name__ == "__main__":
    run_program(main)
