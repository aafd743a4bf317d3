"""What arms on few slots cost: epochs, seconds and memory, beside one process that takes turns.

    python benchmarks/slots.py [--write] [--many 500]

Arms pause at their rungs and hand their process on, so early stopping has to save as much on one
slot as on many: the epochs of each row are those of `LocalExecutor`, and the same arms are pruned.
`--many N` runs N tiny arms of two epochs through one step on two slots and samples the memory of
the driver. `--write` keeps the tables in reports/slots/. Some ten minutes with --many 500.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

import linear_bank  # noqa: E402  # found through the path above
import tiny  # noqa: E402
from keep import REPORTS, origin, show  # noqa: E402

from lvm.core.config.run import GateConfig, ScheduleConfig  # noqa: E402
from lvm.data.windows import Dataset, dataset_from_bank  # noqa: E402
from lvm.triage.arm import ArmSpec  # noqa: E402
from lvm.triage.local import LocalExecutor  # noqa: E402
from lvm.triage.on_ray import RayExecutor  # noqa: E402
from lvm.triage.race import Executor, Race, race_of  # noqa: E402
from lvm.triage.step import Role  # noqa: E402

OUT = REPORTS / "slots" / "slots.md"
CASES = ((5, 1), (5, 2), (31, 6))  # arms, slots
BUDGET = 8
GATES = GateConfig(stage_eval_cosine=0.999)


def main() -> None:
    """Print the tables."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--many", type=int, default=0, metavar="N")
    p.add_argument("--write", action="store_true")
    args = p.parse_args()
    show(report(args.many), OUT if args.write else None)


def report(many: int) -> Iterator[str]:
    """Yield the report."""
    question = "what do arms on few slots cost, beside one process that takes turns?"
    command = f"python benchmarks/slots.py{f' --many {many}' if many else ''}"
    yield from origin("Arms on few slots", question, command)
    split = {name: list(articles) for name, articles in linear_bank.SPLIT.items()}
    bank = replace(linear_bank.linear_world(), manifest={"split": split})
    dataset = dataset_from_bank(bank, 5)
    yield "| arms | slots | where | epochs trained | of | pruned | seconds |"
    yield "|---|---|---|---|---|---|---|"
    for arms, slots in CASES:
        yield from _case(dataset, arms, slots)
    if many:
        yield ""
        yield from _many(dataset, many)


@dataclass
class Ran:
    """A race that is over."""

    race: Race
    epochs: int
    seconds: float

    @property
    def pruned(self) -> list[str]:
        """The arms that a rung has ended."""
        lanes = self.race.lanes.items()
        return [arm for arm, lane in lanes if lane.ending and lane.ending.reason == "pruned"]


def _case(dataset: Dataset, arms: int, slots: int) -> Iterator[str]:
    schedule = ScheduleConfig(first_rung=2, max_concurrent_arms=slots, threads_per_worker=1)
    with tempfile.TemporaryDirectory() as name:
        here = _run(LocalExecutor(), dataset, arms, schedule, Path(name) / "here", BUDGET)
        executor = RayExecutor(Path(name) / "tune", address=None, schedule=schedule)
        executor.start()
        try:
            there = _run(executor, dataset, arms, schedule, Path(name) / "there", BUDGET)
        finally:
            executor.stop()
    for where, ran in (("this process", here), ("Ray", there)):
        pruned = "the same" if ran.pruned == here.pruned else "OTHERS"
        yield (
            f"| {arms} | {slots} | {where} | {ran.epochs} | {arms * BUDGET} | {len(ran.pruned)}, "
            f"{pruned} | {ran.seconds:.0f} |"
        )


def _many(dataset: Dataset, arms: int) -> Iterator[str]:
    schedule = ScheduleConfig(first_rung=1, max_concurrent_arms=2)
    memory: list[tuple[int, float]] = []  # arms that have ended, MB of the driver
    process = psutil.Process()

    def note(event: str, **values: Any) -> None:
        if event == "epoch" and values["epoch"] == 1:
            memory.append((len(memory) + 1, process.memory_info().rss / 1e6))

    with tempfile.TemporaryDirectory() as name:
        executor = RayExecutor(Path(name) / "tune", address=None, schedule=schedule)
        executor.start()
        try:
            ran = _run(executor, dataset, arms, schedule, Path(name) / "many", 2, note)
        finally:
            executor.stop()
    train = sum(lane.train_seconds for lane in ran.race.lanes.values())
    half = np.array(memory[len(memory) // 4 :])
    slope = float(np.polyfit(half[:, 0], half[:, 1], 1)[0])
    yield f"{arms} arms of two epochs on two slots: {ran.seconds:.0f} s, {train:.0f} s of training;"
    yield f"{(ran.seconds - train / 2) / arms:.2f} s an arm beside its training, "
    yield f"{slope:.2f} MB of the driver's memory an arm."


def _run(
    executor: Executor,
    dataset: Dataset,
    arms: int,
    schedule: ScheduleConfig,
    folder: Path,
    budget: int,
    note: Any = lambda event, **values: None,
) -> Ran:
    specs = [_arm(i, arms, folder, budget) for i in range(arms)]
    race = race_of("slots", specs, note, budget=budget, schedule=schedule)
    started = time.perf_counter()
    executor.run(race, dataset)
    seconds = time.perf_counter() - started
    epochs = sum(
        len((spec.folder / "epochs.jsonl").read_text().splitlines())
        for spec in specs
        if (spec.folder / "epochs.jsonl").exists()
    )
    return Ran(race, epochs, seconds)


def _arm(number: int, arms: int, folder: Path, budget: int) -> ArmSpec:
    rate = 10 ** (-4 + 2.5 * number / max(1, arms - 1))
    recipe = tiny.recipe(
        **{"training.epochs": budget, "training.learning_rate": rate, "objective.space": "raw"}
    )
    return ArmSpec(
        id=f"{number:04d}",
        step="slots",
        name=f"rate {rate:.1e}",
        role=Role.CONTROL if number == 0 else Role.ARM,
        recipe=recipe,
        folder=folder / f"{number:04d}",
        gates=GATES,
    )


if __name__ == "__main__":
    main()
