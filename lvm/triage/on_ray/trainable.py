"""What runs away from the driver: the process of a trial, which serves one arm after another.

Ray pickles the class by reference, so it is at the top of a module that every process can
import. The driver asks for one epoch at a time: an arm never runs ahead of what is decided.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping

from ray import tune

from lvm.triage.events import Epoch
from lvm.triage.on_ray.cluster import trial_resources
from lvm.triage.on_ray.nodes import facts
from lvm.triage.on_ray.reports import KEY, Over, Report, Started, to_text
from lvm.triage.on_ray.shared import Task, epochs_or_reason


class ArmTrial(tune.Trainable):  # type: ignore[misc]  # ray is untyped
    """Runs arms; one call of `step` is one epoch of one arm, or a sign of life."""

    @classmethod
    def default_resource_request(cls, config: Mapping[str, Task]) -> tune.PlacementGroupFactory:
        """Return the resources that a trial's process needs."""
        task = Task.of(config)
        gpus, spare = task.common.schedule.gpus_per_arm, task.common.spare
        return tune.PlacementGroupFactory([trial_resources(task.spec, gpus, spare)])

    def setup(self, config: Mapping[str, Task]) -> None:
        """Take the first arm."""
        self._arm: str | None = None
        self._reports: Iterator[Report] = iter(())
        self._told = False
        self._take(Task.of(config))

    def reset_config(self, new_config: Mapping[str, Task]) -> bool:
        """Take the next arm in the same process; the one that was held goes on where it is."""
        self._take(Task.of(new_config))
        return True

    def step(self) -> dict[str, str]:
        """Return who this is at first, then an epoch at a time."""
        return {KEY: to_text(self._next_report())}

    def _next_report(self) -> Report:
        if not self._told:
            self._told = True
            return Started(node=_node_id(), pid=os.getpid(), facts=facts())
        for report in self._reports:
            if not isinstance(report, Epoch) or report.epoch >= self._next:
                return report
        return Over()

    def cleanup(self) -> None:
        """Let go of what the arm holds."""
        self._close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Keep nothing: an arm keeps its own checkpoint in its folder."""

    def load_checkpoint(self, checkpoint: object) -> None:
        """Take nothing up: an arm takes up its own checkpoint."""

    def _take(self, task: Task) -> None:
        task.common.load_plugins()
        spec = task.spec
        # What the driver knows of an arm that goes on is not told again.
        self._next = 0 if spec.source is not None else task.known + 1
        self._told = False
        if self._arm == spec.id and spec.source is None:  # a search is done again
            return
        self._close()
        self._arm = spec.id
        if spec.workers == 1 or spec.source is not None:
            self._reports = epochs_or_reason(spec, task.common.dataset())
        else:
            from lvm.triage.on_ray.workers import from_workers

            self._reports = from_workers(task)

    def _close(self) -> None:
        close = getattr(self._reports, "close", None)
        if close is not None:
            close()
        self._arm, self._reports = None, iter(())
        gc.collect()  # a model of the next arm may need the room of this one
        _empty_gpu_cache()


def _empty_gpu_cache() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _node_id() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())
