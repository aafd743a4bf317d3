"""Check what this machine can run before a run starts."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from lvm.core.cores import usable_cores

MIN_MEMORY_GIB = 8.0
MIN_DISK_GIB = 2.0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check."""

    what: str
    seen: str
    ok: bool
    optional: bool = False
    next: str = ""  # what to do when it is not ok


def _cores() -> str:
    usable, has = usable_cores(), psutil.cpu_count() or 1
    return f"{usable}" if usable == has else f"{usable} of the {has} that this machine has"


def examine(folder: Path = Path()) -> list[Finding]:
    """Return findings on memory, disk, accelerators and packages."""
    memory = psutil.virtual_memory().total / 2**30
    disk = shutil.disk_usage(folder).free / 2**30
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = [
        Finding(what="cores", seen=_cores(), ok=True),
        Finding(
            what="memory",
            seen=f"{memory:.1f} GiB",
            ok=memory >= MIN_MEMORY_GIB,
            next=f"a local triage needs {MIN_MEMORY_GIB:.0f} GiB; use --address with a cluster.",
        ),
        Finding(
            what="disk",
            seen=f"{disk:.1f} GiB free",
            ok=disk >= MIN_DISK_GIB,
            next=f"a run needs {MIN_DISK_GIB:.0f} GiB; free some or choose another --out.",
        ),
        Finding(
            what="GPU",
            seen=f"{gpus} found" if gpus else "none; the laptop preset needs none",
            ok=True,
        ),
    ]
    wanted = {
        "ray": (False, "pip install 'ray[default,tune,train]'"),
        "mlflow": (False, "pip install mlflow"),
        "faiss-cpu": (False, "pip install faiss-cpu"),
        "sentence-transformers": (True, "pip install 'lvm[embed]' to embed your own text"),
        "mamba-ssm": (True, "pip install 'lvm[gpu]' on a CUDA machine for its kernels"),
    }
    for package, (optional, fix) in wanted.items():
        found.append(_package(package, optional, fix))
    return found


def _package(name: str, optional: bool, fix: str) -> Finding:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(what=name, seen="not installed", ok=False, optional=optional, next=fix)
    return Finding(what=name, seen=version, ok=True, optional=optional)
