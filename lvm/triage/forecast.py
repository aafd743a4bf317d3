"""How long a triage will take, said before it starts.

A short probe times a few updates of every recipe that would be trained, one evaluation on dev and
one on test, and the start of a process, on this machine and under its present load. From these and
the schedule follows the time of every race of the tree:

    race = start of its trials + sum over rungs of max(longest arm, all arms' work / slots)

What nobody knows beforehand is how many steps send an arm to a full training, so the forecast is a
range: no step does, or every step does. Where a fix ends the run, it is the first step or none. The
number that is named is the geometric mean of the two.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lvm.config import Recipe, RunConfig, ScheduleConfig, fingerprint
from lvm.data.windows import Dataset, recut
from lvm.errors import DataError, LvmError
from lvm.models.predictor import Predictor
from lvm.training.loop import time_updates
from lvm.triage.arm import ArmSpec, evaluate_test, validate
from lvm.triage.rungs import rung_epochs
from lvm.triage.step import Facts, Role, Step

PROBE_SECONDS = 25.0  # after these the recipes left are taken to cost what the base recipe costs
LADDER_RUNGS = 7  # predictors without training, each judged on dev and on test
INSPECTION = 6.0  # a look at the model of phase 1, in evaluations on dev
RAY_START, TUNE_START, TRAIN_START = 8.0, 3.0, 15.0  # seconds beside the start of processes
WORKER_EFFICIENCY = 0.5  # of a worker of several, measured with two on two cores
BETWEEN_RACES = 1.5  # judging, MLflow
WORKER_NICENESS = 15  # Ray's own default
IMPORTS = "import ray.tune, lvm.triage.arm"


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What the probe measured, in seconds, one process alone on this machine."""

    update: Mapping[str, float]  # recipe -> one update; the base recipe is under ""
    epoch: Mapping[str, float]  # recipe -> what an epoch does before its updates
    dev: float  # one evaluation on dev
    test: float  # one on test, with all that is measured there
    start: float  # a fresh process with its imports
    probe: float  # the probe itself

    def of(self, recipe: Recipe, num_windows: int) -> float:
        """Return the seconds of one epoch with its evaluation."""
        key = recipe_key(recipe)
        key = key if key in self.update else ""
        updates = num_windows // recipe.training.batch_size
        return updates * self.update[key] + self.epoch[key] + self.dev


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One arm that would be trained, or searched with a checkpoint that is there."""

    recipe: Recipe  # training.epochs is the budget
    trains: bool = True
    pruned: bool = True  # whether the rungs may end it before its budget
    test: bool = False
    workers: int = 1
    num_windows: int = 0  # train windows, 0 for those of the data as it is


@dataclass(frozen=True, kw_only=True)
class PlannedRace:
    """The arms of one step side by side."""

    name: str
    arms: Sequence[Planned]
    certain: bool = True  # False: a full training that the step may not ask for


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Seconds from the forecast to the verdict."""

    seconds: float
    lower: float
    upper: float
    parts: Mapping[str, float]  # race -> seconds, the uncertain ones included
    costs: Costs

    def in_words(self) -> str:
        """Return one line for the person who waits."""
        return (
            f"this will take about {_minutes(self.seconds)}, {_minutes(self.lower)} at least and "
            f"{_minutes(self.upper)} at most, by how many steps ask for a full training (measured "
            f"in {self.costs.probe:.0f} s under the present load)"
        )

    def to_plain(self) -> dict[str, Any]:
        """Return the values for the journal."""
        costs = self.costs
        return {
            "seconds": round(self.seconds, 1),
            "lower": round(self.lower, 1),
            "upper": round(self.upper, 1),
            "parts": {name: round(value, 1) for name, value in self.parts.items()},
            "probe": {
                "seconds": round(costs.probe, 1),
                "update_seconds": round(costs.update[""], 4),
                "dev_seconds": round(costs.dev, 3),
                "test_seconds": round(costs.test, 3),
                "start_seconds": round(costs.start, 3),
            },
        }


def recipe_key(recipe: Recipe) -> str:
    """Return what decides the cost of an update: the recipe without its epochs and seed."""
    plain = recipe.with_changes({"training.epochs": 1, "seed": 0})
    return fingerprint(plain)


# --- the plan -------------------------------------------------------------------------------------


