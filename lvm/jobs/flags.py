"""The flags of the jobs. Needs nothing heavy, so that bad usage is reported at once."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from lvm.core.command import statuses
from lvm.core.config.read import recipe_file
from lvm.core.errors import ExitStatus
from lvm.jobs.options import Options
from lvm.jobs.presets import DEFAULT_PRESET, PRESETS

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


def add_data_flags(p: argparse.ArgumentParser) -> None:
    """Add the flags that name the data."""
    p.add_argument("--data", type=Path, metavar="BANK", help="a bank (default: the bundled sample)")
    p.add_argument("--train", type=Path, metavar="NPZ", help="train windows, in the Phase 1 format")
    p.add_argument("--eval", type=Path, metavar="NPZ", help="evaluation windows, same format")
    p.add_argument("--payload", type=Path, metavar="P", help="the vectors to be retrieved")


def add_model_flags(p: argparse.ArgumentParser) -> None:
    """Add the flags that name a model and what is known of it."""
    p.add_argument("--checkpoint", type=Path, metavar="C", help="a trained model: folder or .pt")
    p.add_argument("--predictions", type=Path, metavar="NPY", help="one row per eval window")
    p.add_argument("--seen", type=Path, metavar="FILE", help="articles that this model has read")


def add_recipe_flag(p: argparse.ArgumentParser) -> None:
    """Add the flag that names a recipe: a file, or one that comes with the package."""
    p.add_argument(
        "--recipe",
        type=recipe_file,
        metavar="FILE",
        help="changes to the preset: a file (TOML, JSON), or the name of one in lvm/recipes",
    )


def add_recipe_flags(p: argparse.ArgumentParser) -> None:
    """Add the flags of the configuration, and of the findings that are allowed."""
    add_recipe_flag(p)
    add_plugin_flag(p)
    names = ", ".join(PRESETS)
    p.add_argument("--preset", metavar="NAME", help=f"{names} (default: {DEFAULT_PRESET})")
    p.add_argument(
        "--allow", action="append", metavar="CODE", help="continue even if check CODE blocks"
    )


def add_triage_flags(p: argparse.ArgumentParser) -> None:
    """Add the flags of the triage, and the text of its help."""
    p.description = "Find out why a latent vector model fails its gate, and what fixes it."
    p.epilog = statuses(status for status in ExitStatus if status is not ExitStatus.TOO_LITTLE)
    add_data_flags(p)
    add_model_flags(p)
    add_recipe_flags(p)
    p.add_argument("--out", type=Path, metavar="DIR", help="new run folder (default: runs/N)")
    p.add_argument("--resume", type=Path, metavar="DIR", help="continue an interrupted run")
    p.add_argument("--address", metavar="ADDR", help="a Ray cluster (default: start one here)")
    p.add_argument("--steps", type=_names, metavar="A,B", help="ask these steps alone")
    p.add_argument("--order", type=_names, metavar="A,B", help="ask these first, in this order")
    p.add_argument("--independent", action="store_true", help="carry nothing from step to step")
    p.add_argument(
        "--five-steps", action="store_true", help="the report's five steps alone, in its order"
    )
    p.add_argument("--all-steps", action="store_true", help="measure every step, even once fixed")
    p.add_argument("--extended", action="store_true", help="also run the open-question steps")
    p.add_argument(
        "--seeds", type=_seeds, metavar="N", help="train the verdict's models with N seeds"
    )
    output = p.add_mutually_exclusive_group()
    output.add_argument("--show", action="store_true", help="print the tree and run nothing")
    output.add_argument("--json", action="store_true", help="print progress as JSON lines")


def add_train_flags(p: argparse.ArgumentParser, *, workers: int | None = None) -> None:
    """Add the flags of a training, and the text of its help.

    `workers` is the number of Ray Train's workers where none is given; None trains without Ray.
    """
    p.description = "Train one recipe in full; the same --out continues a training."
    p.epilog = statuses(
        TRAIN_ENDS,
        {ExitStatus.OK: "trained", ExitStatus.USAGE: "bad input, or a training that diverged"},
    )
    p.add_argument("--data", type=Path, metavar="BANK", help="default: the bundled sample")
    add_recipe_flag(p)
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


def add_eval_flags(p: argparse.ArgumentParser) -> None:
    """Add the flags of an evaluation of a checkpoint."""
    p.add_argument("--data", type=Path, metavar="BANK", help="default: the bundled sample")
    for name in ("train", "eval", "payload"):
        p.add_argument(f"--{name}", type=Path, metavar="FILE", help="the report's format")
    p.add_argument(
        "--other-data", action="store_true", help="evaluate on data it was not trained on"
    )
    add_plugin_flag(p)
    p.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")


def add_audit_flags(p: argparse.ArgumentParser) -> None:
    """Add the flags of an audit."""
    add_data_flags(p)
    add_model_flags(p)
    p.add_argument("--index", type=Path, metavar="I", help="your index: .faiss, or its rows")
    p.add_argument(
        "--encoder",
        nargs="?",
        const="",
        metavar="NAME",
        help="embed a few texts again (default NAME: the manifest's)",
    )
    p.add_argument("--texts", type=Path, metavar="FILE", help="the articles, for --encoder")
    add_recipe_flags(p)
    p.add_argument("--repair", type=Path, metavar="OUT", help="write repaired files")
    p.add_argument("--out", type=Path, metavar="DIR", help="new folder (default: audits/N)")


def add_doctor_flags(p: argparse.ArgumentParser) -> None:
    """Add the flags of the doctor; without one it looks at this machine."""
    looked_at = p.add_mutually_exclusive_group()
    looked_at.add_argument(
        "--cluster", type=Path, metavar="FILE", help="lint a cluster file, offline"
    )
    looked_at.add_argument("--address", metavar="ADDR", help="look at a running Ray cluster")
    looked_at.add_argument(
        "--runs", type=Path, metavar="DIR", help="find runs that no process drives"
    )


def options_of(kind: type[Options], parsed: argparse.Namespace) -> Options:
    """Return the options of a job from its parsed flags."""
    values = {field.name: getattr(parsed, field.name) for field in fields(kind)}
    values |= {name: tuple(values[name] or ()) for name in LISTS if name in values}
    return kind(**values)


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
            f"must be a whole number of at least 1 (got {text!r}); 3 show the effect of a seed"
        )
    return int(text)
