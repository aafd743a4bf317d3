"""Compare the versions that a cluster file pins with the project's: image tags, Ray, Python."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lvm.doctor.defect import Code, Defect, error, warning
from lvm.doctor.expected import Expected, as_text
from lvm.doctor.ray_file import EVERYWHERE, RayFile
from lvm.doctor.yaml_file import Place

_PIN = re.compile(r"\bray(?:\[[\w,-]*\])?\s*==\s*([\w.]+)")
_UNPINNED = re.compile(r"\binstall\b[^;&|]*?[\s'\"](ray(?:\[[\w,-]*\])?)(?=['\"\s]|$)")
_NIGHTLY = re.compile(r"ray-wheels|ray-\d+\.\d+\.\d+\.dev|install-nightly")
_PYTHON = re.compile(
    r"--python[ =]['\"]?(\d+)\.(\d+)|\bpython(\d+)\.(\d+) -m venv|\bpython=+(\d+)\.(\d+)"
)


def check_image(image: Place, expected: Expected) -> Iterator[Defect]:
    """Find an image whose tag names no Ray, another Ray, or a Python that does not fit."""
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
        yield error(
            Code.RAY_NIGHTLY,
            file.root.line,
            f"without {EVERYWHERE} Ray's default installs a nightly build of Ray.",
            f"{EVERYWHERE}: those of cluster.yaml",
        )
    pinned = False
    for command in file.commands():
        pinned = pinned or bool(_PIN.search(command.text))
        yield from _check_command(command, expected)
    if not pinned and not images:
        place = file.root.at(EVERYWHERE)
        yield error(
            Code.RAY_VERSION,
            place.line,
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
    """Check that all nodes have the same Python, as Ray requires, and a supported one."""
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
