"""The door to ray.tune: the arms of a step as Tune trials, stopped at the rungs.

The scheduler is a thin shell around a Race. Tune starts and stops trials; what to stop is decided
by the rungs, in the driver, from the same numbers in whatever order they arrive.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np

from lvm.config import ScheduleConfig
from lvm.data.bank import Bank
from lvm.data.windows import Dataset, Windows
from lvm.errors import ClusterError, LvmError, MissingExtraError, NonFiniteLossError
from lvm.records import StopReason
from lvm.training import distributed
from lvm.training.world import World
from lvm.triage.arm import ArmSpec, run_arm
from lvm.triage.race import Race

CONNECT_SECONDS = 10.0
POLL_SECONDS = 0.1
PLACEMENT_GROUP = "placement_group"  # key under which rank 0 reports what holds its workers
MAX_FAILURES = 2  # restarts of a trial whose node or process went away; it resumes by itself
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # else Ctrl-C ends a step as if its arms crashed
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "64",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


def _ray() -> Any:
    os.environ.update({key: os.environ.get(key, value) for key, value in QUIET.items()})
    try:
        import ray
        import ray.tune
    except ImportError:
        raise MissingExtraError("ray[default,tune,train]", "dev", "a triage on Ray") from None
    return ray


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
        ray = _ray()
        if not ray.is_initialized():
            self._connect(ray)
        self._check(ray)

    @property
    def _min_cpus(self) -> float:
        schedule = self._schedule
        workers = max(schedule.confirm_workers, schedule.workers_per_arm)
        return distributed.CPU_SHARE * workers * schedule.threads_per_worker

    def _connect(self, ray: Any) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self._address is None:
            cpus = max(os.cpu_count() or 1, int(np.ceil(self._min_cpus)))
            options |= {"num_cpus": cpus, "include_dashboard": True, "dashboard_host": "127.0.0.1"}
            options |= {"address": "local"}
        else:
            _require_listener(self._address)
            options["address"] = self._address
        try:
            ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
            where = self._address or "this machine"
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error)
            raise ClusterError(
                f"Ray could not be started at {where} ({first}); check the address with "
                "ray status --address ADDRESS, or leave --address out to run locally."
            ) from None
        self._started_here = True

    def _check(self, ray: Any) -> None:
        schedule, total = self._schedule, ray.cluster_resources()
        needed = {"CPU": self._min_cpus}
        if schedule.use_gpu:
            needed["GPU"] = max(schedule.confirm_workers, schedule.workers_per_arm)
        for kind, number in needed.items():
            if total.get(kind, 0) + 1e-6 < number and not schedule.autoscaling:
                remedy = " or set schedule.use_gpu = false" if kind == "GPU" else ""
                raise ClusterError(
                    f"the cluster has {total.get(kind, 0):g} {kind}s, the confirming training "
                    f"needs {number:g}; add nodes, lower schedule.confirm_workers{remedy}."
                )
        if self._address is not None:
            self._check_storage(ray)

    def _check_storage(self, ray: Any) -> None:
        """Refuse a run folder that some node cannot see: its trials would lose their work."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._storage.mkdir(parents=True, exist_ok=True)
        token = self._storage / f".seen-{uuid.uuid4().hex}"
        token.touch()
        seen = ray.remote(num_cpus=0)(lambda path: Path(path).exists())
        try:
            for node in (n for n in ray.nodes() if n["Alive"]):
                strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                task = seen.options(scheduling_strategy=strategy)
                if not ray.get(task.remote(str(token)), timeout=60):
                    raise ClusterError(
                        f"the node {node['NodeManagerAddress']} cannot see {self._storage}; choose "
                        "an --out on a file system that every node mounts."
                    )
        finally:
            token.unlink(missing_ok=True)

    def stop(self) -> None:
        """Disconnect; a cluster that was started here ends."""
        if self._started_here:
            _ray().shutdown()
            self._started_here = False

    def describe(self) -> str:
        """Return one line that says where arms run."""
        resources = _ray().cluster_resources()
        where = self._address or f"local on {socket.gethostname()}"
        gpus = f", {resources['GPU']:g} GPUs" if resources.get("GPU") else ""
        return f"Ray {where}: {resources.get('CPU', 0):g} CPUs{gpus}"

    def run(self, race: Race, dataset: Dataset) -> None:
        """Run every arm of the race as one Tune experiment."""
        ray = _ray()
        from ray import tune

        specs = race.waiting
        reference = self._share(ray, dataset)
        name = f"{race.step}-{uuid.uuid4().hex[:8]}"
        trainable = tune.with_resources(
            tune.with_parameters(_trial, data=reference), self._resources(ray, specs)
        )
        pressed = threading.Event()
        tuner = tune.Tuner(
            trainable,
            param_space={"spec": tune.grid_search([spec.to_plain() for spec in specs])},
            tune_config=tune.TuneConfig(
                scheduler=_scheduler(race), max_concurrent_trials=self._schedule.max_concurrent_arms
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(self._storage),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
                callbacks=[_ender(pressed)],
            ),
        )
        with _silenced(), _noticing_ctrl_c(pressed):
            tuner.fit()
        for arm, lane in race.lanes.items():
            if lane.ending is None:
                race.failed(arm, StopReason.CRASHED, "the trial ended without a last report")

    def _resources(self, ray: Any, specs: list[ArmSpec]) -> dict[str, float]:
        """Share the machine among the arms of a step, so that they meet at the rungs."""
        if any(spec.workers > 1 for spec in specs):
            return {"cpu": 0.01}  # the trial only drives Ray Train workers, which ask for their own
        threads = max(spec.threads for spec in specs)
        if any(spec.device != "cpu" for spec in specs):
            return {"cpu": distributed.CPU_SHARE * threads, "gpu": 1}
        cpus = ray.cluster_resources().get("CPU", 1)
        together = min(len(specs), self._schedule.max_concurrent_arms)
        share = float(np.floor(100 * cpus / together) / 100)
        return {"cpu": max(0.01, min(distributed.CPU_SHARE * threads, share))}

    def _share(self, ray: Any, dataset: Dataset) -> Any:
        """Put the data into the object store once; trials on one node map the same memory."""
        if self._shared is None or self._shared[0] is not dataset:
            self._shared = (dataset, ray.put(_pack(dataset)))
        return self._shared[1]


