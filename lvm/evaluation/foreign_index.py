"""Somebody else's index of FAISS, read and searched by another process that may end over it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import weakref
from pathlib import Path
from typing import IO

import msgspec
import numpy as np
import torch
from torch import Tensor

from lvm.core.errors import DataError, MissingExtraError
from lvm.core.outside import regular
from lvm.core.packages import HOME
from lvm.evaluation.faiss_apart import Answer, Asked
from lvm.evaluation.index import Index

GIB = 1 << 30
MEMORY, MEMORY_PER_BYTE = 4 * GIB, 3  # tables of a product quantiser alone may take 2 GiB
SECONDS, BYTES_PER_SECOND = 30, 16 << 20  # of reading, and at least of every search
PRODUCTS_PER_SECOND = 10**9  # of a search that looks at every row
WRITE_AGAIN = "write it with faiss.write_index, or give its rows as .npy"


def read_index(path: Path) -> ForeignIndex:
    """Read an index that FAISS wrote; DataError for anything else.

    FAISS files hold numbers, no programs, but numbers can be wrong: the process that reads them
    has a limit on time and memory, and its end is an answer. Raises MissingExtraError without
    FAISS.
    """
    try:
        size = regular(path).stat().st_size
    except OSError as error:
        raise _refused(path, error.strerror or str(error)) from None
    process = _start(path, size)
    about = _answer(path, process)
    if about.size < 0 or about.width < 1:
        _stop(process)
        raise _refused(path, f"it claims {about.size} rows of width {about.width}")
    return ForeignIndex(path, process, about)


class ForeignIndex(Index):
    """An index in another process. A search raises DataError where that process ends over it."""

    def __init__(self, path: Path, process: subprocess.Popen[bytes], about: Answer) -> None:
        super().__init__(about.size, about.width)
        self.is_trained = about.trained
        self._path, self._process = path, process
        weakref.finalize(self, _stop, process)

    def _nearest(self, queries: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.ascontiguousarray(queries.cpu().numpy(), dtype=np.float32)
        threads = torch.get_num_threads()
        products = len(rows) * self.size * self.width
        seconds = threads * (SECONDS + products // PRODUCTS_PER_SECOND)
        asked = Asked(rows=len(rows), k=k, threads=threads, seconds=seconds)
        sent, received = _pipes(self._process)
        try:
            sent.write(msgspec.json.encode(asked) + b"\n" + rows.tobytes())
            sent.flush()
        except (BrokenPipeError, ValueError):  # the second where it was stopped
            raise _ended(self._path, self._process) from None
        _answer(self._path, self._process)
        count = len(rows) * k
        data = received.read(12 * count)
        if len(data) < 12 * count:
            raise _ended(self._path, self._process)
        ids = np.frombuffer(data, np.int64, count).reshape(-1, k)
        return ids, np.frombuffer(data, np.float32, count, 8 * count).reshape(-1, k)


def _start(path: Path, size: int) -> subprocess.Popen[bytes]:
    places = os.pathsep.join(filter(None, [str(HOME), os.environ.get("PYTHONPATH", "")]))
    limits = [SECONDS + size // BYTES_PER_SECOND, MEMORY + MEMORY_PER_BYTE * size]
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "lvm.evaluation.faiss_apart",
            str(path.absolute()),
            *map(str, limits),
        ],
        env={**os.environ, "PYTHONPATH": places, "OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None:
        raise ValueError("the process of an index has pipes")
    return process.stdin, process.stdout


def _answer(path: Path, process: subprocess.Popen[bytes]) -> Answer:
    """Return what the process answers; DataError for a refusal, and where it ended instead."""
    line = _pipes(process)[1].readline()
    if not line.endswith(b"\n"):
        raise _ended(path, process)
    answer = msgspec.json.decode(line, type=Answer)
    if answer.missing:
        _stop(process)
        raise MissingExtraError("faiss-cpu", None, "approximate search")
    if answer.error is not None:
        _stop(process)
        raise _refused(path, answer.error)
    return answer


def _ended(path: Path, process: subprocess.Popen[bytes]) -> DataError:
    _stop(process)
    status = process.returncode
    if status == -signal.SIGXCPU:
        return _refused(path, "it took too long to read")
    how = signal.Signals(-status).name if status < 0 else f"status {status}"
    return _refused(path, f"it is damaged: FAISS crashed on it with {how}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that has nothing more to do, and leave nothing of it."""
    for pipe in _pipes(process):
        with contextlib.suppress(BrokenPipeError):  # what was still to be sent has no reader
            pipe.close()
    try:
        process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _refused(path: Path, why: str) -> DataError:
    return DataError(f"{path} is not a usable FAISS index ({why}); {WRITE_AGAIN}.")
