"""One full training under Ray Train: `python tune_jobs/train.py --workers 2`.

The same loop as everywhere else; the candidates of the contrastive loss are those of the global
batch, so N workers see as many negatives as one process with the same batch size.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # started as a file: make the checkout importable
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lvm.command import Parser, run_program, statuses
from lvm.errors import ExitStatus
from tune_jobs.presets import PRESETS

ENDS = (
    ExitStatus.OK, ExitStatus.USAGE, ExitStatus.PROGRAM, ExitStatus.LOST, ExitStatus.INTERRUPTED,
)  # fmt: skip


def parser() -> Parser:
    """Return the flags of a training."""
    p = Parser(
        prog="python tune_jobs/train.py",
        description="Train one recipe in full; with the same --out a training goes on.",
        epilog=statuses(
            ENDS,
            {ExitStatus.OK: "trained", ExitStatus.USAGE: "bad input, or a training that diverged"},
        ),
    )
    p.add_argument("--data", type=Path, metavar="BANK", help="default: the bundled sample")
    p.add_argument("--recipe", type=Path, metavar="FILE", help="changes to the preset")
    p.add_argument("--preset", default="laptop", metavar="NAME", help=", ".join(PRESETS))
    p.add_argument("--workers", type=int, default=1, metavar="N", help="Ray Train workers (DDP)")
    p.add_argument("--out", type=Path, required=True, metavar="DIR")
    p.add_argument("--address", metavar="ADDR", help="a Ray cluster (default: start one here)")
    return p


def main(argv: Sequence[str]) -> int:
    """Train, judge on the test split, print the result; return the exit status."""
    args = parser().parse_args(argv)
    from tune_jobs.training import run  # seconds of imports: here a Ctrl-C or an error is answered

    return run(args)


if __name__ == "__main__":
    run_program(main)
