"""One full training under Ray Train; `lvm train --workers N` is the same.

The same loop as everywhere else; the candidates of the contrastive loss are those of the global
batch, so N workers see as many negatives as one process with the same batch size.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):  # started as a file: make the checkout importable
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lvm.core.command import run_program
from lvm.jobs.doors import train_parser as parser
from lvm.jobs.doors import train_program as main

__all__ = ["main", "parser"]

if __name__ == "__main__":
    run_program(main)
