"""Where the time of `make triage` goes: what is training, and what one waits for besides.

    python benchmarks/critical_path.py [--before COMMIT] [--runs 3] [--write]

Each run is the command as a person types it, in a fresh folder. `training` is the time in which an
arm trains or judges an epoch; all else is outside it: imports, the audit, the start of Ray and of
each process, decisions, reports, the end. With `--before`, an earlier commit takes turns with this
one in the same process environment, and the last column is the ratio of the medians. `--write`
keeps the table in reports/critical_path/. Wants two quiet cores; a pair takes some two minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks")]

from keep import REPORTS, origin, show  # noqa: E402  # found through the path above

OUT = REPORTS / "critical_path" / "critical_path.md"
ROWS = {
    "first step": "from the command to the first training step",
    "training": "training, on the critical path",
    "outside": "outside training",
    "whole": "the whole run",
}


def main() -> None:
    """Print the table."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--before", metavar="COMMIT")
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--write", action="store_true")
    args = p.parse_args()
    show(report(args.before, args.runs), OUT if args.write else None)


def report(before: str | None, runs: int) -> Iterator[str]:
    """Yield the report."""
    flags = f" --before {before}" if before else ""
    command = f"python benchmarks/critical_path.py{flags} --runs {runs}"
    yield from origin("The critical path of make triage", "where does its time go?", command)
    with tempfile.TemporaryDirectory(prefix="critical-") as name:
        trees = {"now": ROOT}
        if before:
            trees = {before: checked_out(before, Path(name) / "before"), **trees}
        try:
            taken = {tree: list[dict[str, float]]() for tree in trees}
            for number in range(runs):
                for tree, root in trees.items():
                    taken[tree].append(measure(root, Path(name) / f"{tree}-{number}"))
        finally:
            if before:
                git("worktree", "remove", "--force", str(trees[before]))
    names = [f"`{tree}`, s" for tree in trees] + (["ratio"] if before else [])
    yield f"| median of {runs} | {' | '.join(names)} |"
    yield "|---" * (len(names) + 1) + "|"
    for row, words in ROWS.items():
        medians = [statistics.median(run[row] for run in of) for of in taken.values()]
        cells = [f"{seconds:.1f}" for seconds in medians]
        cells += [f"{medians[1] / medians[0]:.2f}"] if before else []
        yield f"| {words} | {' | '.join(cells)} |"
    if before:
        yield ""
        pairs = ratios(taken, "outside")
        yield f"Outside training, pair by pair: {min(pairs):.2f} to {max(pairs):.2f}."


def ratios(taken: dict[str, list[dict[str, float]]], row: str) -> list[float]:
    """Return now by before of a row, pair by pair."""
    before, now = taken.values()
    return [b[row] / a[row] for a, b in zip(before, now, strict=True)]


def measure(root: Path, out: Path) -> dict[str, float]:
    """Run the triage of a checkout once; return the seconds of each row."""
    started = time.time()
    subprocess.run(
        [sys.executable, str(root / "tune_jobs" / "triage.py"), "--out", str(out)],
        check=True,
        env={**os.environ, "PYTHONPATH": str(root)},
        cwd=root,
        capture_output=True,
    )
    whole = time.time() - started
    spans: dict[str, list[float]] = {}
    for line in (out / "journal.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "epoch" and event["epoch"] > 0:
            spans.setdefault(event["step"], []).extend(
                (event["at"] - event["seconds"], event["at"])
            )
    training = sum(max(span) - min(span) for span in spans.values())
    first = min(min(span) for span in spans.values()) - started
    return {"first step": first, "training": training, "outside": whole - training, "whole": whole}


def checked_out(commit: str, folder: Path) -> Path:
    """Check a commit out in a folder of its own."""
    git("worktree", "add", "--force", "--detach", str(folder), commit)
    return folder


def git(*words: str) -> None:
    """Run git in this checkout."""
    subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True)


if __name__ == "__main__":
    main()
