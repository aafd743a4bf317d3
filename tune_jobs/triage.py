"""The main job: from a failed gate to a verdict; `lvm triage` is the same."""

import sys
from pathlib import Path

if __package__ in (None, ""):  # started as a file: make the checkout importable
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lvm.core.command import run_program
from lvm.jobs.doors import triage_parser as parser
from lvm.jobs.doors import triage_program as main

__all__ = ["main", "parser"]

if __name__ == "__main__":
    run_program(main)
