"""FAISS: the only door to it, and a process that reads somebody else's index and searches it.

    python -m lvm.evaluation.faiss_apart INDEX SECONDS BYTES

FAISS believes the numbers in a file: a damaged one can end the process that reads or searches it.
So another process does both (`lvm.evaluation.foreign_index` starts it). It needs no torch. First it
answers with a line about the index; then, for each line {"rows", "k", "threads", "seconds"} and the
float32 rows after it, with a line and the ids [rows, k] int64 and scores [rows, k] float32.
"""

from __future__ import annotations

import contextlib
import re
import resource
import sys
from typing import Protocol, runtime_checkable

import msgspec
import numpy as np

from lvm.core.errors import MissingExtraError
from lvm.core.outside import lower_limit, shortened

AT_ITS_SOURCE = re.compile(r"^Error in .* at \S+:\d+: (?:Error: )?")


@runtime_checkable
class Searchable(Protocol):
    """An index of FAISS, as far as it is read."""

    ntotal: int
    d: int
    is_trained: bool

    def search(self, rows: np.ndarray, k: int, /) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and ids [rows, k] of the nearest rows."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A search; its rows follow the line."""

    rows: int
    k: int
    threads: int
    seconds: int


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a line answers: about the index, that FAISS is missing, or what is wrong."""

    size: int = 0
    width: int = 0
    trained: bool = True
    missing: bool = False
    error: str | None = None


def require_faiss() -> None:
    """Raise MissingExtraError where the package faiss is not installed."""
    try:
        import faiss  # noqa: F401  # whether it can be
    except ImportError as error:
        raise MissingExtraError("faiss-cpu", None, "approximate search") from error


def use_threads(threads: int) -> None:
    """Let FAISS, which is installed, work with so many threads."""
    import faiss

    faiss.omp_set_num_threads(threads)


def index_of(rows: np.ndarray, *, num_lists: int = 0, nprobe: int = 0, seed: int = 0) -> Searchable:
    """Return an index of float32 rows [N, W] by inner product.

    It is exact, or looks into the `nprobe` nearest of some lists. MissingExtraError without FAISS.
    """
    require_faiss()
    import faiss

    width, metric = rows.shape[1], faiss.METRIC_INNER_PRODUCT
    index: faiss.IndexFlatIP | faiss.IndexIVFFlat = faiss.IndexFlatIP(width)
    if num_lists:
        index = faiss.IndexIVFFlat(index, width, num_lists, metric)
        index.cp.spherical = True  # unit rows: a centroid is a direction
        index.cp.seed, index.nprobe = seed, nprobe
        index.train(rows)
    index.add(rows)
    return index


def main() -> None:
    """Read an index, then search it for whatever comes in, until nothing more does."""
    path, seconds, memory = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    lower_limit(resource.RLIMIT_CORE, 0)
    try:
        require_faiss()
        import faiss

        lower_limit(resource.RLIMIT_AS, memory)
        _allow(seconds)
        index = faiss.read_index(path)
    except MissingExtraError:
        _answer(Answer(missing=True))
    except (RuntimeError, MemoryError) as error:
        _answer(Answer(error=_why(error)))
    else:
        _answer(Answer(size=int(index.ntotal), width=int(index.d), trained=bool(index.is_trained)))
        _serve(index)


def _serve(index: Searchable) -> None:
    for line in sys.stdin.buffer:
        asked = msgspec.json.decode(line, type=Asked)
        size = asked.rows * int(index.d)
        rows = np.frombuffer(sys.stdin.buffer.read(4 * size), np.float32)
        use_threads(asked.threads)
        _allow(asked.seconds)
        try:
            scores, ids = index.search(rows.reshape(asked.rows, -1), asked.k)
        except (RuntimeError, MemoryError, AssertionError) as error:
            _answer(Answer(error=_why(error)))
            continue
        _answer(Answer())
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


def _answer(line: Answer) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
