"""Where a number comes from: code, commit, versions, machine."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import psutil

from lvm import __version__

_NUMERIC_SOURCES = (
    "data/*.py", "evaluation/*.py", "losses/*.py", "models/*.py", "training/*.py",
    "gates.py", "randomness.py", "statistics.py", "triage/arm.py", "triage/rungs.py",
)  # fmt: skip
_PACKAGES = ("torch", "numpy", "ray", "mlflow", "faiss-cpu", "sentence-transformers")


def code_version() -> str:
    """Return the version and a hash of every source file that can change a measured number."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for pattern in _NUMERIC_SOURCES:
        for path in sorted(root.glob(pattern)):
            digest.update(path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"


def git_commit() -> str | None:
    """Return the commit of the checkout this package lies in, "+changes" when edited, or None."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+changes" if changed else commit


def _git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()


def environment() -> dict[str, Any]:
    """Return versions and the machine, for the record."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }
