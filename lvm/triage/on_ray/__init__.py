"""The door to ray.tune: the arms of a step as Tune trials, stopped at the rungs."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path
from typing import Any

from lvm.config import ScheduleConfig
from lvm.data.windows import Dataset
from lvm.records import StopReason
from lvm.triage.on_ray.cluster import check, connect, in_words, trial_resources
from lvm.triage.on_ray.quiet import ender, import_ray, noticing_ctrl_c, silenced
from lvm.triage.on_ray.scheduler import rung_scheduler
from lvm.triage.on_ray.trial import pack, run_trial
from lvm.triage.race import Race

MAX_FAILURES = 2  # restarts of a trial whose node or process went away; it resumes by itself


class RayExecutor:
    """Runs arms as Ray Tune trials on a local or remote cluster."""

    def __init__(self, storage: Path, *, address: str | None, schedule: ScheduleConfig) -> None:
        self._storage, self._address, self._schedule = storage, address, schedule
        self._shared: tuple[Dataset, Any] | None = None
        self._started_here = False

    def start(self) -> None:
        """Connect to `address`, or start a local cluster that only this machine can reach.

        Raises ClusterError when there is no cluster, or it is too small and will not grow.
        """
        ray = import_ray()
        if not ray.is_initialized():
            connect(ray, self._address, self._schedule)
            self._started_here = True
        check(ray, self._address, self._storage, self._schedule)

    def stop(self) -> None:
        """Disconnect; a cluster that was started here ends."""
        if self._started_here:
            import_ray().shutdown()
            self._started_here = False

    def describe(self) -> str:
        """Return one line that says where arms run."""
        return in_words(import_ray(), self._address)

    def run(self, race: Race, dataset: Dataset) -> None:
        """Run every arm of the race as one Tune experiment."""
        ray = import_ray()
        from ray import tune

        specs = race.waiting
        reference = self._share(ray, dataset)
        name = f"{race.step}-{uuid.uuid4().hex[:8]}"
        trainable = tune.with_resources(
            tune.with_parameters(run_trial, data=reference),
            trial_resources(ray, specs, self._schedule),
        )
        pressed = threading.Event()
        tuner = tune.Tuner(
            trainable,
            param_space={"spec": tune.grid_search([spec.to_plain() for spec in specs])},
            tune_config=tune.TuneConfig(
                scheduler=rung_scheduler(race),
                max_concurrent_trials=self._schedule.max_concurrent_arms,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(self._storage),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
                callbacks=[ender(pressed)],
            ),
        )
        with silenced(), noticing_ctrl_c(pressed):
            tuner.fit()
        for arm, lane in race.lanes.items():
            if lane.ending is None:
                race.failed(arm, StopReason.CRASHED, "the trial ended without a last report")

    def _share(self, ray: Any, dataset: Dataset) -> Any:
        """Put the data into the object store once; trials on one node map the same memory."""
        if self._shared is None or self._shared[0] is not dataset:
            self._shared = (dataset, ray.put(pack(dataset)))
        return self._shared[1]
