"""Where a number comes from: code, commit, versions, machine."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import platform
import subprocess
from pathlib import Path

import psutil

from lvm.core.cores import usable_cores
from lvm.core.packages import HOME, OWN_PACKAGES, VERSION

_PACKAGES = ("torch", "numpy", "ray", "mlflow", "faiss-cpu", "sentence-transformers")
_WEIGHTS, _MANIFEST = "model.safetensors", "manifest.json"


def code_version() -> str:
    """Return the version and a hash of every source file of both packages.

    All files count, since a list of those that change a number would go stale: what judges, walks
    the tree or proposes arms decides what a run means.
    """
    digest = hashlib.sha256()
    for root in filter(None, map(_root_of, OWN_PACKAGES)):
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{path.relative_to(root.parent).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return f"{VERSION}+{digest.hexdigest()[:12]}"


def _root_of(package: str) -> Path | None:
    """Return the folder of a package without importing it; None where it is not installed."""
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(places[0]) if places else None


def file_digest(path: Path) -> str:
    """Return 12 hex digits of the hash of a file, cached while the file does not change."""
    stat = path.stat()
    return _digest(path.resolve(), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def checkpoint_digest(path: Path) -> str:
    """Return 12 hex digits that name a checkpoint: a folder's weights and manifest, or a .pt file.

    Empty where there is none. A folder that a kill left between two renames counts as the old one,
    as in `lvm.training.checkpoint`.
    """
    if path.is_file():
        return file_digest(path)
    for folder in (path, path.with_name(f".{path.name}.old")):
        parts = [folder / name for name in (_WEIGHTS, _MANIFEST)]
        if all(part.is_file() for part in parts):
            joined = "".join(file_digest(part) for part in parts)
            return hashlib.sha256(joined.encode()).hexdigest()[:12]
    return ""


def git_commit() -> str | None:
    """Return the commit of the checkout this package lies in, "+changes" when edited, or None."""
    if not (HOME / ".git").exists():
        return None
    try:
        commit = _git(HOME, "rev-parse", "--short=12", "HEAD")
        changed = _git(HOME, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+changes" if changed else commit


def _git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()


def environment() -> dict[str, object]:
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
        "cpus": usable_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }
