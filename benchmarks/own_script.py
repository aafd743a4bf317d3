"""Verdict and cause of a plain PyTorch script with one mistake, in planted worlds, seed by seed.

    python benchmarks/own_script.py [--seeds 10] [--first 0] [--write]

The script knows nothing of this program (lvm/training/own/example.py, about 90 lines with its
flags); the worlds are described in tests/worlds.py. Each triage is the command itself: on Ray, with
rungs, killed by SIGKILL after ten epochs and resumed. `--write` keeps the output in
reports/statistics/.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]  # the worlds are test data

import own_trainer  # noqa: E402  # found through the path above
from keep import REPORTS, main_by_seed, origin  # noqa: E402

from lvm.triage.journal import read_journal  # noqa: E402

OUT = REPORTS / "statistics" / "own_script.md"
TRIAGE = [sys.executable, str(ROOT / "tune_jobs" / "triage.py")]
EPOCHS_BEFORE_THE_KILL, TRIES = 10, 3
WORDS = {
    "temperature": "temperature .005",
    "contrastive_weight": "contrastive weight .02",
    "projection_head": "InfoNCE behind the head only",
}


def main() -> None:
    """Print a line per triage, and how many were right."""
    main_by_seed(__doc__.splitlines()[0], "mistake", OUT, report)


def report(seeds: range, flags: str) -> Iterator[str]:
    """Yield the report line by line."""
    command = f"python benchmarks/own_script.py {flags}"
    yield from origin("A training of one's own", __doc__.splitlines()[0], command)
    yield "R@5 is on test; `final` is the last model that was judged there, `stopped` counts arms"
    yield "that were pruned or cancelled, `left` the processes of the script after the run. Every"
    yield f"run was killed once, after {EPOCHS_BEFORE_THE_KILL} epochs, and resumed."
    yield ""
    yield "| mistake | seed | came to | AR-only | script | final | stopped | left | seconds |"
    yield "|---|--:|---|--:|--:|--:|--:|--:|--:|"
    answers: dict[str, list[str]] = {}
    for seed in seeds:
        for mistake in own_trainer.MISTAKES:
            answer, line = triage(mistake, seed)
            answers.setdefault(mistake, []).append(answer)
            yield line
    yield ""
    for mistake, found in answers.items():
        right = found.count(f"FIXED {mistake}")
        yield f"- {WORDS[mistake]}: FIXED {mistake} in {right} of {len(seeds)}"


def triage(mistake: str, seed: int) -> tuple[str, str]:
    """Run one triage, kill and resume it; return verdict and cause, and its line of the table."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        flags = own_trainer.write_world(Path(place), mistake, seed)
        killed([*flags, "--out", str(run)], run)
        resume(run)
        verdict = json.loads((run / "verdict.json").read_text())
        events = list(read_journal(run))
        left = len(own_trainer.processes_in(run / "arms"))
    answer = f"{verdict['verdict']} {verdict['cause'] or ''}".strip()
    found = [e["evaluation"]["masked"]["r_at_5"] for e in events if e["event"] == "test_judged"]
    values = " | ".join(f"{value:.3f}" for value in (found[0], found[1], found[-1]))
    ends = Counter(e["reason"] for e in events if e["event"] == "arm_ended")
    pruned, seconds = ends["pruned"] + ends["cancelled"], time.perf_counter() - started
    return (
        answer,
        f"| {WORDS[mistake]} | {seed} | {answer} | {values} | {pruned} | {left} | {seconds:.0f} |",
    )


def killed(flags: Sequence[str], run: Path) -> None:
    """Start a triage and kill its driver after some epochs."""
    process = subprocess.Popen(
        [*TRIAGE, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and epochs_in(run) < EPOCHS_BEFORE_THE_KILL:
        time.sleep(0.05)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()


def resume(run: Path) -> None:
    """Go on with a run to its verdict; RuntimeError with its last words where it has none.

    Where the machine is busy, Ray may not start in time; the run then goes on with the next call.
    """
    for _ in range(TRIES):
        command = [*TRIAGE, "--resume", str(run)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode in (0, 1):
            return
    raise RuntimeError(f"{run} ended with status {done.returncode}: {done.stderr[-500:]}")


def epochs_in(run: Path) -> int:
    """Return how many epochs the journal of a run holds."""
    path = run / "journal.jsonl"
    return path.read_text().count('"event": "epoch"') if path.exists() else 0


if __name__ == "__main__":
    main()
