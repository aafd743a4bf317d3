"""Commands that are printed or kept for a person to type: each works unchanged.

What is printed is typed from the folder it was printed in, so its paths are short; what is kept in
a file (`kept=True`) may be read anywhere, so its paths are whole.
"""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from lvm.core.command import lvm_command, python_command, shown
from lvm.core.packages import JOBS
from lvm.core.plugins import is_file

Flag = str | int | Path | list[str] | tuple[str, ...] | None  # what a flag may be given
INSTALLED = ("site-packages", "dist-packages")
PATHS = ("data", "train", "eval", "payload", "checkpoint", "predictions", "seen", "recipe")
PLUGIN = "plugin"  # each a path or the name of a module
NAMES = ("steps", "order")  # given once, with commas between them
REPORT_FILES = ("train", "eval", "payload")


def job_command(name: str, *, kept: bool = False) -> str:
    """Return the command of a job, `triage` or `train`, without its flags.

    In a checkout that is its script, which needs no installation; else the job is one of `lvm`.
    """
    spec = importlib.util.find_spec(JOBS)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not places or Path(places[0]).parent.name in INSTALLED:
        return f"{lvm_command(kept=kept)} {name}"
    script = Path(places[0]) / f"{name}.py"
    return f"{python_command(kept=kept)} {shown(script, kept=kept)}"


def typed(arguments: Mapping[str, Flag], *, kept: bool = False) -> str:
    """Return flags as typed, from their values by name; flags without a value are left out.

    `arguments` are those of a parser or a journal: a path may be a text there.
    """
    words: list[str] = []
    for name, value in arguments.items():
        flag = f"--{name.replace('_', '-')}"
        if value is None or value is False or value in ([], ()):
            continue
        if value is True:
            words.append(flag)
        elif isinstance(value, list | tuple) and name == PLUGIN:
            words += [f"{flag} {_plugin(item, kept)}" for item in value]
        elif isinstance(value, list | tuple) and name in NAMES:
            words.append(f"{flag} {shlex.quote(','.join(value))}")
        elif isinstance(value, list | tuple):
            words += [f"{flag} {shlex.quote(item)}" for item in value]
        elif isinstance(value, Path) or (isinstance(value, str) and name in PATHS):
            words.append(f"{flag} {shown(Path(value), kept=kept)}")
        else:
            words.append(f"{flag} {shlex.quote(str(value))}")
    return " ".join(words)


def _plugin(given: str, kept: bool) -> str:
    return shown(Path(given), kept=kept) if is_file(given) else shlex.quote(given)


def triage_command(arguments: Mapping[str, Flag], *, kept: bool = False) -> str:
    """Return a triage with these flags."""
    return f"{job_command('triage', kept=kept)} {typed(arguments, kept=kept)}".rstrip()


def resume_command(folder: Path, address: str | None, *, kept: bool = False) -> str:
    """Return the command that resumes the run in `folder` on the same cluster."""
    return triage_command({"resume": folder, "address": address}, kept=kept)


def eval_command(
    checkpoint: Path, arguments: Mapping[str, Flag], modules: Sequence[str] = ()
) -> str:
    """Return the command that judges a checkpoint on the data of its run.

    `modules` are the plug-ins of its recipe, which the command does not read.
    """
    given = arguments.get(PLUGIN)
    plugins = [*(given if isinstance(given, list | tuple) else ()), *modules]
    files = {name: arguments.get(name) for name in ("data", *REPORT_FILES)}
    data = typed({**files, PLUGIN: list(dict.fromkeys(plugins))})
    return f"{lvm_command()} eval {shown(checkpoint)} {data}".rstrip()
