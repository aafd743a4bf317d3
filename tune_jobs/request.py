"""What the triage is asked: its configuration, its files, and what a resumed run may change."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lvm.audit.material import Material
from lvm.audit.open import open_material
from lvm.audit.session import complete
from lvm.config import RunConfig, from_dict
from lvm.data.load import DataRequest
from lvm.errors import ResumeError, UsageError
from lvm.printed import PATHS, arguments_of, triage_command, typed
from lvm.triage.journal import Journal
from tune_jobs.flags import DEFAULT_PRESET
from tune_jobs.presets import load_config

DATA = ("data", "train", "eval", "payload")
NOT_ASKED = ("out", "resume", "address", "show", "json")  # of how it is run, not of what is asked


def data_request(args: Any) -> DataRequest:
    """Return the data that the flags name."""
    return DataRequest(bank=args.data, train=args.train, evaluation=args.eval, payload=args.payload)


def configuration(args: Any, journal: Journal | None = None) -> RunConfig:
    """Return the preset, changed by the recipe.

    A run that was fetched from another machine may have left its recipe there: its journal holds
    what came of it.
    """
    if journal is not None and args.recipe is not None and not args.recipe.exists():
        return from_dict(RunConfig, journal.events[0]["config"])
    return load_config(args.preset or DEFAULT_PRESET, args.recipe)


def opened(args: Any, config: RunConfig) -> tuple[RunConfig, Material]:
    """Return the configuration and the material of the audit; nothing large is read.

    A checkpoint brings its own recipe.
    """
    request = data_request(args)
    material = open_material(request, config)
    material = complete(
        material, checkpoint=args.checkpoint, predictions=args.predictions, seen=args.seen
    )
    own = material.checkpoint.recipe if material.checkpoint is not None else None
    if own is None:
        return config, material
    config = dataclasses.replace(config, recipe=own)
    again = open_material(request, config)
    return config, dataclasses.replace(
        again, checkpoint=material.checkpoint, training=material.training, seen=material.seen
    )


# --- what is kept and printed ---------------------------------------------------------------------


def arguments(args: Any) -> dict[str, Any]:
    """Return what a resumed run takes from the journal."""
    paths = {k: str(v.resolve()) if (v := getattr(args, k)) is not None else None for k in PATHS}
    return {
        **paths,
        "preset": args.preset or DEFAULT_PRESET,
        "independent": args.independent,
        "five_steps": args.five_steps,
        "all_steps": args.all_steps,
        "extended": args.extended,
        "seeds": args.seeds,
        "allow": sorted(args.allow or []),
    }


def command(args: Any) -> str:
    """Return the command line, so that it works in every folder."""
    return triage_command({k: v for k, v in vars(args).items() if k != "show"}, kept=True)


def again(args: Any, *, kept: bool = False, **changes: Any) -> str:
    """Return the command of a new run that is asked the same, with some flags changed."""
    asked = {k: v for k, v in vars(args).items() if k not in NOT_ASKED}
    return triage_command({**asked, "address": args.address, **changes}, kept=kept)


def audit_flags(args: Any) -> str:
    """Return the flags of an audit of the same files by the same gates, as they are typed."""
    return typed({name: getattr(args, name) for name in (*DATA, "recipe", "preset")})


# --- going on -------------------------------------------------------------------------------------


def resumed(args: Any, journal: Journal) -> Any:
    """Return the arguments that the run in a journal was started with.

    A path may be given again: a run that was moved or fetched finds its files elsewhere, and their
    content decides. Raises UsageError for any other flag, ResumeError for a file that is not there.
    """
    if not journal.events:
        raise ResumeError(f"{journal.folder} holds an empty journal; start a new run.")
    known = arguments_of(journal.events)
    for key in ("out", *known):
        moved = key in PATHS and known[key] is not None
        if getattr(args, key) not in (None, False) and not moved:
            raise UsageError(
                f"--{key.replace('_', '-')} cannot be given with --resume, which takes it from the "
                "journal; leave it out or start a new run."
            )
    for key, value in known.items():
        setattr(args, key, _located(args, journal, key, value) if key in PATHS else value)
    return args


def _located(args: Any, journal: Journal, key: str, told: str | None) -> Path | None:
    """Return where a file of the run lies now."""
    if told is None:
        return None
    path: Path = getattr(args, key) or Path(told)
    if not path.exists() and key != "recipe":  # the journal holds what came of the recipe
        raise ResumeError(
            f"{journal.folder} was started with --{key} {path}, which does not exist here; give "
            f"--{key} again with where it lies now."
        )
    return path


def refuse_changes(journal: Journal, identity: Mapping[str, str], code: str, args: Any) -> None:
    """Raise ResumeError when configuration, data, model or code are not those of the run."""
    first = journal.events[0]
    names = {
        "request": "the configuration",
        "data": "the data",
        "checkpoint": f"the checkpoint {args.checkpoint}",
        "predictions": f"the predictions {args.predictions}",
        "seen": f"the articles in {args.seen}",
    }
    changed = [names[k] for k, v in identity.items() if first["identity"].get(k, "") != v]
    if first["code"] != code:
        changed.append(f"the code ({first['code']}, now {code})")
    if changed:
        raise ResumeError(
            f"{journal.folder} cannot go on: {' and '.join(changed)} changed since it started; "
            "restore it, or start a new run in another --out."
        )
