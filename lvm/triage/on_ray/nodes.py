"""Whether every process of a run computes with the driver's code and versions."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from lvm.core.errors import PluginError
from lvm.core.packages import HOME, LIBRARY
from lvm.core.plugins import load_packed
from lvm.core.provenance import code_version

SAME = ("code", "python", "torch", "numpy", "ray")  # what must be equal everywhere
_REMEDY = {"code": "install this code there"}


@functools.cache
def facts() -> dict[str, str]:
    """Return what code and which versions this process runs."""
    return {
        "host": socket.gethostname(),
        "package": str(HOME / LIBRARY),
        "code": code_version(),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "numpy", "ray")},
        "cuda": str(torch.version.cuda or ""),
        "driver": _nvidia_driver(),
    }


def difference(driver: Mapping[str, str], other: Mapping[str, str], node: str) -> str | None:
    """Return in one sentence how a process differs from the driver in what must be equal.

    Builds of one version may differ (2.13.0+cpu on a head, 2.13.0+cu130 on its workers).
    """
    for name in SAME:
        if _public(name, driver[name]) != _public(name, str(other.get(name))):
            remedy = _REMEDY.get(name, f"install {name} {driver[name]} there")
            return (
                f"node {node} runs {name} {other.get(name)} ({other.get('package')}), but the "
                f"driver runs {driver[name]} ({driver['package']}): {remedy}, or start the run "
                "from there."
            )
    return None


def refused(plugins: Iterable[Mapping[str, object]]) -> str:
    """Return in one sentence why this process cannot import what the driver has; "" where it can.

    As text: an error would arrive inside one of Ray's.
    """
    try:
        load_packed(plugins)
    except PluginError as error:
        return str(error)
    return ""


def _public(name: str, version: str) -> str:
    """Return a version without its build; of code the build is all that counts."""
    return version if name == "code" else version.partition("+")[0]


def gpu_drivers(nodes: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return the versions of NVIDIA drivers among nodes, where there are any."""
    return sorted({node["driver"] for node in nodes.values() if node.get("driver")})


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _nvidia_driver() -> str:
    """Return the version of the kernel's NVIDIA driver, or an empty text."""
    try:
        words = Path("/proc/driver/nvidia/version").read_text().split()
    except OSError:
        return ""
    return next((word for word in words if word[:1].isdigit() and "." in word), "")