def plan_races(
    config: RunConfig, steps: Sequence[Step], extended: Sequence[Step], dataset: Dataset, *,
    all_steps: bool, from_bank: bool = True, given: bool = False, more_seeds: Sequence[int] = (),
) -> list[PlannedRace]:  # fmt: skip
    """Return every race that a triage could run, each arm once.

    Without `all_steps` a run may end with the first step and its full training. `given` says that
    the base recipe's model is handed in and not trained.
    """
    base, schedule = config.recipe, config.schedule
    phase1 = [Planned(recipe=base.ar_only(), pruned=False, test=True)]
    phase1.append(Planned(recipe=base, trains=not given, pruned=False, test=True))
    races, known = [PlannedRace(name="phase 1", arms=phase1)], {arm_key(arm) for arm in phase1}
    facts = Facts(
        num_train_windows=len(dataset.train),
        width=dataset.bank.width,
        why_not_cut=lambda t: _why_not_cut(dataset, t, from_bank=from_bank),
    )
    for step in (*steps, *extended):
        budgeted = base.with_changes({"training.epochs": step.epochs(schedule)})
        proposal = step.propose(budgeted, facts)
        cut = max([int(str(a.changes.get("context_length", 0))) for a in proposal.arms], default=0)
        windows = len(recut(dataset, cut).train) if cut > base.context_length else 0
        arms = [
            Planned(
                recipe=budgeted.with_changes(arm.changes), trains=arm.trains,
                pruned=not step.extended, num_windows=windows,
            )
            for arm in proposal.arms
        ]  # fmt: skip
        if any(arm.trains for arm in arms):
            control = budgeted.with_changes(proposal.control)
            arms.append(Planned(recipe=control, pruned=False, num_windows=windows))
        arms = [arm for arm in arms if arm_key(arm) not in known]
        known |= {arm_key(arm) for arm in arms}
        ends_it = not all_steps and step is steps[0]
        certain = all_steps or step.extended or ends_it
        races.append(PlannedRace(name=step.name, arms=arms, certain=certain))
        if not step.extended and arms:
            full = _full_training(base, schedule, with_control=given)
            races.append(PlannedRace(name=f"confirm {step.name}", arms=full, certain=ends_it))
    if all_steps:
        full = _full_training(base, schedule, with_control=False)
        races.append(PlannedRace(name="confirm combination", arms=full, certain=False))
    races += [_another_seed(base, schedule, seed) for seed in more_seeds]
    return [race for race in races if race.arms]


def arm_key(arm: Planned) -> str:
    """Return what tells two planned arms apart."""
    return f"{fingerprint(arm.recipe)} {arm.trains} {arm.num_windows}"


def _full_training(base: Recipe, schedule: ScheduleConfig, *, with_control: bool) -> list[Planned]:
    arm = Planned(recipe=base, pruned=False, test=True, workers=schedule.confirm_workers)
    return [arm, arm] if with_control else [arm]


def _another_seed(base: Recipe, schedule: ScheduleConfig, seed: int) -> PlannedRace:
    """AR-only, the base recipe, and what the verdict rests on: taken to be a confirmed arm."""
    again = base.with_changes({"seed": seed})
    arms = [Planned(recipe=r, pruned=False, test=True) for r in (again.ar_only(), again)]
    confirmed = Planned(recipe=again, pruned=False, test=True, workers=schedule.confirm_workers)
    return PlannedRace(name=f"seed {seed}", arms=[*arms, confirmed])


def _why_not_cut(dataset: Dataset, context_length: int, *, from_bank: bool) -> str:
    if not from_bank:
        return "the windows were given"
    try:
        recut(dataset, context_length)
    except DataError as error:
        return str(error)
    return ""


# --- the arithmetic -------------------------------------------------------------------------------


def forecast(
    races: Sequence[PlannedRace], costs: Costs, schedule: ScheduleConfig, *, num_windows: int,
    slots: int,
) -> Forecast:  # fmt: skip
    """Return the time of `races` on `slots` cores (or GPUs)."""
    parts = {
        race.name: race_seconds(race, costs, schedule, num_windows=num_windows, slots=slots)
        for race in races
    }
    before = RAY_START + LADDER_RUNGS * (costs.dev + costs.test / 2) + INSPECTION * costs.dev
    lower = before + sum(parts[race.name] for race in races if race.certain)
    upper = before + sum(parts.values())
    return Forecast(
        seconds=(lower * upper) ** 0.5,
        lower=lower,
        upper=upper,
        parts={"before phase 1": before, **parts},
        costs=costs,
    )


def race_seconds(
    race: PlannedRace, costs: Costs, schedule: ScheduleConfig, *, num_windows: int, slots: int
) -> float:
    """Return the time of one race."""
    trained = [arm for arm in race.arms if arm.trains]
    at_once = max(1, min(slots, schedule.max_concurrent_arms))
    workers = max((arm.workers for arm in race.arms), default=1)
    processes = sum(arm.workers for arm in race.arms)
    seconds = BETWEEN_RACES + TUNE_START + costs.start * max(1.0, processes / at_once)
    if workers > 1:
        seconds += TRAIN_START + costs.start
    done = 0
    budget = max((arm.recipe.training.epochs for arm in trained), default=0)
    epochs = rung_epochs(schedule.first_rung, budget, schedule.reduction_factor) if budget else []
    alive = list(trained)
    for epoch in epochs:
        work = [
            (min(epoch, arm.recipe.training.epochs) - done)
            * _epoch_seconds(arm, costs, num_windows)
            for arm in alive
        ]
        seconds += max(max(work, default=0.0), sum(work) / at_once)
        done = epoch
        alive = _survivors(alive, schedule.reduction_factor)
    tests = [
        costs.test if arm.test else costs.dev for arm in race.arms if arm.test or not arm.trains
    ]
    return seconds + max(max(tests, default=0.0), sum(tests) / at_once)