def _require_listener(address: str) -> None:
    """Raise ClusterError when nothing answers at HOST:PORT: Ray itself would try for ever."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return  # "auto", or something that Ray explains better
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"nothing answers at the Ray address {address} ({error}); check it with ray status "
            "--address ADDRESS on the head node, or leave --address out to run locally."
        ) from None


def _pack(dataset: Dataset) -> dict[str, Any]:
    bank = dataset.bank
    return {
        "vectors": np.ascontiguousarray(bank.vectors),
        "keys": np.ascontiguousarray(bank.keys),
        "duplicates": bank.duplicate_group,
        "fingerprint": bank.fingerprint,
        "pool_size": bank.pool_size,
        "windows": {
            name: (part.contexts, part.targets, part.articles)
            for name in ("train", "dev", "test")
            for part in [dataset.split(name)]
        },
    }


def _unpack(packed: dict[str, Any]) -> Dataset:
    bank = Bank(vectors=packed["vectors"], keys=packed["keys"], pool_size=packed["pool_size"])
    # Both were computed by the driver from the same rows; a trial need not hash them again.
    bank.__dict__["duplicate_group"] = packed["duplicates"]
    bank.__dict__["fingerprint"] = packed["fingerprint"]
    windows = {name: Windows(*arrays) for name, arrays in packed["windows"].items()}
    return Dataset(bank, windows["train"], windows["dev"], windows["test"])


def _trial(config: dict[str, Any], data: dict[str, Any]) -> None:
    """Body of a Tune trial: one arm, here or on Ray Train workers."""
    from ray import tune

    spec = ArmSpec.from_plain(config["spec"])
    if spec.workers == 1 or spec.source is not None:
        for record in _records_or_reason(spec, _unpack(data)):
            tune.report(record)
        return
    for record in _from_workers(spec, data):
        tune.report(record)


def _from_workers(spec: ArmSpec, data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Run an arm on Ray Train workers and yield what rank 0 writes to a file, as it appears.

    Ray's own way from Train to Tune is a queue that is not emptied when the training ends right
    after its last report: the last record could get lost, or the trial wait for ever.
    """
    import ray

    name = f"{spec.id}-{uuid.uuid4().hex[:8]}"
    storage = spec.folder / "ray_train"
    path, told = storage / f"{name}.jsonl", 0
    storage.mkdir(parents=True, exist_ok=True)
    config = {"spec": spec.to_plain(), "data": ray.put(data), "records": str(path)}
    use_gpu = spec.device != "cpu"
    with ThreadPoolExecutor(max_workers=1) as pool:
        training = pool.submit(
            distributed.fit, _worker, config, name=name, storage=storage, workers=spec.workers,
            threads=spec.threads, use_gpu=use_gpu,
        )  # fmt: skip
        over = False
        while not over:
            over = bool(wait([training], timeout=POLL_SECONDS).done)  # before the last look
            whole = path.read_text().split("\n")[:-1] if path.exists() else []
            yield from map(json.loads, whole[told:])
            told = len(whole)
        training.result()  # raises what the workers raised


def _worker(config: dict[str, Any]) -> None:
    """Body of a Ray Train worker: the same arm, in a world of several."""
    import ray

    spec, rank = ArmSpec.from_plain(config["spec"]), World.current().rank
    group = ray.util.get_current_placement_group()
    held = {PLACEMENT_GROUP: group.id.hex()} if group is not None else {}
    for record in _records_or_reason(spec, _unpack(ray.get(config["data"]))):
        if rank == 0:
            with Path(config["records"]).open("a", encoding="utf-8") as file:
                file.write(json.dumps({**record, **held}) + "\n")


