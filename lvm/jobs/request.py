"""The options of a triage: configuration, files, and what a resumed run may change."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from msgspec.structs import asdict

from lvm.audit.document import AuditDocument
from lvm.audit.material import Material
from lvm.audit.open import open_material
from lvm.audit.session import complete
from lvm.core.config.run import RunConfig
from lvm.core.errors import ResumeError, UsageError
from lvm.core.plugins import digests, is_file, load_given
from lvm.core.printed import NAMES, PATHS, PLUGIN, triage_command, typed
from lvm.core.provenance import code_version, git_commit
from lvm.jobs.options import TriageOptions
from lvm.jobs.presets import DEFAULT_PRESET, load_config
from lvm.jobs.steps import chosen_steps
from lvm.triage.events import RunStarted
from lvm.triage.events.parts import Arguments
from lvm.triage.journal import Journal
from lvm.triage.preflight import own_checkpoint
from lvm.triage.request import Request

DATA = ("data", "train", "eval", "payload")
NOT_ASKED = ("out", "resume", "address", "show", "json")  # they change how it runs, not its results


def configuration(options: TriageOptions, journal: Journal | None = None) -> RunConfig:
    """Return the preset, changed by the recipe; the plug-ins are imported before.

    A run that was fetched from another machine may lack its recipe; its journal holds the resolved
    one.
    """
    load_given(options.plugin)
    recipe = options.recipe
    if journal is not None and recipe is not None and not recipe.exists():
        return begun(journal).config
    return load_config(options.preset or DEFAULT_PRESET, recipe)


def opened(options: TriageOptions, config: RunConfig) -> tuple[RunConfig, Material]:
    """Return the configuration and the material of the audit; nothing large is read.

    A checkpoint brings its own recipe.
    """
    request = options.request
    material = open_material(request, config)
    material = complete(
        material,
        checkpoint=options.checkpoint,
        predictions=options.predictions,
        seen=options.seen,
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


def arguments(options: TriageOptions) -> Arguments:
    """Return what a resumed run takes from the journal."""
    given: dict[str, Path | None] = {name: getattr(options, name) for name in PATHS}
    return Arguments(
        **{name: str(path.resolve()) if path else None for name, path in given.items()},
        plugin=[str(Path(p).resolve()) if is_file(p) else p for p in options.plugin],
        preset=options.preset or DEFAULT_PRESET,
        steps=list(options.steps),
        order=list(options.order),
        independent=options.independent,
        five_steps=options.five_steps,
        all_steps=options.all_steps,
        extended=options.extended,
        seeds=options.seeds,
        allow=sorted(options.allow),
    )


def command(options: TriageOptions) -> str:
    """Return the command line, so that it works in every folder."""
    return triage_command({k: v for k, v in vars(options).items() if k != "show"}, kept=True)


def again(
    options: TriageOptions, *, kept: bool = False, **changes: Path | tuple[str, ...] | None
) -> str:
    """Return the command of a new run like this one, with some flags changed."""
    asked = {k: v for k, v in vars(options).items() if k not in NOT_ASKED}
    return triage_command({**asked, "address": options.address, **changes}, kept=kept)


def audit_flags(options: TriageOptions) -> str:
    """Return the flags of an audit of the same files by the same gates, as they are typed."""
    return typed({name: getattr(options, name) for name in (*DATA, "recipe", PLUGIN, "preset")})


# --- going on -------------------------------------------------------------------------------------


def resumed(options: TriageOptions, journal: Journal) -> TriageOptions:
    """Return the options that the run in a journal was started with.

    A path may be given again: the files of a run that was moved or fetched are elsewhere, and only
    their content matters. Raises UsageError for any other flag, ResumeError for a missing file.
    """
    begun(journal)
    told = asdict(journal.events.arguments)
    known = {f.name: told[f.name] for f in fields(options) if f.name in told}
    for key in ("out", *known):
        moved = key in (*PATHS, PLUGIN) and bool(known[key])
        if getattr(options, key) not in (None, False, ()) and not moved:
            raise UsageError(
                f"--{key.replace('_', '-')} cannot be combined with --resume, which takes it "
                "from the journal; leave it out or start a new run."
            )
    paths = {key: _located(options, journal, key, known[key]) for key in known if key in PATHS}
    lists = {name: tuple(known[name] or ()) for name in ("allow", *NAMES)}
    lists[PLUGIN] = _plugins(options, journal)
    return dataclasses.replace(options, **{**known, **paths, **lists})


def begun(journal: Journal) -> RunStarted:
    """Return the event with which the run in a journal began; ResumeError where there is none."""
    if journal.events.started is None:
        raise ResumeError(f"{journal.folder} holds an empty journal; start a new run.")
    return journal.events.started


def _plugins(options: TriageOptions, journal: Journal) -> tuple[str, ...]:
    """Return the plug-ins of the run with their current paths: a file is known by its name."""
    now = {Path(given).name: given for given in options.plugin}
    told = journal.events.arguments.plugin
    for given in told:
        if is_file(given) and not Path(now.get(Path(given).name, given)).exists():
            raise ResumeError(
                f"{journal.folder} was started with --plugin {given}, which does not exist "
                "here; give --plugin again with its current path."
            )
    return tuple(now.pop(Path(given).name, given) for given in told) + tuple(now.values())


def _located(options: TriageOptions, journal: Journal, key: str, told: str | None) -> Path | None:
    """Return the current path of a file of the run."""
    if told is None:
        return None
    path: Path = getattr(options, key) or Path(told)
    if not path.exists() and key != "recipe":  # the journal holds the resolved recipe
        raise ResumeError(
            f"{journal.folder} was started with --{key} {path}, which does not exist here; give "
            f"--{key} again with its current path."
        )
    return path


def refuse_changes(
    journal: Journal, identity: Mapping[str, str], code: str, options: TriageOptions
) -> None:
    """Raise ResumeError when configuration, data, model or code are not those of the run."""
    first = begun(journal)
    names = {
        "request": "the configuration",
        "data": "the data",
        "checkpoint": f"the checkpoint {options.checkpoint}",
        "predictions": f"the predictions {options.predictions}",
        "seen": f"the articles in {options.seen}",
    }
    before = first.identity
    changed = [
        names.get(key, f"the {key}")
        for key in dict.fromkeys([*identity, *before])
        if before.get(key, "") != identity.get(key, "")
    ]
    if first.code != code:
        changed.append(f"the code ({first.code}, now {code})")
    if changed:
        raise ResumeError(
            f"{journal.folder} cannot continue: {' and '.join(changed)} changed since it "
            "started; restore it, or start a new run in another --out."
        )


def of_walk(
    options: TriageOptions, config: RunConfig, material: Material, audit: AuditDocument, out: Path
) -> Request:
    """Return the request that the tree is walked with."""
    chosen = chosen_steps(options, config, audit.route.order)
    return Request(
        config=config,
        out=out,
        steps=chosen.steps,
        code=code_version(),
        plugins=digests(),
        commit=git_commit(),
        checkpoint=own_checkpoint(material, out),
        given=options.checkpoint,
        predictions=options.predictions,
        seen=material.seen,
        independent=options.independent,
        reported_only=options.five_steps,
        all_steps=options.all_steps,
        order=options.order,
        extended=chosen.extended,
        num_seeds=options.seeds or 1,
        from_bank=material.train is None or material.train.file is None,
    )
