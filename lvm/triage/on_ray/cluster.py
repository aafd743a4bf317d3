"""The cluster on which arms run: reached or started, large enough, and one file system."""

from __future__ import annotations

import logging
import site
import socket
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from lvm.core.config.run import ScheduleConfig
from lvm.core.cores import usable_cores
from lvm.core.errors import ClusterError
from lvm.core.packages import HOME
from lvm.core.plugins import loaded, packed
from lvm.core.signals import held_signals
from lvm.training import distributed
from lvm.triage.address import not_joined, not_started
from lvm.triage.arm import ArmSpec
from lvm.triage.local_head import Answer
from lvm.triage.on_ray.handles import Ray, Ref
from lvm.triage.on_ray.nodes import difference, facts
from lvm.triage.on_ray.remote import on_node

CONNECT_SECONDS = 10.0
NODE_SECONDS = 60.0
TRIAL = "lvm_trial"  # what a cluster started here counts its trials by


def connect(
    ray: Ray,
    address: str | None,
    schedule: ScheduleConfig,
    started: Answer | None = None,
) -> None:
    """Join the cluster at `address`, or the one of which a local head says that it `started`.

    Raises ClusterError when nothing answers there or Ray did not start.
    """
    if started is not None:
        joined = _started(started)
    else:
        assert address is not None
        _require_listener(address)
        joined = address
    try:
        with held_signals():
            ray.init(
                address=joined,
                job_config=_own_path(),
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except Exception as error:  # Ray raises even a bare one
        raise not_joined(error, address) from None


def _started(answer: Answer) -> str:
    """Return the address of a cluster on this machine, which this process may use then."""
    if not answer.address:
        raise not_started(answer.problem, answer.texts)
    from ray._private.authentication.authentication_token_setup import enable_token_auth_by_default

    logging.getLogger("ray").setLevel(logging.ERROR)  # it warns of what is wanted
    enable_token_auth_by_default()  # as the head did: Ray itself does so for "local" alone
    return answer.address


def local_resources(schedule: ScheduleConfig) -> tuple[int, dict[str, float]]:
    """Return the CPUs that a cluster on this machine counts, and how many trials it lets live.

    Tune asks for the process of an arm before it knows that another arm's comes free. Where the
    spare CPUs had room for it, it would be started for nothing: seconds of imports.
    """
    share = distributed.CPU_SHARE * schedule.threads_per_worker
    trials = max(1, int(_own_cpus(schedule) / share))
    return _own_cpus(schedule) + spare_cpus(schedule), {TRIAL: trials}


def spare_cpus(schedule: ScheduleConfig) -> int:
    """Return the CPUs that a cluster on this machine counts beyond those it has.

    The trials that drive full trainings hardly compute. With a share like an arm's each takes over
    the process of an arm, which has imported everything, and saves the start of one.
    """
    share = distributed.CPU_SHARE * schedule.threads_per_worker
    at_once = max(1, int(_own_cpus(schedule) / (share * schedule.confirm_workers)))
    return int(np.ceil(share * at_once))


def _own_cpus(schedule: ScheduleConfig) -> int:
    """Return the CPUs of this machine, or more where one full training would not fit."""
    return max(usable_cores(), int(np.ceil(_min_cpus(schedule))))


def _own_path() -> object:
    """Return a job whose workers import the driver's packages, and nothing else of the driver's.

    Ray puts the driver's working directory and the folder of its script first on the path of every
    worker. A checkout called `lvm` in that directory would hide the package.
    """
    from ray.job_config import JobConfig

    class OwnPath(JobConfig):  # type: ignore[misc]  # ray is untyped
        def _runtime_env_has_working_dir(self) -> bool:
            return True  # what Ray asks before it adds those two folders

    installed = {Path(p).resolve() for p in (*site.getsitepackages(), site.getusersitepackages())}
    return OwnPath(_py_driver_sys_path=[] if HOME in installed else [str(HOME)])


def _require_listener(address: str) -> None:
    """Raise ClusterError when nothing answers at HOST:PORT: Ray itself would try for ever."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return  # "auto", or something that Ray explains better
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"no Ray cluster answers at {address} ({error}); check it with ray status --address "
            "ADDRESS on the head node, or leave --address out to run locally."
        ) from None


def check(
    ray: Ray, address: str | None, storage: Path, schedule: ScheduleConfig
) -> dict[str, dict[str, str]]:
    """Return what code and versions each node of a remote cluster runs.

    Raises ClusterError when the cluster is too small and will not grow, when a node cannot see
    `storage` (it would lose what it trained), when it runs other code than the driver, or cannot
    import the driver's plug-ins: these are asked for on this machine as well, where workers have
    another path.
    """
    total = ray.cluster_resources()
    needed = {"CPU": _min_cpus(schedule)}
    if schedule.use_gpu:
        needed["GPU"] = max(schedule.confirm_workers, schedule.workers_per_arm)
    for kind, number in needed.items():
        if total.get(kind, 0) + 1e-6 < number and not schedule.autoscaling:
            remedy = " or set schedule.use_gpu = false" if kind == "GPU" else ""
            raise ClusterError(
                f"the cluster has {total.get(kind, 0):g} {kind}s, but a full training needs "
                f"{number:g}; add nodes, lower schedule.confirm_workers{remedy}."
            )
    if address is None and not loaded():
        return {}
    nodes = _check_nodes(ray, storage)
    return {} if address is None else nodes


def _min_cpus(schedule: ScheduleConfig) -> float:
    """Return the CPUs without which the largest training of a run would never start."""
    workers = max(schedule.confirm_workers, schedule.workers_per_arm)
    return distributed.CPU_SHARE * workers * schedule.threads_per_worker


def _check_nodes(ray: Ray, storage: Path) -> dict[str, dict[str, str]]:
    """Ask one task per node what it sees and runs."""
    storage.mkdir(parents=True, exist_ok=True)
    token = storage / f".seen-{uuid.uuid4().hex}"
    token.touch()
    here, there, plugins = facts(), {}, packed()
    try:
        asked = {
            n["NodeManagerAddress"]: on_node(n["NodeID"], _look(), str(token), plugins)
            for n in ray.nodes()
            if n["Alive"]
        }
        for node, task in asked.items():
            there[node] = _answer(ray, node, task)
            _require_same(here, there[node], node, storage)
    finally:
        token.unlink(missing_ok=True)
    return there


def _look() -> Callable[[str, Sequence[Mapping[str, object]]], dict[str, str]]:
    """Return a function that Ray ships whole: where lvm cannot be imported, it still answers."""

    def look(token: str, plugins: Sequence[Mapping[str, object]]) -> dict[str, str]:
        from pathlib import Path

        try:
            from lvm.triage.on_ray.nodes import facts
        except ImportError as error:
            return {"problem": f"{error}"}
        seen = {**facts(), "sees": str(Path(token).exists())}
        if plugins:  # other code may not know the word: it is refused as such
            from lvm.triage.on_ray import nodes

            seen["refused"] = getattr(nodes, "refused", lambda _: "")(plugins)
        return seen

    return look


def _answer(ray: Ray, node: str, task: Ref[dict[str, str]]) -> dict[str, str]:
    from ray.exceptions import GetTimeoutError

    try:
        return ray.get(task, timeout=NODE_SECONDS)
    except GetTimeoutError:
        raise ClusterError(
            f"node {node} did not answer within {NODE_SECONDS:.0f} s; remove it from the "
            "cluster or restart Ray on it."
        ) from None


def _require_same(here: Mapping[str, str], there: dict[str, str], node: str, storage: Path) -> None:
    if "problem" in there:
        raise ClusterError(
            f"node {node} cannot import lvm with the interpreter of its Ray "
            f"({there['problem']}); install it there as in {sys.prefix}."
        )
    if sentence := difference(here, there, node):
        raise ClusterError(sentence)
    if refused := there.pop("refused", ""):
        raise ClusterError(f"node {node}: {refused}")
    if there["sees"] != "True":
        raise ClusterError(
            f"node {node} cannot see {storage}; choose an --out on a file system that every "
            "node mounts."
        )


def count_slots(ray: Ray, schedule: ScheduleConfig, workers: int, spare: int) -> int:
    """Return how many arms of so many workers the cluster, as it is now, has room for at once."""
    total = ray.cluster_resources()
    share = distributed.CPU_SHARE * schedule.threads_per_worker
    slots = (total.get("CPU", 0) - spare) / (share * workers)
    if schedule.use_gpu:
        gpus = schedule.gpus_per_arm if workers == 1 else workers
        slots = min(slots, total.get("GPU", 0) / gpus)
    return max(1, int(slots + 1e-6))


def in_words(ray: Ray, address: str | None, spare: int) -> str:
    """Return one line that says where arms run."""
    resources = ray.cluster_resources()
    where = address or f"local on {socket.gethostname()}"
    gpus = f", {resources['GPU']:g} GPUs" if resources.get("GPU") else ""
    return f"Ray {where}: {resources.get('CPU', 0) - spare:g} CPUs{gpus}"


def trial_resources(spec: ArmSpec, gpus_per_arm: float, spare: int) -> dict[str, float]:
    """Return the resources that the process of an arm's trial needs."""
    cpus = {"CPU": distributed.CPU_SHARE * spec.threads} | ({TRIAL: 1.0} if spare else {})
    if spec.workers > 1 and spec.source is None:
        # It only drives Ray Train workers, which ask for their own.
        return cpus if spare and spec.device == "cpu" else {**cpus, "CPU": 0.01}
    return cpus if spec.device == "cpu" else {**cpus, "GPU": gpus_per_arm}
