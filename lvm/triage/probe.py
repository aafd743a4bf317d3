"""What a triage is made of, timed on this machine and under its present load.

A few updates of every recipe that would be trained, one evaluation on dev and one on test, and the
start of a process.
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

import torch

from lvm.core.config.plain import fingerprint
from lvm.core.config.recipe import Recipe
from lvm.core.config.run import RunConfig, ScheduleConfig
from lvm.core.cores import usable_cores
from lvm.core.device import claim_if_there
from lvm.core.errors import LvmError
from lvm.data.windows import Dataset, recut
from lvm.models.predictor import Predictor
from lvm.training.loop import time_updates
from lvm.triage.arm import ArmSpec, evaluate_test, validate
from lvm.triage.plan import PlannedRace
from lvm.triage.step import Role

PROBE_SECONDS = 25.0  # after these the recipes left are taken to cost what the base recipe costs
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


def recipe_key(recipe: Recipe) -> str:
    """Return what decides the cost of an update: the recipe without its epochs and seed."""
    plain = recipe.with_changes({"training.epochs": 1, "seed": 0})
    return fingerprint(plain)


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
    """Give this thread the niceness of Ray's workers: next to other programs they get less."""
    with contextlib.suppress(OSError, AttributeError):  # not Linux: a thread has no priority there
        nice = int(os.environ.get("RAY_worker_niceness", WORKER_NICENESS))  # noqa: SIM112  # Ray's
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)


def _probe(
    config: RunConfig, dataset: Dataset, races: Sequence[PlannedRace], limit: float
) -> Costs:
    began, threads = time.perf_counter(), torch.get_num_threads()
    torch.set_num_threads(config.schedule.threads_per_worker)
    device = claim_if_there(config.schedule.use_gpu)
    try:
        dev, test = _evaluations(config, dataset, str(device))
        update, epoch = _updates(config, dataset, races, str(device), began + limit)
    finally:
        torch.set_num_threads(threads)
        dataset.bank.leave(device)  # the arms need the room
    start = _start_seconds()
    return Costs(
        update=update,
        epoch=epoch,
        dev=dev,
        test=test,
        start=start,
        probe=time.perf_counter() - began,
    )


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
            id="probe",
            step="probe",
            name="probe",
            role=Role.ARM,
            recipe=config.recipe,
            folder=Path(folder),
            gates=config.gates,
            device=device,
        )
        seconds = []
        for measure in (
            lambda: validate(spec, dataset, predictor, 1),
            lambda: evaluate_test(spec, dataset, predictor),
        ):
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
    return max(1, usable_cores() // schedule.threads_per_worker)
