"""How an arm ends whose trial raises: by what it is, or only because of where it ran.

    the loss is not finite            DIVERGED        the recipe does it wherever it runs
    bad data, a recipe that fails     NOT_EVALUABLE   likewise
    memory, disk, a missing package   CRASHED         the machine's doing: no evidence, tried again
    anything else                     nobody foresaw it: None, and the executor decides

Both executors ask here, so that an arm ends alike in this process and on a cluster.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from lvm.core.errors import (
    ClusterError,
    DeviceError,
    LvmError,
    MissingExtraError,
    NonFiniteLossError,
    TrainerDiedError,
)
from lvm.core.records import StopReason

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_IN_WORDS = tuple(os.strerror(code) for code in FULL)  # safetensors hands on the text alone
SPARE_BYTES = 1 << 16  # a disk with less is full: torch does not say why it cannot write
NO_MEMORY_IN_WORDS = ("out of memory", "can't allocate memory", os.strerror(errno.ENOMEM))
NO_GPU_MEMORY_IN_WORDS = ("CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC")
MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)  # a path that is wrong


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why an arm ended without finishing."""

    reason: StopReason
    detail: str  # one line


def failure_of(error: BaseException, folder: Path) -> Failure | None:
    """Return how an arm ends that raised `error` while it wrote to `folder`; None: not foreseen.

    Disk and memory come first, because they surface as any kind of exception.
    """
    if isinstance(error, NonFiniteLossError):
        return Failure(reason=StopReason.DIVERGED, detail=str(error))
    for found in (_disk(error, folder), _memory(error), _machine(error)):
        if found:
            return Failure(reason=StopReason.CRASHED, detail=found)
    if isinstance(error, LvmError):
        return Failure(reason=StopReason.NOT_EVALUABLE, detail=str(error))
    return None


def _disk(error: BaseException, folder: Path) -> str:
    """Say that the disk is full, if that is behind the error."""
    for cause in _chain(error):
        known = isinstance(cause, OSError) and cause.errno in FULL
        if known or any(words in str(cause) for words in FULL_IN_WORDS):
            place = cause.filename if isinstance(cause, OSError) and cause.filename else folder
            return f"no space left on {_mount(Path(os.fsdecode(place)))}"
    if isinstance(error, RuntimeError) and "inline_container" in str(error) and _is_full(folder):
        return f"no space left on {_mount(folder)}"
    return ""


def _memory(error: BaseException) -> str:
    """Say that memory ran out, if that is behind the error; how much was wanted differs by arm."""
    if not isinstance(error, MemoryError | RuntimeError | OSError):
        return ""
    text = str(error)
    if any(words in text for words in NO_GPU_MEMORY_IN_WORDS):
        return "CUDA out of memory"
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return "out of memory" if known or any(w in text for w in NO_MEMORY_IN_WORDS) else ""


def _machine(error: BaseException) -> str:
    """Say what the machine refused: a package that the arm needs, or a file."""
    if isinstance(error, MissingExtraError | ClusterError | DeviceError | TrainerDiedError):
        return str(error)
    foreseen = isinstance(error, LvmError)  # a path that does not exist is then what the arm asked
    for cause in _chain(error) if foreseen else (error,):
        if isinstance(cause, OSError) and not (foreseen and isinstance(cause, MISSING)):
            return f"{cause.filename or 'a file'} is unusable ({cause.strerror or cause})"
    return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from or amid, also where that is kept from a reader."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(_there(folder)).free < SPARE_BYTES
    except OSError:
        return False


def _mount(path: Path) -> Path:
    """Return the file system of a path: the same for every arm of a run."""
    place = _there(path)
    return next(p for p in (place, *place.parents) if p.is_mount() or p == p.parent)


def _there(path: Path) -> Path:
    path = path.absolute()
    return next(p for p in (path, *path.parents) if p.exists() or p == p.parent)
