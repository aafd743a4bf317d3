"""How an arm ends that raises, and what of a traceback a person is shown."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace

import pytest
import torch

from lvm.core.errors import (
    CheckpointError,
    ClusterError,
    ConfigError,
    DataError,
    MissingExtraError,
    NonFiniteLossError,
)
from lvm.core.records import ABSENT, StopReason
from lvm.triage import endings
from lvm.triage.endings import failure_of

GIB = 1 << 30


def full(code=errno.ENOSPC, filename=None):
    return OSError(code, os.strerror(code), *([filename] if filename else []))


def raised_from(error, cause):
    """Return `error` as it is after it was raised amid the handling of `cause`."""
    try:
        try:
            raise cause
        except BaseException:
            raise error from None
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "reason", "said"),
    [
        (NonFiniteLossError("the loss is nan"), StopReason.DIVERGED, "the loss is nan"),
        (DataError("too few windows"), StopReason.NOT_EVALUABLE, "too few windows"),
        (ConfigError("not a multiple"), StopReason.NOT_EVALUABLE, "not a multiple"),
        (CheckpointError("another recipe"), StopReason.NOT_EVALUABLE, "another recipe"),
        (MemoryError(), StopReason.CRASHED, "out of memory"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
            StopReason.CRASHED,
            "CUDA out of memory",
        ),
        (
            RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"),
            StopReason.CRASHED,
            "CUDA out of memory",
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
            StopReason.CRASHED,
            "CUDA out of memory",
        ),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: can't "
                "allocate memory: you tried to allocate 9 bytes."
            ),
            StopReason.CRASHED,
            "out of memory",
        ),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), StopReason.CRASHED, "out of memory"),
        (
            MissingExtraError("mamba-ssm", "gpu", "this model"),
            StopReason.CRASHED,
            "this model needs mamba-ssm",
        ),
        (ClusterError("no node left"), StopReason.CRASHED, "no node left"),
        (
            OSError(errno.EROFS, os.strerror(errno.EROFS), "/x/y"),
            StopReason.CRASHED,
            "/x/y is unusable (Read-only file system)",
        ),
        (
            raised_from(
                CheckpointError("cannot be read"), OSError(errno.EIO, "Input/output error")
            ),
            StopReason.CRASHED,
            "Input/output error",
        ),
        (
            raised_from(CheckpointError("no checkpoint"), FileNotFoundError(2, "No such file")),
            StopReason.NOT_EVALUABLE,
            "no checkpoint",
        ),
    ],
)
def test_an_error_ends_an_arm_by_what_it_says_of_it(error, reason, said, tmp_path) -> None:
    failure = failure_of(error, tmp_path)
    assert failure.reason is reason
    assert said in failure.detail
    assert "\n" not in failure.detail


def test_an_allocation_that_really_fails_is_out_of_memory(tmp_path) -> None:
    with pytest.raises(RuntimeError) as found:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert failure_of(found.value, tmp_path).detail == "out of memory"


@pytest.mark.parametrize(
    "error",
    [
        full(),
        full(errno.EDQUOT),
        full(errno.EFBIG),
        raised_from(DataError("cannot be written"), full()),
        Exception(f"Error while serializing: I/O error: {os.strerror(errno.ENOSPC)} (os error 28)"),
    ],
)
def test_a_full_disk_is_never_a_result_of_the_arm(error, tmp_path) -> None:
    """Row 19 of the issue: it was journalled as not evaluable, and so as a result."""
    failure = failure_of(error, tmp_path / "arms" / "abc")
    assert failure.reason in ABSENT
    assert failure.detail.startswith("no space left on /")
    assert "abc" not in failure.detail  # the same for every arm, so that they are counted together


def test_a_full_disk_is_named_by_the_file_that_could_not_be_written(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(endings, "_mount", lambda path: path)
    there = tmp_path / "there"
    assert failure_of(full(filename=str(there)), tmp_path).detail == f"no space left on {there}"
    assert failure_of(full(), tmp_path).detail == f"no space left on {tmp_path}"


@pytest.mark.parametrize(("free", "reason"), [(0, StopReason.CRASHED), (GIB, None)])
def test_torch_does_not_say_that_a_disk_is_full_so_it_is_looked_up(
    free, reason, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(endings.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    error = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
    failure = failure_of(error, tmp_path / "not there yet")
    assert (failure and failure.reason) is reason


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("shapes differ"), KeyError("y")])
def test_an_error_of_this_program_is_no_ending(error, tmp_path) -> None:
    assert failure_of(error, tmp_path) is None
    amid = raised_from(error, FileNotFoundError(2, "No such file"))
    assert failure_of(amid, tmp_path) is None
