"""The versions of the project, and those that a cluster file pins: image tags, Ray, Python."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lvm.core.config.run import ScheduleConfig
from lvm.core.errors import MissingExtraError
from lvm.doctor.ray_file import EVERYWHERE, RayFile
from lvm.doctor.yaml_file import Code, Defect, Place, error, warning

_PIN = re.compile(r"\bray(?:\[[\w,-]*\])?\s*==\s*([\w.]+)")
_UNPINNED = re.compile(r"\binstall\b[^;&|]*?[\s'\"](ray(?:\[[\w,-]*\])?)(?=['\"\s]|$)")
_NIGHTLY = re.compile(r"ray-wheels|ray-\d+\.\d+\.\d+\.dev|install-nightly")
_PYTHON = re.compile(
    r"--python[ =]['\"]?(\d+)\.(\d+)|\bpython(\d+)\.(\d+) -m venv|\bpython=+(\d+)\.(\d+)"
)


Version = tuple[int, int]


def check_image(image: Place, expected: Expected) -> Iterator[Defect]:
    """Find an image whose tag names no Ray, another one, or a Python that does not fit."""
    name, _, tag = image.text.partition("@")[0].rpartition(":")
    line = image.line_of(image.text)
    right = f"{name or tag}:{expected.ray}-py{''.join(map(str, expected.local_python))}"
    if not name or "/" in tag or "latest" in tag or "nightly" in tag:
        yield error(
            Code.RAY_NIGHTLY,
            line,
            f"{image.text} is not pinned, so the image may change.",
            f"image: {right}",
        )
        return
    ray = re.search(r"\d+\.\d+\.\d+", tag)
    if ray is None:
        yield warning(
            Code.IMAGE_TAG,
            line,
            f"the tag {tag} does not say which Ray it holds.",
            f"image: {right}",
        )
    elif ray.group() != expected.ray:
        yield _other_ray(ray.group(), line, expected, f"image: {right}")
    python = re.search(r"py(\d)(\d+)", tag)
    if python:
        version = (int(python.group(1)), int(python.group(2)))
        yield from _check_python(version, line, expected, f"image: {right}")


def check_versions(file: RayFile, expected: Expected) -> Iterator[Defect]:
    """Find versions in images and commands that are not those of the project."""
    images = list(file.images())
    for image in images:
        yield from check_image(image, expected)
    if not images and not file.local and not file.root.at(EVERYWHERE).exists:
        yield file.root.error(
            Code.RAY_NIGHTLY,
            f"without {EVERYWHERE} Ray's default installs a nightly build of Ray.",
            f"{EVERYWHERE}: those of cluster.yaml",
        )
    pinned = False
    for command in file.commands():
        pinned = pinned or bool(_PIN.search(command.text))
        yield from _check_command(command, expected)
    if not pinned and not images:
        place = file.root.at(EVERYWHERE)
        yield place.error(
            Code.RAY_VERSION,
            "no command pins the version of Ray, so nodes may get different ones.",
            f"pip install 'ray[default,tune,train]=={expected.ray}'",
        )


def _check_command(command: Place, expected: Expected) -> Iterator[Defect]:
    text = command.text
    if nightly := _NIGHTLY.search(text):
        yield error(
            Code.RAY_NIGHTLY,
            command.line_of(nightly.group()),
            "this command installs a nightly build of Ray.",
            f"pip install 'ray[default,tune,train]=={expected.ray}'",
        )
    for pin in _PIN.finditer(text):
        if pin.group(1) != expected.ray:
            fix = pin.group().replace(pin.group(1), expected.ray)
            yield _other_ray(pin.group(1), command.line_of(pin.group()), expected, fix)
    if (loose := _UNPINNED.search(text)) and not nightly:
        yield error(
            Code.RAY_VERSION,
            command.line_of(loose.group(1)),
            f"{loose.group(1)} is installed without a version.",
            f"{loose.group(1)}=={expected.ray}",
        )
    for found in _PYTHON.finditer(text):
        major, minor = (int(part) for part in found.groups() if part)
        fix = found.group().replace(f"{major}.{minor}", as_text(expected.local_python))
        line = command.line_of(found.group())
        yield from _check_python((major, minor), line, expected, fix)


def _other_ray(version: str, line: int, expected: Expected, fix: str) -> Defect:
    return error(
        Code.RAY_VERSION,
        line,
        f"Ray is {version} here and {expected.ray} in constraints.txt.",
        fix,
    )


def _check_python(
    version: tuple[int, int], line: int, expected: Expected, fix: str
) -> Iterator[Defect]:
    """Ray wants one Python everywhere, and the project has a lowest one."""
    if version < expected.min_python:
        yield error(
            Code.PYTHON_VERSION,
            line,
            f"Python is {as_text(version)}, but the project needs "
            f"{as_text(expected.min_python)} or newer.",
            fix,
        )
    elif version != expected.local_python:
        yield warning(
            Code.PYTHON_VERSION,
            line,
            f"Python is {as_text(version)} here and {as_text(expected.local_python)} on this "
            "machine, which therefore cannot join the cluster as a driver.",
            fix,
        )


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Versions of this project, and the schedule of the preset that the cluster is for."""

    ray: str  # such as "2.60.0"
    min_python: Version
    local_python: Version
    schedule: ScheduleConfig


def expected_for(file: Path, schedule: ScheduleConfig) -> Expected:
    """Return what `file` has to agree with.

    The pins are those beside the file, as `ray up` would send them; without these, what is
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
