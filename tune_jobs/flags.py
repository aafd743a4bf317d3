"""The flags of the triage. Needs nothing heavy, so that bad usage is answered at once."""

from __future__ import annotations

import argparse
from pathlib import Path

from lvm.command import Parser, statuses
from lvm.errors import ExitStatus
from tune_jobs.presets import PRESETS

DEFAULT_PRESET = "laptop"


def parser() -> Parser:
    """Return the flags of the triage."""
    p = Parser(
        prog="python tune_jobs/triage.py",
        description="Find out why a latent vector model fails its gate, and what fixes it.",
        epilog=statuses(status for status in ExitStatus if status is not ExitStatus.TOO_LITTLE),
    )
    p.add_argument("--data", type=Path, metavar="BANK", help="a bank (default: the bundled sample)")
    p.add_argument("--train", type=Path, metavar="NPZ", help="train windows in the report's format")
    p.add_argument("--eval", type=Path, metavar="NPZ", help="evaluation windows, likewise")
    p.add_argument("--payload", type=Path, metavar="P", help="the vectors to be retrieved")
    p.add_argument("--checkpoint", type=Path, metavar="C", help="triage this trained model")
    p.add_argument("--predictions", type=Path, metavar="NPY", help="judge these predictions")
    p.add_argument("--seen", type=Path, metavar="FILE", help="articles that this model has read")
    p.add_argument("--recipe", type=Path, metavar="FILE", help="changes to the preset (TOML, JSON)")
    names = ", ".join(PRESETS)
    p.add_argument("--preset", metavar="NAME", help=f"{names} (default: {DEFAULT_PRESET})")
    p.add_argument(
        "--allow", action="append", metavar="CODE", help="continue even if check CODE blocks"
    )
    p.add_argument("--out", type=Path, metavar="DIR", help="new run folder (default: runs/N)")
    p.add_argument("--resume", type=Path, metavar="DIR", help="go on with an interrupted run")
    p.add_argument("--address", metavar="ADDR", help="a Ray cluster (default: start one here)")
    p.add_argument("--independent", action="store_true", help="carry nothing from step to step")
    p.add_argument(
        "--five-steps", action="store_true", help="the report's five steps alone, in its order"
    )
    p.add_argument("--all-steps", action="store_true", help="measure every step, fixed or not")
    p.add_argument("--extended", action="store_true", help="also run the open-question steps")
    p.add_argument(
        "--seeds", type=_seeds, metavar="N", help="train the verdict's models with N seeds"
    )
    output = p.add_mutually_exclusive_group()
    output.add_argument("--show", action="store_true", help="print the tree and run nothing")
    output.add_argument("--json", action="store_true", help="print progress as JSON lines")
    return p


def _seeds(text: str) -> int:
    """Return a number of seeds, or raise what argparse turns into one sentence."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f"it is {text!r}, allowed is a whole number from 1; 3 tell how much a seed changes"
        )
    return int(text)
