"""The files that a trainer is made of: found next to its recipe, named by content, kept in the run.

A run trains with its own copy: an edit while it runs changes nothing, a moved run still goes on,
and every node that sees the run folder sees the code.
"""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lvm.core.errors import ConfigError
from lvm.core.outside import regular
from lvm.core.trainer import TrainerConfig

FOLDER, WINDOWS = "trainer", "windows"  # of a run: the files, and what the arms train on
MOST_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True)
class TrainerCode:
    """The files of a trainer below `home`, by their relative paths."""

    home: Path
    files: Sequence[str]

    @property
    def digests(self) -> dict[str, str]:
        """The content of every file, 12 hex digits by its name."""
        contents = {name: (self.home / name).read_bytes() for name in self.files}
        return {name: hashlib.sha256(c).hexdigest()[:12] for name, c in contents.items()}

    def keep(self, run: Path) -> None:
        """Copy the files into a run, once."""
        target = run / FOLDER
        if target.exists():
            return
        fresh = run / f".{FOLDER}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        for name in self.files:
            place = fresh / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self.home / name, place)
        fresh.mkdir(parents=True, exist_ok=True)  # also where no file was named
        os.replace(fresh, target)

    def forget_windows(self, run: Path) -> None:
        """Remove the windows that were written out for the arms: they can be written again."""
        shutil.rmtree(run / WINDOWS, ignore_errors=True)


def code_of(trainer: TrainerConfig, home: Path) -> TrainerCode:
    """Return the files that a trainer names below `home`, and those that they import from there.

    Raises ConfigError where `files` names one that is not there, or a script cannot be found.
    """
    named = [*_of_command(trainer, home), *_of_call(trainer, home)]
    for name in trainer.files:
        named += [p.relative_to(home).as_posix() for p in _below(home, name)]
    found: dict[str, None] = {}
    while named:
        name = named.pop(0)
        if name in found:
            continue
        found[name] = None
        if name.endswith(".py"):
            named += _imported(home, name)
    return TrainerCode(home=home, files=sorted(found))


def _of_command(trainer: TrainerConfig, home: Path) -> Iterator[str]:
    for place, word in enumerate(trainer.command):
        if _is_inside(word) and (home / word).is_file():
            yield Path(word).as_posix()
        elif place and trainer.command[place - 1] == "-m":
            yield from _modules(home, Path(), word.split("."))
        elif place and word.endswith(".py") and not Path(word).is_absolute():
            raise ConfigError(
                f"trainer.command names {word}, which is not in {home}; give its path from the "
                "folder of the recipe."
            )


def _of_call(trainer: TrainerConfig, home: Path) -> list[str]:
    module = trainer.call.partition(":")[0]
    return [*_modules(home, Path(), module.split("."))] if module else []


def _below(home: Path, name: str) -> list[Path]:
    """Return a file, or every file of a folder, that `files` names."""
    place = home / name
    if not _is_inside(name) or not place.exists():
        raise ConfigError(
            f"trainer.files names {name}, which is not in {home}; give its path from the folder of "
            "the recipe."
        )
    found = sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place]
    for path in found:
        if regular(path).stat().st_size > MOST_BYTES:
            raise ConfigError(
                f"trainer.files names {path} of {path.stat().st_size / 2**20:.0f} MiB, more than "
                f"{MOST_BYTES >> 20}; name it in the command by an absolute path instead."
            )
    return found


def _is_inside(name: str) -> bool:
    path = Path(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts


def _imported(home: Path, name: str) -> Iterator[str]:
    """Yield the files beside a script that it imports; a script that cannot be read has none."""
    try:
        tree = ast.parse((home / name).read_bytes())
    except (SyntaxError, ValueError):
        return
    folder = Path(name).parent
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _modules(home, folder, alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            parts = (node.module or "").split(".") if node.module else []
            for alias in node.names:
                yield from _modules(home, folder, [*parts, alias.name])


def _modules(home: Path, folder: Path, parts: Sequence[str]) -> Iterator[str]:
    """Yield the files of a dotted name in `folder` or above it: its packages, and its module."""
    for place in (folder, *folder.parents):
        for part in parts:
            for file in (place / f"{part}.py", place / part / "__init__.py"):
                if (home / file).is_file():
                    yield file.as_posix()
            place = place / part
