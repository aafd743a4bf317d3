"""The flags of the jobs. Needs nothing heavy, so that bad usage is answered at once."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from lvm.command import statuses
from lvm.errors import ExitStatus
from lvm.jobs.options import EvalOptions, TrainOptions, TriageOptions
from lvm.presets import DEFAULT_PRESET, PRESETS

TRAIN_ENDS = (
    ExitStatus.OK,
    ExitStatus.USAGE,
    ExitStatus.PROGRAM,
    ExitStatus.LOST,
    ExitStatus.INTERRUPTED,
)

LISTS = ("plugin", "allow", "steps", "order")


def add_plugin_flag(p: argparse.ArgumentParser) -> None:
    """Add the flag that names code from outside."""
    p.add_argument(
        "--plugin", action="append", metavar="FILE.py", help="import your parts (or a MODULE)"
    )


def add_triage_flags(p: argparse.ArgumentParser) -> None:
    """Add the flags of the triage, and what its help says around them."""
    p.description = "Find out why a latent vector model fails its gate, and what fixes it."
    p.epilog = statuses(status for status in ExitStatus if status is not ExitStatus.TOO_LITTLE)
    p.add_argument("--data", type=Path, metavar="BANK", help="a bank (default: the bundled sample)")
    p.add_argument("--train", type=Path, metavar="NPZ", help="train windows in the report's format")
    p.add_argument(
        "--eval", type=Path, metavar="NPZ", help="evaluation windows, in the same format"
    )
    p.add_argument("--payload", type=Path, metavar="P", help="the vectors to be retrieved")
    p.add_argument("--checkpoint", type=Path, metavar="C", help="triage this trained model")
    p.add_argument("--predictions", type=Path, metavar="NPY", help="judge these predictions")
    p.add_argument("--seen", type=Path, metavar="FILE", help="articles that this model has read")
    p.add_argument("--recipe", type=Path, metavar="FILE", help="changes to the preset (TOML, JSON)")
    add_plugin_flag(p)
    names = ", ".join(PRESETS)
    p.add_argument("--preset", metavar="NAME", help=f"{names} (default: {DEFAULT_PRESET})")
    p.add_argument(
        "--allow", action="append", metavar="CODE", help="continue even if check CODE blocks"
    )
    p.add_argument("--out", type=Path, metavar="DIR", help="new run folder (default: runs/N)")
    p.add_argument("--resume", type=Path, metavar="DIR", help="go on with an interrupted run")
    p.add_argument("--address", metavar="ADDR", help="a Ray cluster (default: start one here)")
    p.add_argument("--steps", type=_names, metavar="A,B", help="ask these steps alone")
    p.add_argument("--order", type=_names, metavar="A,B", help="ask these first, in this order")
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


def triage_options(parsed: argparse.Namespace) -> TriageOptions:
    """Return what a triage is asked, from its parsed flags."""
    return TriageOptions(**_values(TriageOptions, parsed))


def add_train_flags(p: argparse.ArgumentParser, *, workers: int | None = None) -> None:
    """Add the flags of a training, and what its help says around them.

    `workers` is the number of Ray Train's workers where none is given; None trains without Ray.
    """
    p.description = "Train one recipe in full; with the same --out a training goes on."
    p.epilog = statuses(
        TRAIN_ENDS,
        {ExitStatus.OK: "trained", ExitStatus.USAGE: "bad input, or a training that diverged"},
    )
    p.add_argument("--data", type=Path, metavar="BANK", help="default: the bundled sample")
    p.add_argument("--recipe", type=Path, metavar="FILE", help="changes to the preset")
    add_plugin_flag(p)
    p.add_argument("--preset", default=DEFAULT_PRESET, metavar="NAME", help=", ".join(PRESETS))
    otherwise = "train in this process" if workers is None else str(workers)
    p.add_argument(
        "--workers",
        type=int,
        default=workers,
        metavar="N",
        help=f"Ray Train workers (DDP; default: {otherwise})",
    )
    p.add_argument("--out", type=Path, required=True, metavar="DIR")
    p.add_argument("--address", metavar="ADDR", help="a Ray cluster (default: start one here)")


def train_options(parsed: argparse.Namespace) -> TrainOptions:
    """Return what a training is asked, from its parsed flags."""
    return TrainOptions(**_values(TrainOptions, parsed))


def add_eval_flags(p: argparse.ArgumentParser) -> None:
    """Add the flags of the judgement of a checkpoint."""
    p.add_argument("--data", type=Path, metavar="BANK", help="default: the bundled sample")
    for name in ("train", "eval", "payload"):
        p.add_argument(f"--{name}", type=Path, metavar="FILE", help="the report's format")
    p.add_argument(
        "--other-data", action="store_true", help="judge on data that it was not trained with"
    )
    add_plugin_flag(p)
    p.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")


def eval_options(parsed: argparse.Namespace) -> EvalOptions:
    """Return what is to be judged, and on what."""
    return EvalOptions(**_values(EvalOptions, parsed))


def _values(kind: type[Any], parsed: argparse.Namespace) -> dict[str, Any]:
    found = {field.name: getattr(parsed, field.name) for field in fields(kind)}
    return {k: tuple(v or ()) if k in LISTS else v for k, v in found.items()}


def _names(text: str) -> tuple[str, ...]:
    """Return names between commas, or raise what argparse turns into one sentence."""
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"it is {text!r}, expected names with commas between them")
    return names


def _seeds(text: str) -> int:
    """Return a number of seeds, or raise what argparse turns into one sentence."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f"it is {text!r}, expected a whole number from 1; 3 tell how much a seed changes"
        )
    return int(text)
