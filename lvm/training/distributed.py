"""The door to ray.train: the same training loop on several workers with DDP.

Ray Train starts the process group (gloo on CPU, nccl on GPU); the loop finds it by itself.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from lvm.core.errors import MissingExtraError

CPU_SHARE = 0.9  # of a core per thread: leaves a sliver for the trial that drives the workers
Config = TypeVar("Config")
Hook = Callable[..., None]
_UNUSED = ("DatasetsCallback", "PlacementGroupCleanerCallback")


@runtime_checkable
class Policy(Protocol):
    """Ray Train's scaling policy: what it registers with Ray's coordinator of resources."""

    after_controller_start: Hook
    _maybe_send_resource_request: Hook
    _send_resource_request: Hook
    _cancel_resource_request: Hook


def _prepare() -> None:
    """Set what Ray Train reads when it is imported, and import it."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    try:
        import ray.train.torch  # noqa: F401  # for what it does
    except ImportError:
        raise MissingExtraError("ray[train]", "dev", "training on several workers") from None


def _lean_trainer() -> type:
    """Return a TorchTrainer without the processes that are unused here.

    One feeds Ray datasets, of which there are none. One asks the dashboard who is alive, which
    cannot tell two Ray clusters on one machine apart and need not run; whoever calls `fit` removes
    the placement group of a training that was killed. One tells an autoscaler what the placement
    group asks for, which an autoscaler sees. And the controller runs in the actor that calls `fit`,
    which has nothing else to do: its own process would import all of this again, and two processes
    would have to live for one training to go on.
    """
    import ray
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.execution.controller import TrainController

    class LeanTrainer(TorchTrainer):  # type: ignore[misc]  # ray is untyped
        def _create_default_callbacks(self) -> list[object]:
            wanted: list[object] = super()._create_default_callbacks()
            return [c for c in wanted if type(c).__name__ not in _UNUSED]

        def _initialize_and_run_controller(
            self, *, scaling_policy: Policy, **about: object
        ) -> object:
            if ray.get_runtime_context().get_actor_id() is None:  # workers ask for a handle of it
                return super()._initialize_and_run_controller(
                    scaling_policy=scaling_policy, **about
                )
            _ask_nobody(scaling_policy)
            controller = TrainController(scaling_policy=scaling_policy, **about)
            asyncio.run(controller.run())
            return controller.get_result()

    return LeanTrainer


def _ask_nobody(policy: Policy) -> None:
    """Make a scaling policy leave the coordinator of Ray Data and Ray Train alone."""

    def nothing(*_: object) -> None:
        """Register no resources, whatever Ray hands over."""

    policy.after_controller_start = nothing
    policy._maybe_send_resource_request = nothing
    policy._send_resource_request = nothing
    policy._cancel_resource_request = nothing


def fit(
    worker: Callable[[Config], None],
    config: Config,
    *,
    name: str,
    storage: Path,
    workers: int,
    threads: int,
    use_gpu: bool,
    max_restarts: int = 1,
    placement_seconds: float = 600.0,
) -> None:
    """Run `worker(config)` on `workers` Ray Train workers and wait for them.

    `name` must belong to this attempt alone: Ray Train resumes silently under a name it knows.
    Workers that go away are started again, from the last checkpoint, `max_restarts` times; for room
    they wait `placement_seconds` at a time, and the caller decides how often.
    """
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = f"{placement_seconds:.0f}"
    _prepare()
    from ray import train
    from ray.train.torch import TorchConfig

    def loop(handed: dict[str, Config]) -> None:  # Ray Train hands over dictionaries alone
        worker(handed["config"])

    per_worker: dict[str, float] = {"CPU": CPU_SHARE * threads}
    if use_gpu:
        per_worker["GPU"] = 1
    trainer = _lean_trainer()(
        loop,
        train_loop_config={"config": config},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=train.ScalingConfig(
            num_workers=workers, use_gpu=use_gpu, resources_per_worker=per_worker
        ),
        run_config=train.RunConfig(
            name=name,
            storage_path=str(storage),
            failure_config=train.FailureConfig(
                max_failures=max_restarts, controller_failure_limit=-1
            ),
        ),
    )
    trainer.fit()
