"""Verdict and cause of three wrong recipes in planted worlds, and of noise, seed by seed.

    python benchmarks/planted_worlds.py [--seeds 10] [--first 0]

The worlds, and why each recipe fails in them, are described in tests/worlds.py. Everything runs in
this process on one thread; a triage takes 3 to 30 seconds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # the worlds are test data

import tiny  # noqa: E402  # found through the path above
import worlds  # noqa: E402

from lvm.config import load_run_config  # noqa: E402

SHOULD_BE = {
    "wrong_head_only": "FIXED projection_head",
    "wrong_temperature": "FIXED temperature",
    "wrong_contrastive_weight": "FIXED contrastive_weight",
}


def main() -> None:
    """Print a line per triage, and how many were right."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds per recipe")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    arguments = parser.parse_args()
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    print(f"{'world':16}{'recipe':28}{'seed':>4}  {'verdict and cause':40}{'AR-only':>8}", end="")
    print(f"{'recipe':>8}{'final':>8}{'seconds':>9}")
    for recipe, answer in SHOULD_BE.items():
        right = sum(row("planted", worlds.planted, recipe, seed) == answer for seed in seeds)
        print(f"{recipe} in the planted world: {answer} in {right} of {len(seeds)}\n")
    for recipe in SHOULD_BE:
        answers = [row("without signal", worlds.without_signal, recipe, seed) for seed in seeds]
        false = sum(answer.split()[0] in ("PASSED", "FIXED") for answer in answers)
        print(f"{recipe} without signal: PASSED or FIXED in {false} of {len(seeds)}\n")


def row(name: str, make: Callable[[int], worlds.World], recipe: str, seed: int) -> str:
    """Run one triage, print its line (R@5 on test), and return verdict and cause."""
    started = time.perf_counter()
    config = load_run_config(ROOT / "recipes" / f"{recipe}.toml", worlds.base_config(seed))
    with tempfile.TemporaryDirectory() as folder:
        stop, journal = tiny.triage(Path(folder), make(seed).dataset, config)
    answer = f"{stop.verdict} {'+'.join(stop.cause)}".strip()
    found = [e["evaluation"]["masked"]["r_at_5"] for e in journal.all("test_judged")]
    cells = "".join(f"{value:8.3f}" for value in (found[0], found[1], found[-1]))
    seconds = time.perf_counter() - started
    print(f"{name:16}{recipe:28}{seed:4}  {answer:40}{cells}{seconds:9.1f}", flush=True)
    return answer


if __name__ == "__main__":
    main()
