"""Does the confirmed model come near the best possible prediction where that is known, and pass?

    python benchmarks/known_optimum.py [--write] [--seeds 10]

The world, x_next = normalise(A x + noise), and why normalise(A x) is the best prediction by cosine
are described in tests/linear_world.py. Everything runs in this process on one thread; a seed takes
about 40 seconds of one core. `--write` keeps the output in reports/statistics/.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]  # the worlds are test data

import linear_world  # noqa: E402  # found through the path above
import tiny  # noqa: E402
from keep import REPORTS, origin, show  # noqa: E402

from lvm.core.config.read import load_run_config  # noqa: E402
from lvm.core.config.run import RunConfig  # noqa: E402
from lvm.core.records import Estimate, Evaluation, GateResult  # noqa: E402
from lvm.triage.events import Confirmed, Ladder, Phase1Judged, TestJudged  # noqa: E402
from lvm.triage.journal import Journal  # noqa: E402

OUT = REPORTS / "statistics" / "known_optimum.md"
NEAR = 0.95  # share of the optimum's cosine that the confirmed model has to reach
SAYS_YES = ("PASSED", "FIXED")
RIGHT, HEAD_ONLY, FLATTER = "right", "head only", "temperature .15"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one triage came to, measured on the test split."""

    answer: str  # verdict and cause
    optimum: float  # cosine of normalise(A x)
    model: Mapping[str, Any]  # metrics of the model that was confirmed, else of the last one judged
    space: str  # in which it is searched
    ar_only: Mapping[str, Any]
    rung: str  # the best of the ladder by cosine, the oracle left out
    ladder: Mapping[str, Any]
    gains: Mapping[str, Estimate]  # of the success gate: metric -> estimate

    @property
    def ratio(self) -> float:
        """Share of the optimum's cosine; a cosine in another space does not compare and is 0."""
        return self.model["eval_cosine"] / self.optimum if self.space == "raw" else 0.0

    @property
    def near_and_passed(self) -> bool:
        """Whether the model is both near the optimum and confirmed."""
        return self.ratio >= NEAR and self.answer.split()[0] in SAYS_YES

    def __str__(self) -> str:
        """Return the cells of a row."""
        cells = [self.answer, f"{self.optimum:.3f}", f"{self.model['eval_cosine']:.3f}"]
        cells += [f"{self.ratio:.3f}", f"{self.model['r_at_5']:.2f}"]
        for metrics in (self.ar_only, self.ladder):
            cells.append(f"{metrics['eval_cosine']:.3f}, {metrics['r_at_5']:.2f}")
        cells[-1] = f"{self.rung} {cells[-1]}"
        for gain in self.gains.values():
            cells.append(f"{gain.value:+.3f} [{gain.lower:.3f}, {gain.upper:.3f}]")
        return " | ".join(cells)


def config_of(name: str, seed: int) -> RunConfig:
    """Return the right recipe, or one that differs from it in what `name` says."""
    base = linear_world.base_config(seed)
    if name == HEAD_ONLY:
        return load_run_config(ROOT / "lvm" / "recipes" / "wrong_head_only.toml", base)
    if name == FLATTER:
        return replace(base, recipe=base.recipe.with_changes({"objective.temperature": 0.15}))
    return base


def outcome(name: str, seed: int) -> Outcome:
    """Run one triage."""
    world = linear_world.linear(seed)
    with tempfile.TemporaryDirectory() as folder:
        stop, journal = tiny.triage(Path(folder), world.dataset, config_of(name, seed))
    judged, gates = _confirmed(journal)
    test = world.dataset.test
    rows = journal.events.last(Ladder, split="test").rows
    ladder = {name: row.masked for name, row in rows.items() if name != "oracle"}
    best = max(ladder, key=lambda name: ladder[name]["eval_cosine"])
    return Outcome(
        answer=f"{stop.verdict} {'+'.join(stop.cause)}".strip(),
        optimum=world.cosine(world.optimum(test), test),
        model=judged.masked,
        space=judged.space,
        ar_only=journal.events.last(TestJudged, name="AR-only").evaluation.masked,
        rung=best,
        ladder=ladder[best],
        gains={g.metric: g.estimate for g in gates if g.gate == "success" and g.estimate},
    )


def _confirmed(journal: Journal) -> tuple[Evaluation, list[GateResult]]:
    """Return the evaluation and the gates of the model that the last verdict is about."""
    confirmed = journal.events.last(Confirmed)
    if confirmed is None:
        model = journal.events.last(TestJudged, name="InfoNCE+AR")
        return model.evaluation, journal.events.last(Phase1Judged).gates
    model = journal.events.last(TestJudged, arm=confirmed.spec)
    return model.evaluation, confirmed.gates


def main() -> None:
    """Print the tables, and keep them when told to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"keep the output in {OUT}")
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds per recipe")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    show(report(arguments.seeds), OUT if arguments.write else None)


def report(seeds: int) -> Iterator[str]:
    """Yield the report line by line."""
    yield from origin(
        "The linear world",
        __doc__.splitlines()[0],
        f"python benchmarks/known_optimum.py --write --seeds {seeds}",
    )
    yield (
        "x_next = normalise(A x + noise), and normalise(A x) is the best prediction by cosine: the "
        "optimum below (tests/linear_world.py). `ratio` is the cosine of the model that the "
        "verdict is about, as a share of the optimum's; gains are over AR-only, with 95 % "
        "intervals. All of it on the test split."
    )
    yield ""
    counts = {}
    for name, about in RECIPES.items():
        yield from (f"## Recipe: {name}", "", about, "")
        yield (
            "| seed | verdict and cause | optimum | model | ratio | R@5 | AR-only cosine, R@5 "
            "| best rung: cosine, R@5 | gain in R@5 | gain in MRR |"
        )
        yield "|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|"
        counts[name] = 0
        for seed in range(seeds):
            found = outcome(name, seed)
            counts[name] += found.near_and_passed
            yield f"| {seed} | {found} |"
        yield ""
    told = ", ".join(f"{name} {count} of {seeds}" for name, count in counts.items())
    yield f"At least {100 * NEAR:g} % of the optimum's cosine, and PASSED or FIXED: {told}."


RECIPES = {
    RIGHT: "The report's objective in the raw space: InfoNCE .7 at temperature .07, AR .3.",
    HEAD_ONLY: (
        "The report's objective as it was: the same, but InfoNCE acts through the projection head "
        "only (lvm/recipes/wrong_head_only.toml). A step has to fix it."
    ),
    FLATTER: "The right recipe at the flattest temperature of the report's sweep, for comparison.",
}


if __name__ == "__main__":
    main()