def _records_or_reason(spec: ArmSpec, dataset: Dataset) -> Any:
    """Yield the records of an arm; a foreseeable end becomes a last record, not a crash."""
    try:
        yield from run_arm(spec, dataset)
    except NonFiniteLossError as error:
        yield {"ended": str(StopReason.DIVERGED), "detail": str(error)}
    except LvmError as error:
        yield {"ended": str(StopReason.NOT_EVALUABLE), "detail": str(error)}


def _scheduler(race: Race) -> Any:
    """Return a Tune scheduler that forwards reports to the race and stops what it has decided."""
    from ray.tune.schedulers import FIFOScheduler, TrialScheduler

    groups: dict[str, str] = {}  # arm -> placement group of its workers

    class RungScheduler(FIFOScheduler):  # type: ignore[misc]  # ray is untyped
        def __reduce__(self) -> tuple[Any, ...]:
            # Tune pickles its scheduler for its own restore, which is not used: the journal is.
            return (FIFOScheduler, ())

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            arm = trial.config["spec"]["id"]
            if PLACEMENT_GROUP in result:
                groups[arm] = result.pop(PLACEMENT_GROUP)
            if "ended" in result:
                race.failed(arm, StopReason(result["ended"]), result["detail"])
            elif "epoch" in result:
                race.record(arm, _plain_record(result))
            for other in list(tune_controller.get_live_trials()):
                if other is not trial and race.stopped(other.config["spec"]["id"]):
                    with contextlib.suppress(Exception):  # it may have ended by itself meanwhile
                        tune_controller.stop_trial(other)
                    _release(groups.pop(other.config["spec"]["id"], None))
            # An arm at its budget ends by itself, and Ray Train then clears up after itself.
            if not race.stopped(arm) or race.complete(arm):
                return str(TrialScheduler.CONTINUE)
            _release(groups.pop(arm, None))
            return str(TrialScheduler.STOP)

        def on_trial_complete(self, tune_controller: Any, trial: Any, result: Any) -> None:
            _release(groups.pop(trial.config["spec"]["id"], None))

        def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
            if trial.status == trial.ERROR or not trial.should_recover():
                race.failed(trial.config["spec"]["id"], StopReason.CRASHED, _first_line(trial))

    return RungScheduler()


def _release(group: str | None) -> None:
    """Remove the placement group of Ray Train workers whose trial is over.

    Ray's own cleaner asks the dashboard, which cannot tell several Ray clusters on one machine
    apart: the workers' CPUs then stay reserved, and the next step waits for them for ever.
    """
    if group is None:
        return
    from ray._raylet import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))


_TUNE_KEYS = {
    "timestamp", "checkpoint_dir_name", "done", "training_iteration", "trial_id", "date",
    "time_this_iter_s", "time_total_s", "pid", "hostname", "node_ip", "config",
    "time_since_restore", "iterations_since_restore", "experiment_tag", "should_checkpoint",
}  # fmt: skip


def _plain_record(result: dict[str, Any]) -> dict[str, Any]:
    """Drop what Tune adds to a report, and put back the sections that it flattens."""
    record: dict[str, Any] = {}
    for key, value in result.items():
        if key in _TUNE_KEYS or key.startswith("config/"):
            continue
        section, _, name = key.partition("/")
        if name:
            record.setdefault(section, {})[name] = value
        else:
            record[key] = value
    return record


def _first_line(trial: Any) -> str:
    try:
        text = Path(trial.error_file).read_text(errors="replace").strip()
    except (OSError, TypeError):
        return "the trial's process died"
    return text.splitlines()[-1] if text else "the trial's process died"


@contextlib.contextmanager
def _noticing_ctrl_c(pressed: threading.Event) -> Iterator[None]:
    """Turn the first Ctrl-C into an event; the second acts as usual.

    KeyboardInterrupt may be raised anywhere. Raised in a destructor or amid Ray's compiled code it
    would be lost, and the run would go on.
    """
    usual = signal.getsignal(signal.SIGINT)
    if usual is not signal.default_int_handler or not _in_main_thread():
        yield  # somebody else takes care of it, or nobody wants it
        return

    def note(*_: object) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
        if pressed.is_set():
            raise KeyboardInterrupt


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _ender(pressed: threading.Event) -> Any:
    """Return a Tune callback that ends the experiment once `pressed` is set."""
    from ray.tune import Callback

    class Ender(Callback):  # type: ignore[misc]  # ray is untyped
        def __reduce__(self) -> tuple[Any, ...]:
            return (Callback, ())  # as the scheduler's

        def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
            if pressed.is_set():
                raise KeyboardInterrupt

    return Ender()


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Keep Tune's own lines off the terminal; its files keep them.

    It prints one, whatever its verbosity, for a trial that was stopped before its first report.
    """
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
