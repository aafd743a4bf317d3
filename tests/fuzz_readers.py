"""Damage files of every reader by seed: each is read, or refused in one sentence.

    python tests/fuzz_readers.py --seconds 600 --seed 7          every reader for a while
    python tests/fuzz_readers.py --reader faiss --seed 7 --number 12 --keep out.faiss

A reader runs in a process with a limit on its memory and a limit on the time of each file, so that
a crash or a hang is a finding like any other. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import mutations
from readers import READERS, Reader, write_files

from lvm.core.errors import LvmError
from lvm.core.outside import printable

MEMORY_BYTES = 1 << 30  # that a reader may take on top of what its process has
CPU_SECONDS = 5  # for one file
WALL_SECONDS = 60.0  # the same on a machine that others use as well
LONGEST_SENTENCE = 1500
VALID = "as it is"
PLACES = ("folder", "pipe", "device without end", "empty device", "link to itself", "no file")
HARMLESS = ("read", "refused", "ended")  # the last where the program reads in another process
# What a file must never cause: events of the interpreter (sys.addaudithook).
FORBIDDEN = ("os.system", "os.exec", "os.fork", "os.spawn", "pty.spawn", "socket.connect")


Content = bytes | None  # None where the change names what is there instead of a file
Job = tuple[int, str, Content]  # number, change, content


@dataclass(frozen=True)
class Outcome:
    """What a reader made of one file."""

    reader: str
    number: int
    change: str
    end: str  # "read" or "refused", else what went wrong
    detail: str = ""


def mutation(name: str, samples: Sequence[bytes], seed: int, number: int) -> tuple[str, bytes]:
    """Return the damaged file of a reader with this number."""
    rng = random.Random(f"{name} {seed} {number}")
    return mutations.mutate(rng, samples, READERS[name].form)


# --- in the process of a reader -------------------------------------------------------------------


def _attempt(reader: Reader, path: Path) -> tuple[str, str]:
    """Read one file; return how that ended, in a word and in detail."""
    warned: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_, **__: warned.append(str(message))
        try:
            reader.read(path)
            end, detail = "read", ""
        except LvmError as error:
            end, detail = _judged(reader, error)
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-3:]
            places = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(last))
            end, detail = "raised", f"{type(error).__name__}: {error} ({places})"
    if warned and end in HARMLESS:
        return "warned", warned[0]
    return end, detail[:600]


def _judged(reader: Reader, error: LvmError) -> tuple[str, str]:
    sentence = printable(str(error))
    if not isinstance(error, reader.errors):
        return "refused as another kind", f"{type(error).__name__}: {sentence}"
    if len(sentence) > LONGEST_SENTENCE or "Traceback" in sentence or error.exit_status != 2:
        return "refused in no sentence", sentence
    return "refused", sentence


def _serve(name: str, jobs: Iterable[Job], folder: Path, answers: int) -> None:
    """Read damaged files one after the other and write a line before and after each."""
    reader, path = READERS[name], folder / READERS[name].target
    done: list[str] = []
    _limit_memory()
    sys.addaudithook(lambda event, _args: done.append(event) if event in FORBIDDEN else None)
    with os.fdopen(answers, "w", buffering=1) as out:
        for number, change, data in jobs:
            put(path, change, data)
            before = files(folder)
            out.write(json.dumps({"number": number, "change": change}) + "\n")
            done.clear()
            _allow(1 if reader.apart else CPU_SECONDS)
            end, detail = _attempt(reader, path)
            if change == VALID and end != "read":
                end = f"{end} though valid"
            if done:
                end, detail = "executed", ", ".join(done)
            if left := sorted(files(folder) ^ before):
                end, detail = "left behind", ", ".join(left)
            out.write(json.dumps({"end": end, "detail": printable(detail)}) + "\n")


def put(path: Path, change: str, data: Content) -> None:
    """Put a file, or what stands in the place of one, at a path."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    path.unlink(missing_ok=True)
    if data is not None:
        path.write_bytes(data)
        return
    {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "device without end": lambda: path.symlink_to("/dev/zero"),
        "empty device": lambda: path.symlink_to("/dev/null"),
        "link to itself": lambda: path.symlink_to(path.name),
        "no file": lambda: None,
    }[change]()


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _allow(seconds: int) -> None:
    """Let the process work for so many seconds from now on."""
    used = int(time.process_time()) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (used, resource.RLIM_INFINITY))


def _limit_memory() -> None:
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = held + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


# --- around it ------------------------------------------------------------------------------------


