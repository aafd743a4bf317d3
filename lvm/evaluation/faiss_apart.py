"""FAISS: the only door to it, and a process that reads somebody else's index and searches it.

    python -m lvm.evaluation.faiss_apart INDEX SECONDS BYTES

FAISS believes the numbers in a file: a damaged one can end the process that reads or searches it.
So another process does both (`lvm.evaluation.foreign_index` starts it). It needs no torch. First it
answers with a line about the index; then, for each line {"rows", "k", "threads", "seconds"} and the
float32 rows after it, with a line and the ids [rows, k] int64 and scores [rows, k] float32.
"""

from __future__ import annotations

import contextlib
import json
import re
import resource
import sys
from typing import Any

import numpy as np

from lvm.core.errors import MissingExtraError
from lvm.core.outside import lower_limit, shortened

AT_ITS_SOURCE = re.compile(r"^Error in .* at \S+:\d+: (?:Error: )?")


def faiss_module() -> Any:
    """Return the package faiss; MissingExtraError where it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError("faiss-cpu", None, "approximate search") from error
    return faiss


def main() -> None:
    """Read an index, then search it for whatever comes in, until nothing more does."""
    path, seconds, memory = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    lower_limit(resource.RLIMIT_CORE, 0)
    try:
        faiss = faiss_module()
        lower_limit(resource.RLIMIT_AS, memory)
        _allow(seconds)
        index = faiss.read_index(path)
    except MissingExtraError:
        _answer({"missing": True})
    except (RuntimeError, MemoryError) as error:
        _answer({"error": _why(error)})
    else:
        _answer(
            {"size": int(index.ntotal), "width": int(index.d), "trained": bool(index.is_trained)}
        )
        _serve(faiss, index)


def _serve(faiss: Any, index: Any) -> None:
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        size = asked["rows"] * int(index.d)
        rows = np.frombuffer(sys.stdin.buffer.read(4 * size), np.float32)
        faiss.omp_set_num_threads(asked["threads"])
        _allow(asked["seconds"])
        try:
            scores, ids = index.search(rows.reshape(asked["rows"], -1), asked["k"])
        except (RuntimeError, MemoryError, AssertionError) as error:
            _answer({"error": _why(error)})
            continue
        _answer({})
        sys.stdout.buffer.write(np.ascontiguousarray(ids, np.int64).tobytes())
        sys.stdout.buffer.write(np.ascontiguousarray(scores, np.float32).tobytes())
        sys.stdout.buffer.flush()


def _why(error: Exception) -> str:
    """Return what FAISS says is wrong, in one short line, without its place in FAISS's source."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return shortened(AT_ITS_SOURCE.sub("", lines[-1]) or lines[-1])


def _allow(seconds: int) -> None:
    """Let the process work for so many seconds from now on."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    lower_limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + seconds)


def _answer(line: dict[str, object]) -> None:
    sys.stdout.buffer.write(json.dumps(line).encode() + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
