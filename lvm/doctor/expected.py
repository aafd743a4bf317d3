"""What a cluster file must agree with: pinned versions, and the schedule of the run."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from lvm.core.config.run import ScheduleConfig
from lvm.core.errors import MissingExtraError

Version = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Versions of this project, and the schedule of the preset that the cluster is for."""

    ray: str  # such as "2.60.0"
    min_python: Version
    local_python: Version
    schedule: ScheduleConfig


def expected_for(file: Path, schedule: ScheduleConfig) -> Expected:
    """Return what `file` must agree with.

    The pins are those in the file's folder, as `ray up` would send them, or else the versions
    installed here.
    """
    major, minor, _ = platform.python_version_tuple()
    return Expected(
        ray=_pinned_ray(file.parent / "constraints.txt") or _installed_ray(),
        min_python=_min_python(file.parent / "pyproject.toml"),
        local_python=(int(major), int(minor)),
        schedule=schedule,
    )


def _pinned_ray(constraints: Path) -> str | None:
    try:
        text = constraints.read_text(encoding="utf-8")
    except OSError:
        return None
    pin = re.search(r"^ray(?:\[[^\]]*\])?==(\S+)", text, re.MULTILINE)
    return pin.group(1) if pin else None


def _installed_ray() -> str:
    try:
        return importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        raise MissingExtraError("ray[default]", None, "the check of a cluster file") from None


def _min_python(pyproject: Path) -> Version:
    try:
        wanted = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["requires-python"]
    except (OSError, ValueError, KeyError):
        wanted = importlib.metadata.metadata("lvm")["Requires-Python"]
    found = re.search(r">=\s*(\d+)\.(\d+)", wanted)
    return (int(found.group(1)), int(found.group(2))) if found else (3, 11)


def as_text(version: Version) -> str:
    """Return "3.11"."""
    return f"{version[0]}.{version[1]}"