def _epoch_seconds(arm: Planned, costs: Costs, num_windows: int) -> float:
    """Return the seconds of an epoch: the workers share the updates, one of them evaluates."""
    whole = costs.of(arm.recipe, arm.num_windows or num_windows)
    share = 1.0 if arm.workers == 1 else 1.0 / (WORKER_EFFICIENCY * arm.workers)
    return (whole - costs.dev) * share + costs.dev


def _survivors(alive: Sequence[Planned], factor: int) -> list[Planned]:
    judged = [arm for arm in alive if arm.pruned]
    gone = judged[max(1, len(judged) // factor) :]
    return [arm for arm in alive if all(arm is not other for other in gone)]


# --- the probe ------------------------------------------------------------------------------------


def probe(
    config: RunConfig,
    dataset: Dataset,
    races: Sequence[PlannedRace],
    *,
    limit: float = PROBE_SECONDS,
) -> Costs:
    """Time what a triage is made of, in about `limit` seconds, at the priority of a trial."""
    with ThreadPoolExecutor(max_workers=1, initializer=_yield_like_a_trial) as thread:
        return thread.submit(_probe, config, dataset, races, limit).result()


def _yield_like_a_trial() -> None:
    """Give this thread the niceness of Ray's workers: beside other programs they get less."""
    with contextlib.suppress(OSError, AttributeError):  # not Linux: a thread has no priority there
        nice = int(os.environ.get("RAY_worker_niceness", WORKER_NICENESS))  # noqa: SIM112  # Ray's
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)


def _probe(
    config: RunConfig, dataset: Dataset, races: Sequence[PlannedRace], limit: float
) -> Costs:
    began, threads = time.perf_counter(), torch.get_num_threads()
    torch.set_num_threads(config.schedule.threads_per_worker)
    device = "cuda" if config.schedule.use_gpu and torch.cuda.is_available() else "cpu"
    try:
        dev, test = _evaluations(config, dataset, device)
        update, epoch = _updates(config, dataset, races, device, began + limit)
    finally:
        torch.set_num_threads(threads)
    start = _start_seconds()
    return Costs(
        update=update, epoch=epoch, dev=dev, test=test, start=start,
        probe=time.perf_counter() - began,
    )  # fmt: skip


def _updates(
    config: RunConfig, dataset: Dataset, races: Sequence[PlannedRace], device: str, until: float
) -> tuple[dict[str, float], dict[str, float]]:
    update: dict[str, float] = {}
    epoch: dict[str, float] = {}
    update[""], epoch[""] = time_updates(config.recipe, dataset, device=device)
    recipes = {recipe_key(a.recipe): a for race in races for a in race.arms if a.trains}
    for key, arm in recipes.items():
        if time.perf_counter() > until:
            break
        length = arm.recipe.context_length
        data = recut(dataset, length) if length > config.recipe.context_length else dataset
        try:
            update[key], epoch[key] = time_updates(arm.recipe, data, device=device, num_updates=3)
        except LvmError:  # the run will say what is wrong with this arm
            continue
    return update, epoch


def _evaluations(config: RunConfig, dataset: Dataset, device: str) -> tuple[float, float]:
    """Return the seconds of an evaluation on dev and on test, with a network not yet trained."""
    predictor = Predictor(config.recipe, dataset.bank.width).eval().to(device)
    with tempfile.TemporaryDirectory() as folder:
        spec = ArmSpec(
            id="probe", step="probe", name="probe", role=Role.ARM, recipe=config.recipe,
            folder=Path(folder), gates=config.gates, device=device,
        )  # fmt: skip
        seconds = []
        for measure in (lambda: validate(spec, dataset, predictor, 1),
                        lambda: evaluate_test(spec, dataset, predictor)):  # fmt: skip
            started = time.perf_counter()
            measure()
            seconds.append(time.perf_counter() - started)
    return seconds[0], seconds[1]


def _start_seconds() -> float:
    """Return how long a fresh process takes to import what a trial imports."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=False, capture_output=True)
    return time.perf_counter() - started


def slots_here(schedule: ScheduleConfig) -> int:
    """Return how many arms this machine runs at full speed side by side."""
    if schedule.use_gpu and torch.cuda.is_available():
        return max(1, torch.cuda.device_count())
    return max(1, (os.cpu_count() or 1) // schedule.threads_per_worker)


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds >= 600 else f"{seconds / 60:.1f} min"