def fuzz(name: str, jobs: Sequence[Job], folder: Path) -> Iterator[Outcome]:
    """Yield what a reader makes of each damaged file; a process that ends is started again."""
    left = list(jobs)
    while left:
        pid, answers = _start(name, left, folder)
        last: dict[str, object] = {}
        with os.fdopen(answers, "rb", buffering=0) as stream:
            lines = _Lines(stream.fileno())
            while (answer := lines.next(WALL_SECONDS)) is not None:
                if "end" in answer:
                    number, change, _ = left.pop(0)
                    yield Outcome(name, number, change, str(answer["end"]), str(answer["detail"]))
                    last = {}
                else:
                    last = answer
            hung = lines.late
        if hung:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if last or (left and not hung and status):
            number, change, _ = left.pop(0)
            code = os.waitstatus_to_exitcode(status)
            end = "hung" if hung or code == -signal.SIGXCPU else "crashed"
            why = f"status {code}"
            yield Outcome(name, number, change, "ended" if READERS[name].apart else end, why)


def _start(name: str, jobs: Sequence[Job], folder: Path) -> tuple[int, int]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    status = 70
    try:
        os.close(reading)
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 2)
        os.dup2(silent, 1)
        _serve(name, jobs, folder, writing)
        status = 0
    finally:
        os._exit(status)


class _Lines:
    """JSON lines of a pipe, each within a time."""

    def __init__(self, number: int) -> None:
        self._number, self._held, self.late = number, b"", False

    def next(self, seconds: float) -> dict[str, object] | None:
        """Return the next line, None at the end or when it is late."""
        until = time.monotonic() + seconds
        while b"\n" not in self._held:
            ready = select.select([self._number], [], [], max(0.0, until - time.monotonic()))[0]
            self.late = not ready
            data = os.read(self._number, 1 << 16) if ready else b""
            if not data:
                return None
            self._held += data
        line, self._held = self._held.split(b"\n", 1)
        found: dict[str, object] = json.loads(line)
        return found


# --- runs -----------------------------------------------------------------------------------------


def jobs_of(
    name: str, samples: Sequence[bytes], seed: int, numbers: Iterable[int]
) -> Iterator[Job]:
    """Yield the damaged files of a reader with these numbers."""
    for number in numbers:
        yield (number, *mutation(name, samples, seed, number))


def first_jobs(name: str, samples: Sequence[bytes], depth: int) -> Iterator[Job]:
    """Yield the files as they are, what is no file, and each key with each odd value."""
    changes: list[tuple[str, Content]] = [(VALID, sample) for sample in samples]
    changes += [(place, None) for place in PLACES]
    if READERS[name].form == "json":
        changes += [job for sample in samples for job in mutations.every_key(sample, depth)]
    yield from ((number - len(changes), *change) for number, change in enumerate(changes))


def run(
    names: Sequence[str], seed: int, *, count: int = 0, seconds: float = 0.0, depth: int = 4
) -> Iterator[Outcome]:
    """Yield the outcomes of all readers: `count` files for each, or as many as a time allows.

    A reader that starts a process for each file gets a tenth of the count.
    """
    with tempfile.TemporaryDirectory(prefix="lvm-fuzz-") as place:
        valid = Path(place) / "valid"
        valid.mkdir()
        write_files(valid)
        for name in names:
            folder = Path(shutil.copytree(valid, Path(place) / name.replace(" ", "-")))
            os.chdir(folder)  # a payload that is executed leaves its file here
            samples = READERS[name].samples(folder / READERS[name].target)
            READERS[name].read(folder / READERS[name].target)  # what it imports costs time once
            until, done = time.monotonic() + seconds, 0
            yield from fuzz(name, list(first_jobs(name, samples, depth)), folder)
            size = (count or 200) // (10 if READERS[name].slow else 1)
            while done < size or time.monotonic() < until:
                numbers = range(done, done + size)
                yield from fuzz(name, list(jobs_of(name, samples, seed, numbers)), folder)
                done += size


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--count", type=int, default=0, help="files for each reader")
    p.add_argument("--seconds", type=float, default=0.0, help="for all readers together")
    p.add_argument("--reader", action="append", choices=READERS, help="default: all of them")
    p.add_argument("--depth", type=int, default=4, help="of the keys that get each odd value")
    p.add_argument("--number", type=int, help="write one damaged file")
    p.add_argument("--keep", type=Path, metavar="FILE")
    args = p.parse_args()
    names = args.reader or list(READERS)
    if args.number is not None:
        with tempfile.TemporaryDirectory() as place:
            write_files(Path(place))
            samples = READERS[names[0]].samples(Path(place) / READERS[names[0]].target)
        said, data = mutation(names[0], samples, args.seed, args.number)
        args.keep.write_bytes(data)
        print(said)
        return
    ends: dict[str, dict[str, int]] = {}
    wrong: list[dict[str, object]] = []
    began = time.monotonic()
    seconds = args.seconds / len(names)
    times: dict[str, float] = {}
    for outcome in run(names, args.seed, count=args.count, seconds=seconds, depth=args.depth):
        counts = ends.setdefault(outcome.reader, {})
        counts[outcome.end] = counts.get(outcome.end, 0) + 1
        times[outcome.reader] = round(time.monotonic() - began, 1)
        if outcome.end not in HARMLESS:
            wrong.append(asdict(outcome))
            print(json.dumps(wrong[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"ends": ends, "wrong": wrong, "done_after": times}))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
