"""Commands over damaged files: an exit status that means something, one sentence, nothing left.

    python tests/fuzz_commands.py

Every command runs in a copy of one process that has imported the program, as a shell would start
it: with its own standard streams, and ended after a while. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import fuzz_readers
from readers import READERS, write_files

import lvm.cli
import tune_jobs.triage
from lvm.core.command import run_command

SECONDS = 20
MEMORY_BYTES = 4 << 30
TRIAGE = "triage"
DATA = ("--train", "windows.npz", "--eval", "windows.npz", "--payload", "bank.npz")
# The reader whose file is damaged, and the commands that come to read it.
COMMANDS: Sequence[tuple[str, Sequence[str]]] = (
    ("npz windows", ("audit", *DATA)),
    ("npz windows", (TRIAGE, *DATA)),
    ("npz bank", ("audit", "--data", "bank.npz")),
    ("npz bank", ("eval", "checkpoint", "--data", "bank.npz")),
    ("npy vectors", ("audit", "--data", "vectors.npy")),
    ("npy keys", ("train", "--data", "vectors.npy", "--out", "made")),
    ("predictions", ("audit", "--data", "bank", "--predictions", "predictions.npy")),
    ("payload", ("audit", "--payload", "payload.pkl")),
    ("pt", ("audit", "--checkpoint", "report.pt")),
    ("safetensors", ("audit", "--checkpoint", "weights.safetensors")),
    ("weights", ("eval", "checkpoint", "--data", "bank")),
    ("weights", (TRIAGE, "--data", "bank", "--checkpoint", "checkpoint")),
    ("checkpoint", ("eval", "checkpoint", "--data", "bank")),
    ("checkpoint", ("audit", "--checkpoint", "checkpoint")),
    ("faiss", ("audit", "--data", "bank", "--index", "index.faiss")),
    ("manifest", ("audit", "--data", "bank")),
    ("manifest", ("train", "--data", "bank", "--out", "made")),
    ("documents", ("embed", "texts.jsonl", "--model", "./none", "--out", "made")),
    ("dump", ("embed", "dump.xml", "--model", "./none", "--out", "made")),
    ("toml", ("train", "--data", "bank", "--recipe", "recipe.toml", "--out", "made")),
    ("toml", ("audit", "--data", "bank", "--recipe", "recipe.toml")),
    ("json recipe", (TRIAGE, "--data", "bank", "--recipe", "recipe.json")),
    ("journal", ("status", "run")),
    ("journal", ("report", "run")),
    ("journal", (TRIAGE, "--resume", "run")),
    ("parquet", ("audit", "--data", "bank.parquet")),
    ("cluster", ("doctor", "--cluster", "cluster.yaml")),
)
PLACES = ("pipe", "no file")
NUM_DAMAGED = 1  # that are damaged inside, of each command


def ran(
    main: Callable[[Sequence[str]], int], argv: Sequence[str], folder: Path
) -> dict[str, object]:
    """Run a command in a process of its own; return its status and what it printed."""
    out, err = folder.parent / "stdout", folder.parent / "stderr"
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            for number, path in ((1, out), (2, err)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY_BYTES,) * 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            status = run_command(main, argv)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)
    until = time.monotonic() + SECONDS
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    return {
        "status": os.waitstatus_to_exitcode(ended[1]),
        "stdout": out.read_text(errors="replace"),
        "stderr": err.read_text(errors="replace"),
    }


def damaged(reader: str, folder: Path) -> list[tuple[str, bytes | None]]:
    """Return the first damaged files that the reader refuses, and what is no file at all."""
    target = folder / READERS[reader].target
    samples = READERS[reader].samples(target)
    jobs = list(fuzz_readers.jobs_of(reader, samples, 0, range(4)))
    with tempfile.TemporaryDirectory() as place:
        apart = Path(shutil.copytree(folder, Path(place) / "apart"))
        ends = list(fuzz_readers.fuzz(reader, jobs, apart))
    refused = [
        (job[1], job[2]) for job, end in zip(jobs, ends, strict=True) if end.end == "refused"
    ]
    return [*refused[:NUM_DAMAGED], *((place, None) for place in PLACES)]


def main() -> None:
    """Run every command over its damaged files and print how each ended."""
    answers: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="lvm-commands-") as place:
        valid = Path(place) / "valid"
        valid.mkdir()
        write_files(valid)
        for number, (reader, argv) in enumerate(COMMANDS):
            program = tune_jobs.triage.main if argv[0] == TRIAGE else lvm.cli.main
            for change, data in damaged(reader, valid):
                folder = Path(shutil.copytree(valid, Path(place) / "now", symlinks=True))
                os.chdir(folder)
                fuzz_readers.put(folder / READERS[reader].target, change, data)
                before = fuzz_readers.files(folder)
                asked = argv[1:] if argv[0] == TRIAGE else argv
                answer = ran(program, asked, folder)
                left = sorted(fuzz_readers.files(folder) - before)
                answers.append(
                    {
                        "number": number,
                        "reader": reader,
                        "argv": argv,
                        "change": change,
                        "left": left,
                        **answer,
                    }
                )
                os.chdir(place)
                shutil.rmtree(folder)
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
