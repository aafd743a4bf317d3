"""The cluster on which arms run: reached or started, large enough, and one file system."""

from __future__ import annotations

import logging
import os
import socket
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lvm.config import ScheduleConfig
from lvm.errors import ClusterError
from lvm.signals import held_signals
from lvm.training import distributed
from lvm.triage.address import not_joined
from lvm.triage.arm import ArmSpec

CONNECT_SECONDS = 10.0


def connect(ray: Any, address: str | None, schedule: ScheduleConfig) -> None:
    """Join the cluster at `address`, or start one that only this machine can reach.

    Raises ClusterError when nothing answers there or Ray does not start.
    """
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        cpus = max(os.cpu_count() or 1, int(np.ceil(_min_cpus(schedule))))
        options |= {"num_cpus": cpus, "include_dashboard": True, "dashboard_host": "127.0.0.1"}
        options |= {"address": "local"}
    else:
        _require_listener(address)
        options["address"] = address
    try:
        with held_signals():
            ray.init(**options)
    except Exception as error:  # Ray raises even a bare one, where its dashboard does not start
        raise not_joined(error, address) from None


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


def check(ray: Any, address: str | None, storage: Path, schedule: ScheduleConfig) -> None:
    """Raise ClusterError when the cluster is too small and will not grow, or cannot see `storage`.

    Tune would wait for resources that never come, and a blind node would lose what it trained.
    """
    total = ray.cluster_resources()
    needed = {"CPU": _min_cpus(schedule)}
    if schedule.use_gpu:
        needed["GPU"] = max(schedule.confirm_workers, schedule.workers_per_arm)
    for kind, number in needed.items():
        if total.get(kind, 0) + 1e-6 < number and not schedule.autoscaling:
            remedy = " or set schedule.use_gpu = false" if kind == "GPU" else ""
            raise ClusterError(
                f"the cluster has {total.get(kind, 0):g} {kind}s, the confirming training "
                f"needs {number:g}; add nodes, lower schedule.confirm_workers{remedy}."
            )
    if address is not None:
        _check_storage(ray, storage)


def _min_cpus(schedule: ScheduleConfig) -> float:
    """Return the CPUs without which the largest training of a run would never start."""
    workers = max(schedule.confirm_workers, schedule.workers_per_arm)
    return distributed.CPU_SHARE * workers * schedule.threads_per_worker


def _check_storage(ray: Any, storage: Path) -> None:
    """Refuse a run folder that some node cannot see: its trials would lose their work."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    storage.mkdir(parents=True, exist_ok=True)
    token = storage / f".seen-{uuid.uuid4().hex}"
    token.touch()
    seen = ray.remote(num_cpus=0)(lambda path: Path(path).exists())
    try:
        for node in (n for n in ray.nodes() if n["Alive"]):
            strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = seen.options(scheduling_strategy=strategy)
            if not ray.get(task.remote(str(token)), timeout=60):
                raise ClusterError(
                    f"the node {node['NodeManagerAddress']} cannot see {storage}; choose "
                    "an --out on a file system that every node mounts."
                )
    finally:
        token.unlink(missing_ok=True)


def in_words(ray: Any, address: str | None) -> str:
    """Return one line that says where arms run."""
    resources = ray.cluster_resources()
    where = address or f"local on {socket.gethostname()}"
    gpus = f", {resources['GPU']:g} GPUs" if resources.get("GPU") else ""
    return f"Ray {where}: {resources.get('CPU', 0):g} CPUs{gpus}"


def trial_resources(
    ray: Any, specs: Sequence[ArmSpec], schedule: ScheduleConfig
) -> dict[str, float]:
    """Share the machine among the arms of a step, so that they meet at the rungs."""
    if any(spec.workers > 1 for spec in specs):
        return {"cpu": 0.01}  # the trial only drives Ray Train workers, which ask for their own
    threads = max(spec.threads for spec in specs)
    if any(spec.device != "cpu" for spec in specs):
        return {"cpu": distributed.CPU_SHARE * threads, "gpu": 1}
    cpus = ray.cluster_resources().get("CPU", 1)
    together = min(len(specs), schedule.max_concurrent_arms)
    share = float(np.floor(100 * cpus / together) / 100)
    return {"cpu": max(0.01, min(distributed.CPU_SHARE * threads, share))}
