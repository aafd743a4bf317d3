"""Phase 1 at the failure report's own size: how soon, and with how much memory, the audit says why.

    python benchmarks/phase1_replica.py [--folder DIR] [--small] [--write]

Makes the report's three files (about 9 GB; tests/replica.py says how), then times whole commands:

    the triage             from the command to BLOCKED, nothing trained
    lvm audit              every check, every row
    lvm audit --repair     a new eval file, and its own audit
    a model                trained on a part of the train file, judged on the broken and on the
                           repaired eval file: it was good all along

Memory is the peak resident size of the command, mapped pages of the files counted. `--write` keeps
the output under reports/phase1_replica/.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # the replica is test data

from replica import SMALL, Replica, Size, make_replica  # noqa: E402

from lvm.core.config.recipe import ModelConfig, Recipe, TrainingConfig  # noqa: E402
from lvm.core.provenance import environment, git_commit  # noqa: E402
from lvm.data.load import DataRequest, load_dataset  # noqa: E402
from lvm.data.windows import Dataset, Windows  # noqa: E402
from lvm.evaluation.evaluate import evaluate  # noqa: E402
from lvm.evaluation.inference import predict  # noqa: E402
from lvm.models.predictor import Predictor  # noqa: E402
from lvm.training.loop import train  # noqa: E402

TRAIN_WINDOWS, DEV_WINDOWS, JUDGED_WINDOWS = 20_000, 2_000, 1_000
RECIPE = Recipe(
    model=ModelConfig(hidden=128, num_layers=1, state=64, residual=True),
    training=TrainingConfig(epochs=2, batch_size=256, learning_rate=1.5e-3),
).ar_only()


def main() -> None:
    """Run every part and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, help="where to keep the files (default: thrown away)"
    )
    parser.add_argument("--small", action="store_true", help="a world of 5,000 train windows")
    parser.add_argument("--write", action="store_true", help="keep the output under reports/")
    arguments = parser.parse_args()
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(_Both(said)):
        run(arguments.folder or Path(scratch) / "files", Path(scratch), arguments.small)
    if arguments.write:
        target = ROOT / "reports" / "phase1_replica"
        target.mkdir(exist_ok=True)
        text = said.getvalue().replace(str(ROOT), "/path/to/lvm")
        (target / "output.txt").write_text(text)


class _Both(io.TextIOBase):
    """Writes to the screen and to a copy."""

    def __init__(self, copy: io.StringIO) -> None:
        self._copy, self._screen = copy, sys.stdout

    def write(self, text: str) -> int:
        """Write to both."""
        self._screen.write(text)
        self._screen.flush()
        return self._copy.write(text)


def run(files: Path, scratch: Path, small: bool) -> None:
    """Make the files, time the commands, train and judge a model."""
    size = SMALL if small else Size()
    machine = environment()
    print(f"{datetime.date.today()}, commit {git_commit()}, {machine['cpus']} CPUs, ", end="")
    print(f"{machine['memory_gib']} GiB, numpy {machine['versions']['numpy']}, ", end="")
    print(f"torch {machine['versions']['torch']}")
    started = time.perf_counter()
    # A process of its own: its memory would count as that of every command started later.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        replica = pool.submit(make_replica, files, size).result()
    seconds = time.perf_counter() - started
    gib = sum(path.stat().st_size for path in files.iterdir()) / 2**30
    print(f"files made: {gib:.1f} GiB in {seconds:.0f} s, {size}\n")
    given = ["--train", replica.train, "--eval", replica.eval, "--payload", replica.payload]
    triage = [ROOT / "tune_jobs" / "triage.py", *given, "--out"]
    _command("triage", [*triage, scratch / "run"], head=1)
    _command("triage, again", [*triage, scratch / "again"], head=1)
    audit = ["-m", "lvm.cli", "audit", *given]
    _command("lvm audit, every row", [*audit, "--out", scratch / "audit"], head=1)
    fixed = scratch / "fixed"
    repair = ["--out", scratch / "repair", "--repair", fixed / "eval.npz"]
    _command(
        "lvm audit --repair",
        [*audit, *repair],
        words=("repaired:", "not repaired:", "BLOCKED", "warnings", "clean"),
    )
    _judge(replica, fixed / "eval.npz", scratch)


def _command(name: str, words_of: list[object], head: int = 0, words: tuple[str, ...] = ()) -> None:
    """Run one command as a process of its own; print its time, its peak memory, its first lines."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *map(str, words_of)], cwd=ROOT, stdout=out, stderr=err
        )
        # Of this process alone: what is asked of all children so far is the peak of the largest.
        _, ended, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(ended)
        out.seek(0)
        err.seek(0)
        lines, complaint = out.read().splitlines(), err.read()
    print(f"{name}: exit status {process.returncode}, {seconds:.1f} s wall, ", end="")
    print(f"{used.ru_utime + used.ru_stime:.1f} s CPU, ", end="")
    print(f"peak memory {used.ru_maxrss / 2**20:.2f} GiB")
    for line in [*lines[:head], *(line for line in lines if words and line.startswith(words))]:
        print(f"    {line}")
    if process.returncode not in (0, 3):
        raise SystemExit(complaint)


def _judge(replica: Replica, repaired: Path, scratch: Path) -> None:
    """Train a model on a part of the train file and judge it on both eval files."""
    torch.set_num_threads(2)
    broken = _dataset(replica, replica.eval)
    learnt = Dataset(
        broken.bank,
        _part(broken.train, TRAIN_WINDOWS),
        _part(broken.dev, DEV_WINDOWS),
        _part(broken.test, JUDGED_WINDOWS),
    )
    model: list[Predictor] = []

    def keep(predictor: Predictor, epoch: int) -> dict[str, float]:
        model[:] = [predictor]
        return {"eval_cosine": _cosine(predictor, learnt, learnt.dev)}

    records = list(train(RECIPE, learnt, scratch / "model", validate=keep))
    print(f"\na model trained on {len(learnt.train)} windows: validation cosine ", end="")
    print(
        f"{records[-1].dev['eval_cosine']:.3f} on articles of the train file that it has not seen"
    )
    for name, dataset in (("broken", learnt), ("repaired", _dataset(replica, repaired))):
        windows = _part(dataset.test, JUDGED_WINDOWS)
        rows = predict(model[0], dataset, windows, "raw")
        found, _ = evaluate(rows, windows, dataset.bank, space="raw", split="test")
        masked = found.masked
        print(f"the same model on the {name} eval file ({len(windows)} windows): ", end="")
        print(f"cosine {masked['eval_cosine']:.3f}, masked R@5 {masked['r_at_5']:.3f}, ", end="")
        print(f"Contain@50 {masked['contain_at_50']:.3f}, pool {found.pool.size}")


def _dataset(replica: Replica, eval_: Path) -> Dataset:
    request = DataRequest(train=replica.train, evaluation=eval_, payload=replica.payload)
    return load_dataset(request, 5)[0]


def _part(windows: Windows, count: int) -> Windows:
    return windows.select(np.arange(len(windows))[:: max(1, len(windows) // count)][:count])


def _cosine(predictor: Predictor, dataset: Dataset, windows: Windows) -> float:
    rows = predict(predictor, dataset, windows, "raw").numpy()
    targets = dataset.bank.rows(windows.targets)
    return float(np.einsum("md,md->m", rows, targets).mean())


if __name__ == "__main__":
    main()
