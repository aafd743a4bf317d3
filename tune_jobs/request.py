"""What the triage is asked: flags, configuration, run folders, what a resumed run may change."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lvm.audit.material import Material
from lvm.audit.open import open_material
from lvm.audit.session import complete
from lvm.command import Parser, free_folder, numbered
from lvm.config import RunConfig
from lvm.data.load import DataRequest
from lvm.errors import ResumeError, UsageError
from lvm.triage.journal import Journal
from lvm.triage.request import Request
from tune_jobs.presets import PRESETS, load_config

RUNS = Path("runs")
DEFAULT_PRESET = "laptop"
PATHS = ("data", "train", "eval", "payload", "checkpoint", "predictions", "recipe")


def parser() -> Parser:
    """Return the flags of the triage."""
    p = Parser(
        prog="python tune_jobs/triage.py",
        description="Find out why a latent vector model fails its gate, and what fixes it.",
        epilog="exit status: 0 PASSED or FIXED, 1 NOT_FIXED or INCONCLUSIVE, 2 bad input, "
        "3 BLOCKED by the audit, 130 interrupted",
    )
    p.add_argument("--data", type=Path, metavar="BANK", help="a bank (default: the bundled sample)")
    p.add_argument("--train", type=Path, metavar="NPZ", help="train windows in the report's format")
    p.add_argument("--eval", type=Path, metavar="NPZ", help="evaluation windows, likewise")
    p.add_argument("--payload", type=Path, metavar="P", help="the vectors to be retrieved")
    p.add_argument("--checkpoint", type=Path, metavar="C", help="triage this trained model")
    p.add_argument("--predictions", type=Path, metavar="NPY", help="judge these predictions")
    p.add_argument("--recipe", type=Path, metavar="FILE", help="changes to the preset (TOML, JSON)")
    names = ", ".join(PRESETS)
    p.add_argument("--preset", metavar="NAME", help=f"{names} (default: {DEFAULT_PRESET})")
    p.add_argument("--allow", action="append", metavar="CODE", help="go on though CODE blocks")
    p.add_argument("--out", type=Path, metavar="DIR", help="new run folder (default: runs/N)")
    p.add_argument("--resume", type=Path, metavar="DIR", help="go on with an interrupted run")
    p.add_argument("--address", metavar="ADDR", help="a Ray cluster (default: start one here)")
    p.add_argument("--independent", action="store_true", help="carry nothing from step to step")
    p.add_argument("--all-steps", action="store_true", help="measure every step, fixed or not")
    p.add_argument("--extended", action="store_true", help="ask the open questions as well")
    p.add_argument("--seeds", type=_seeds, metavar="N", help="repeat the verdict's models N times")
    told = p.add_mutually_exclusive_group()
    told.add_argument("--show", action="store_true", help="print the tree and run nothing")
    told.add_argument("--json", action="store_true", help="tell the progress as JSON lines")
    return p


def _seeds(text: str) -> int:
    """Return a number of seeds, or raise what argparse turns into one sentence."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(
            f"it is {text!r}, allowed is a whole number from 1; 3 tell how much a seed changes"
        )
    return int(text)


def data_request(args: Any) -> DataRequest:
    """Return the data that the flags name."""
    return DataRequest(bank=args.data, train=args.train, evaluation=args.eval, payload=args.payload)


def opened(args: Any) -> tuple[RunConfig, Material]:
    """Return the configuration and the material of the audit; nothing large is read.

    A checkpoint brings its own recipe.
    """
    config = load_config(args.preset or DEFAULT_PRESET, args.recipe)
    request = data_request(args)
    material = open_material(request, config)
    material = complete(material, checkpoint=args.checkpoint, predictions=args.predictions)
    own = material.checkpoint.recipe if material.checkpoint is not None else None
    if own is None:
        return config, material
    config = dataclasses.replace(config, recipe=own)
    again = open_material(request, config)
    return config, dataclasses.replace(
        again, checkpoint=material.checkpoint, training=material.training
    )


def audit_command(args: Any) -> str:
    """Return the audit of the same files, as it is typed."""
    given = [
        part
        for name in ("data", "train", "eval", "payload")
        if (value := getattr(args, name)) is not None
        for part in (f"--{name}", str(value))
    ]
    return shlex.join(["audit", *given])


# --- run folders ----------------------------------------------------------------------------------


def new_folder(out: Path | None) -> Path:
    """Return the folder of a new run, not made yet; UsageError when it cannot be used."""
    out = numbered(RUNS) if out is None else out
    if (out / "journal.jsonl").exists():
        raise UsageError(
            f"{out} holds another run, allowed is a new or empty folder; choose another --out, or "
            f"go on with --resume {out}."
        )
    return free_folder(out).resolve()


def resumed(args: Any) -> tuple[Journal, Any]:
    """Return the journal to go on with, and the arguments it was started with."""
    folder = args.resume.resolve()
    if not (folder / "journal.jsonl").exists():
        raise ResumeError(
            f"{args.resume} holds no journal.jsonl, so there is no run to go on with; give the "
            "--out of an interrupted run."
        )
    journal = Journal(folder)
    if not journal.events:
        raise ResumeError(f"{args.resume} holds an empty journal; start a new run.")
    known = journal.events[0]["arguments"]
    for key in ("out", *known):
        if getattr(args, key) not in (None, False):
            raise UsageError(
                f"--{key.replace('_', '-')} cannot be given with --resume, which takes it from the "
                "journal; leave it out or start a new run."
            )
    for key, value in known.items():
        setattr(args, key, Path(value) if value is not None and key in PATHS else value)
    return journal, args


def refuse_changes(journal: Journal, identity: dict[str, str], request: Request) -> None:
    """Raise ResumeError when configuration, data or code are not those of the interrupted run."""
    first = journal.events[0]
    names = {"request": "the configuration", "data": "the data"}
    changed = [names[k] for k, v in identity.items() if first["identity"][k] != v]
    if first["code"] != request.code:
        changed.append(f"the code ({first['code']}, now {request.code})")
    if changed:
        raise ResumeError(
            f"{journal.folder} cannot go on: {' and '.join(changed)} changed since it started; "
            "restore it, or start a new run in another --out."
        )


def arguments(args: Any) -> dict[str, Any]:
    """Return what a resumed run takes from the journal."""
    paths = {k: str(v.resolve()) if (v := getattr(args, k)) is not None else None for k in PATHS}
    return {
        **paths,
        "preset": args.preset or DEFAULT_PRESET,
        "independent": args.independent,
        "all_steps": args.all_steps,
        "extended": args.extended,
        "seeds": args.seeds,
        "allow": sorted(args.allow or []),
    }


def command(argv: Sequence[str]) -> str:
    """Return the command line as it was typed."""
    return shlex.join(["python", "tune_jobs/triage.py", *argv])
