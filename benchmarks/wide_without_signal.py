"""How often is one of 200 arms called a fix where no arm can be one?

    python benchmarks/wide_without_signal.py [--seeds 60] [--first 0] [--write]

A seed is a whole triage in the world without signal (tests/worlds.py): phase 1, one step whose
sweep draws 200 arms over learning rate, temperature, contrastive weight and weight decay, rungs,
confirmation of whatever the gates let through. Two triages run at a time, each in one process on
one thread. `--write` keeps the output in reports/statistics/.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from scipy.stats import beta

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]  # the worlds are test data

import tiny  # noqa: E402  # found through the path above
import worlds  # noqa: E402
from keep import REPORTS, main_by_seed, origin  # noqa: E402

from lvm.core.config.read_steps import own_steps_of  # noqa: E402
from lvm.core.config.run import RunConfig  # noqa: E402
from lvm.jobs.options import TriageOptions  # noqa: E402
from lvm.jobs.steps import chosen_steps  # noqa: E402
from lvm.triage.events import ArmJudged, Confirmed  # noqa: E402

OUT = REPORTS / "statistics" / "wide_without_signal.md"
ARMS, AT_ONCE = 200, 2
STEP = {
    "name": "tuned",
    "question": "Is the network badly tuned?",
    "budget": 4,
    "sweep": {
        "arms": ARMS,
        "sampler": "sobol",
        "training.learning_rate": {"log_uniform": [1e-4, 5e-2]},
        "training.weight_decay": {"log_uniform": [1e-5, 1e-1]},
        "objective.temperature": {"log_uniform": [0.01, 0.5]},
        "objective.contrastive_weight": {"log_uniform": [0.02, 1.0]},
    },
}


def main() -> None:
    """Print a line per triage, and how many were wrong."""
    main_by_seed(__doc__.splitlines()[0], "world", OUT, report)


def report(seeds: range, flags: str) -> Iterator[str]:
    """Yield the report line by line."""
    command = f"python benchmarks/wide_without_signal.py {flags}"
    yield from origin("200 arms without signal", __doc__.splitlines()[0], command)
    yield f"`beat` counts those of the {ARMS} arms whose gain in MRR over the control is above zero"
    yield "by its own interval, before any correction; `confirmed` the arms trained in full."
    yield ""
    yield "| seed | verdict | beat | confirmed |"
    yield "|--:|---|--:|--:|"
    verdicts: Counter[str] = Counter()
    with multiprocessing.get_context("spawn").Pool(AT_ONCE) as pool:
        for seed, (verdict, beat, confirmed) in zip(seeds, pool.imap(triage, seeds), strict=True):
            verdicts[verdict] += 1
            yield f"| {seed} | {verdict} | {beat} | {confirmed} |"
    wrong = verdicts["FIXED"] + verdicts["PASSED"]
    upper = float(beta.ppf(0.95, wrong + 1, len(seeds) - wrong))
    yield ""
    yield f"- {wrong} of {len(seeds)} runs PASSED or FIXED: at most {upper:.1%}, with 95 %"
    told = ", ".join(f"{verdict}: {number}" for verdict, number in verdicts.most_common())
    yield f"  confidence (Clopper and Pearson). {told}."


def triage(seed: int) -> tuple[str, int, int]:
    """Run one triage; return its verdict, arms that beat their control alone, and confirmations."""
    torch.set_num_threads(1)
    config = config_of(seed)
    steps = chosen_steps(TriageOptions(steps=("tuned",)), config).steps
    with tempfile.TemporaryDirectory() as folder:
        world = worlds.without_signal(seed).dataset
        stop, journal = tiny.triage(Path(folder), world, config, steps=steps, all_steps=True)
        judged = [e for e in journal.events.of(ArmJudged, step="tuned") if e.role == "arm"]
        gains = [g for e in judged for g in e.gains if g.metric == "mrr" and g.estimate]
        beat = sum(g.estimate is not None and g.estimate.lower > 0 for g in gains)
        confirmed = journal.events.of(Confirmed)
    return str(stop.verdict), beat, len(confirmed)


def config_of(seed: int) -> RunConfig:
    """Return the right recipe with the step of 200 arms."""
    base = worlds.base_config(seed)
    schedule = replace(base.schedule, first_rung=1, rule="asynchronous")
    return replace(base, schedule=schedule, steps=own_steps_of([STEP]))


if __name__ == "__main__":
    main()
