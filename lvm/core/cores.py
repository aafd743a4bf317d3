"""How many CPU cores this process may use: often fewer than the machine has."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Return the number of cores that `taskset` and a container's quota leave; at least 1."""
    pinned = getattr(os, "sched_getaffinity", None)
    allowed = len(pinned(0)) if pinned is not None else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, quota())))


def quota(groups: Path = CGROUPS, own: Path = OWN_GROUP) -> float:
    """Return the CPU quota of the control groups in cores, infinite where there is none."""
    return min(_quotas(groups, own), default=math.inf)


def _quotas(groups: Path, own: Path) -> Iterator[float]:
    """Yield the limits of this process's group and of those above it (cgroup v2, then v1)."""
    for line in _words(own):
        name = Path(line.rpartition(":")[2].lstrip("/"))
        for at in (name, *name.parents):
            match _words(groups / at / "cpu.max"):
                case [limit] if not limit.startswith("max"):
                    share, _, period = limit.partition(" ")
                    yield float(share) / float(period)
    old, per = (_words(groups / "cpu" / f"cpu.cfs_{what}_us") for what in ("quota", "period"))
    if old and per and float(old[0]) > 0:
        yield float(old[0]) / float(per[0])


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
