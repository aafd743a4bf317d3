"""Verdict and cause of four wrong recipes in planted worlds, and of noise, seed by seed.

    python benchmarks/planted_worlds.py [--seeds 10] [--first 0] [--write]

The worlds, and why each recipe fails in them, are described in tests/worlds.py. Everything runs in
this process on one thread; a triage takes 3 to 30 seconds. `--write` keeps the output in
reports/statistics/.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]  # the worlds are test data

import tiny  # noqa: E402  # found through the path above
import worlds  # noqa: E402
from keep import REPORTS, main_by_seed, origin  # noqa: E402

from lvm.core.config.read import load_run_config  # noqa: E402
from lvm.triage.events import TestJudged  # noqa: E402

OUT = REPORTS / "statistics" / "planted_worlds.md"

SHOULD_BE = {
    "wrong_head_only": "FIXED projection_head",
    "wrong_temperature": "FIXED temperature",
    "wrong_contrastive_weight": "FIXED contrastive_weight",
    "wrong_width": "FIXED context_path",
}
WORLD_OF = {"wrong_width": ("drifting", worlds.drifting)}
PLANTED = ("planted", worlds.planted)
WITHOUT = ("without signal", worlds.without_signal)


def main() -> None:
    """Print a line per triage, and how many were right."""
    main_by_seed(__doc__.splitlines()[0], "recipe", OUT, report)


def report(seeds: range, flags: str) -> Iterator[str]:
    """Yield the report line by line."""
    command = f"python benchmarks/planted_worlds.py {flags}"
    yield from origin("Planted worlds", __doc__.splitlines()[0], command)
    yield "R@5 is on test; `final` is the last model that was judged there."
    yield ""
    yield "| world | recipe | seed | verdict and cause | AR-only | recipe | final | seconds |"
    yield "|---|---|--:|---|--:|--:|--:|--:|"
    answers: dict[tuple[str, str], list[str]] = {}
    for recipe in SHOULD_BE:
        for name, make in (WORLD_OF.get(recipe, PLANTED), WITHOUT):
            for seed in seeds:
                answer, line = triage(name, make, recipe, seed)
                answers.setdefault((name, recipe), []).append(answer)
                yield line
    yield ""
    for recipe, wanted in SHOULD_BE.items():
        name, _ = WORLD_OF.get(recipe, PLANTED)
        right = answers[name, recipe].count(wanted)
        yield f"- {recipe} in the {name} world: {wanted} in {right} of {len(seeds)}"
    for recipe in SHOULD_BE:
        found = answers["without signal", recipe]
        false = sum(answer.split()[0] in ("PASSED", "FIXED") for answer in found)
        yield f"- {recipe} without signal: PASSED or FIXED in {false} of {len(seeds)}"


def triage(
    name: str, make: Callable[[int], worlds.World], recipe: str, seed: int
) -> tuple[str, str]:
    """Run one triage; return verdict and cause, and its line of the table."""
    started = time.perf_counter()
    config = load_run_config(ROOT / "lvm" / "recipes" / f"{recipe}.toml", worlds.base_config(seed))
    with tempfile.TemporaryDirectory() as folder:
        stop, journal = tiny.triage(Path(folder), make(seed).dataset, config, num_steps=6)
    answer = f"{stop.verdict} {'+'.join(stop.cause)}".strip()
    found = [e.evaluation.masked["r_at_5"] for e in journal.events.of(TestJudged)]
    values = " | ".join(f"{value:.3f}" for value in (found[0], found[1], found[-1]))
    seconds = time.perf_counter() - started
    return answer, f"| {name} | {recipe} | {seed} | {answer} | {values} | {seconds:.1f} |"


if __name__ == "__main__":
    main()
