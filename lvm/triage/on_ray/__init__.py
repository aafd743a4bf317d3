"""The door to ray.tune: the arms of every step as trials of one Tune experiment.

    from lvm.triage.on_ray import RayExecutor

The executor is light to import: Ray itself is imported when it starts.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lvm.core.config.run import ScheduleConfig
from lvm.core.errors import ClusterError, ClusterLostError
from lvm.core.plugins import PackedPlugins, loaded, packed
from lvm.data.windows import Dataset
from lvm.triage.local_head import LocalHead
from lvm.triage.on_ray.cluster import (
    check,
    connect,
    count_slots,
    in_words,
    local_resources,
    spare_cpus,
)
from lvm.triage.on_ray.desk import Desk
from lvm.triage.on_ray.early import EarlyJoin, plain_processes
from lvm.triage.on_ray.handles import Experiment, Ray, Ref, Trial
from lvm.triage.on_ray.pulse import Pulse, leave_without_ray, pulse_of
from lvm.triage.on_ray.quiet import import_ray, silenced
from lvm.triage.race import Race

if TYPE_CHECKING:  # its readers import Ray
    from lvm.triage.on_ray.shared import Common

STOP_SECONDS = 20.0


class RayExecutor:
    """Runs arms as Ray Tune trials on a local or remote cluster."""

    elsewhere = True

    def __init__(
        self,
        storage: Path,
        *,
        address: str | None,
        schedule: ScheduleConfig,
        head: LocalHead | None = None,
    ) -> None:
        self._storage, self._address, self._schedule = storage, address, schedule
        self._head, self._own_head = head, False
        self._desk = Desk(schedule)
        self._thread: threading.Thread | None = None
        self._shared: tuple[Dataset, Ref[Dataset]] | None = None
        self._plugins: Ref[PackedPlugins] | None = None  # that this process has imported
        self._connected = self._lost = False
        self._spare = 0  # CPUs that a cluster started here counts and does not have
        self._pulse: Pulse | None = None
        self._early: EarlyJoin | None = None
        self._quiet = contextlib.ExitStack()  # until the run is over, whatever Tune's thread does
        self.nodes: dict[str, dict[str, str]] = {}  # what runs on each node, found at the start

    def begin(self) -> None:
        """Let a cluster on this machine start, if one is needed, and go on meanwhile."""
        ray = sys.modules.get("ray")
        if self._address is None and (ray is None or not ray.is_initialized()):
            if self._head is None:
                self._head, self._own_head = LocalHead(), True
            self._head.ask(*local_resources(self._schedule))

    def start(self) -> None:
        """Connect to `address`, or to a local cluster that only this machine can reach.

        Raises ClusterError when there is no cluster, it is too small and will not grow, or some
        node computes with other code.
        """
        self.begin()
        if self._head is not None:
            self._early = EarlyJoin(self._head, self._schedule)
        ray = import_ray()
        if self._early is not None:
            self._early.wait()
            self._early = None
            self._connected, self._spare = True, spare_cpus(self._schedule)
        elif not ray.is_initialized():
            connect(ray, self._address, self._schedule, None)
            self._connected = True
        self.nodes = check(ray, self._address, self._storage, self._schedule)
        self._open()

    def _open(self) -> None:
        """Start Tune."""
        self._quiet.enter_context(silenced())
        if self._head is not None:
            self._quiet.enter_context(plain_processes())
        self._thread = threading.Thread(target=self._tune, name="tune", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End what runs and disconnect; a cluster that was started here ends."""
        self._desk.close()
        if self._thread is not None and not self._lost:
            self._thread.join(STOP_SECONDS)
        self._thread = None
        self._quiet.close()
        if self._early is not None:
            self._connected |= self._early.end()
            self._early = None
        if self._connected and not self._lost:
            self._shared = self._pulse = self._plugins = None
            with _no_collection():
                import_ray().shutdown()
            self._connected = False
        if self._head is not None:
            (self._head.close if self._own_head else self._head.leave)()
            self._head = None

    def describe(self) -> str:
        """Return one line that says where arms run."""
        return in_words(import_ray(), self._address, self._spare)

    def run(self, race: Race, dataset: Dataset) -> None:
        """Run every arm of the race until it has ended."""
        ray = import_ray()
        self._share(ray, dataset)
        workers = max((spec.workers for spec in race.waiting), default=1)
        self._desk.capacity = count_slots(ray, self._schedule, workers, self._spare)
        try:
            self._desk.serve(race, self._check_pulse)
        except ClusterLostError:
            self._lost = True
            leave_without_ray()
            raise

    def _check_pulse(self) -> None:
        if self._pulse is None:
            self._pulse = pulse_of(import_ray())
        self._pulse.check()

    def _tune(self) -> None:
        """Serve the desk with one Tune experiment until it closes."""
        try:
            self._experiment().fit()
        except BaseException as error:
            self._desk.fail(error)
        self._desk.fail(ClusterError("Ray Tune ended before the run did; continue with --resume."))

    def _experiment(self) -> Experiment:
        from ray import tune

        from lvm.triage.on_ray.nodes import difference, facts
        from lvm.triage.on_ray.scheduler import ArmSource, DeskScheduler, EndWhenClosed
        from lvm.triage.on_ray.trainable import ArmTrial

        here = facts()

        def check_code(there: Mapping[str, str]) -> None:
            if sentence := difference(here, there, there["host"]):
                raise ClusterError(sentence)

        experiment: Experiment = tune.Tuner(
            ArmTrial,
            tune_config=tune.TuneConfig(
                search_alg=ArmSource(self._desk, self._common),
                scheduler=DeskScheduler(self._desk, check_code, self._storage / "stacks"),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name=f"run-{uuid.uuid4().hex[:8]}",
                storage_path=str(self._storage),
                verbose=0,
                stop=EndWhenClosed(self._desk),
                failure_config=tune.FailureConfig(max_failures=0),
            ),
        )
        return experiment

    def _common(self) -> Common:
        """Return what every trial is given besides its arm."""
        from lvm.triage.on_ray.shared import Common

        assert self._shared is not None  # a race is served
        return Common(
            data=self._shared[1],
            plugins=self._plugins,
            schedule=self._schedule,
            spare=self._spare,
        )

    def _share(self, ray: Ray, dataset: Dataset) -> None:
        """Put the data into the object store once; trials on one node map the same memory."""
        if self._shared is None or self._shared[0] is not dataset:
            from lvm.triage.on_ray.shared import pack

            self._shared = (dataset, ray.put(pack(dataset)))
            self._plugins = ray.put(packed()) if loaded() else None


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Free now what Tune leaves behind, and nothing while Ray ends.

    It leaves cycles that hold actors. Freed during Ray's end, by whichever thread is collecting,
    they ask a core that is gone, which ends this process on the spot, with status 1.
    """
    collects = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _trial_name(trial: Trial) -> str:
    from lvm.triage.on_ray.shared import Task

    return f"{Task.of(trial.config).spec.id}_{trial.trial_id}"
