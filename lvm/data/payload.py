"""The payload: every chunk with its text, article and vector, in the report's formats.

    P.npz            vectors, keys, provenance: a bank in one file
    P.npy            a NumPy header, then a pickle of
                     {id: (text, {"article_index": a, "chunk_index": c}, vector)}
    anything else    the same pickle without the header

A pickle is read in a process of its own, which has little memory and time (lvm/data/pickled.py).
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from lvm.core.errors import DataError, UnsafePayloadError
from lvm.core.outside import regular
from lvm.core.packages import HOME
from lvm.data.bank import Bank
from lvm.data.files import read_bank
from lvm.data.npz import ARRAY, check_exists, kind_of, map_npy
from lvm.data.pickled import FILES

GIB = 1 << 30
CPU_SECONDS, BYTES_PER_SECOND = 10, 4 << 20  # of reading a pickle: at least, and by its size
MEMORY_PER_BYTE = 8


def read_payload(path: Path, *, check_counts: bool = True) -> Bank:
    """Read a payload (`.npz`, bank folder, pickled `.npy`, bare pickle) as a bank, in order of ids.

    Vectors of a pickle come as float16 when all are, else float32; `check_counts` is that of
    `read_bank`. Raises UnsafePayloadError when a
    pickle names anything but arrays, numbers and plain containers, DataError on other faults.
    """
    check_exists(path)
    if path.is_dir():
        return read_bank(path, check_counts=check_counts)
    try:
        with regular(path).open("rb") as handle:
            packed = handle.read(2) == b"PK"
        size = path.stat().st_size
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error}); check the file and its permissions."
        ) from None
    if packed or kind_of(path) not in (None, ARRAY):
        return read_bank(path, check_counts=check_counts)
    return _read_apart(path, size)


def _read_apart(path: Path, size: int) -> Bank:
    """Read a pickle in another process; its arrays come back through files."""
    seconds = CPU_SECONDS + size // BYTES_PER_SECOND
    memory = GIB + MEMORY_PER_BYTE * size

    with tempfile.TemporaryDirectory(prefix="lvm-payload-") as name:
        told = map(str, (path.absolute(), name, seconds, memory))
        done = subprocess.run(
            [sys.executable, "-m", "lvm.data.pickled", *told],
            cwd=name,
            env=_environment(),
            capture_output=True,
            text=True,
            errors="backslashreplace",
        )
        if done.stdout:
            answer = json.loads(done.stdout)
            kind = UnsafePayloadError if answer["kind"] == "UnsafePayloadError" else DataError
            raise kind(answer["sentence"].replace(str(path.absolute()), str(path)))
        if done.returncode:
            raise _unread(path, done, seconds, memory)
        vectors, keys, texts = (Path(name) / file for file in FILES)
        read = json.loads(texts.read_text())
        return Bank(  # on Linux and macOS a mapped file lives on without its name
            map_npy(vectors),
            np.load(keys),
            {"format": "pickled payload"},
            functools.partial(list[str], read),
            str(path),
        )


def _environment() -> dict[str, str]:
    """Return an environment that finds this package, and in which numpy reserves little memory."""
    path = os.pathsep.join(filter(None, [str(HOME), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def _unread(
    path: Path, done: subprocess.CompletedProcess[str], seconds: int, memory: int
) -> DataError:
    """Return why the other process ended without an answer."""
    last = [*done.stderr.strip().splitlines(), ""][-1]
    if done.returncode == -signal.SIGXCPU:
        why = f"it took more than {seconds} s to read"
    elif done.returncode < 0:
        why = f"its reader ended with {signal.Signals(-done.returncode).name}"
    elif "MemoryError" in done.stderr:
        why = f"it needs more than {memory / GIB:.1f} GiB of memory"
    elif "No space left" in last:
        why = f"no space is left in {tempfile.gettempdir()} to unpack it; free some, or set TMPDIR"
    else:
        why = last or f"its reader ended with status {done.returncode}"
    return DataError(
        f"{path} is not a readable payload ({why}); write it as .npz with vectors and keys."
    )
