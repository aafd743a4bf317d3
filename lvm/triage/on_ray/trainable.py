"""What runs away from the driver: the process of a trial, which serves one arm after another.

Ray pickles the class by reference, so it stands at the top of a module that every process can
import. The driver asks for one epoch at a time: an arm never runs ahead of what is decided.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import Any

from ray import tune

from lvm.triage.arm import ArmSpec
from lvm.triage.on_ray.cluster import trial_resources
from lvm.triage.on_ray.nodes import facts
from lvm.triage.on_ray.shared import dataset_of, load_shared, records_or_reason


class ArmTrial(tune.Trainable):  # type: ignore[misc]  # ray is untyped
    """Runs arms; one call of `step` is one epoch of one arm, or a sign of life."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Return the resources that a trial's process needs."""
        spec, gpus = config["spec"], config["schedule"]["gpus_per_arm"]
        return tune.PlacementGroupFactory([trial_resources(spec, gpus, config["spare"])])

    def setup(self, config: dict[str, Any]) -> None:
        """Take the first arm."""
        self._arm: str | None = None
        self._records: Iterator[dict[str, Any]] = iter(())
        self._told = False
        self._take(config)

    def reset_config(self, new_config: dict[str, object]) -> bool:
        """Take the next arm in the same process; the one that was held goes on where it stands."""
        self._take(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Return who this is at first, then the record of an epoch at a time."""
        if not self._told:
            self._told = True
            return {"started": {"node": _node_id(), "pid": os.getpid()}, "facts": facts()}
        for record in self._records:
            if "epoch" not in record or record["epoch"] >= self._next:
                return record
        return {"over": True}

    def cleanup(self) -> None:
        """Let go of what the arm holds."""
        self._close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Keep nothing: an arm keeps its own checkpoint in its folder."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Take nothing up: an arm takes up its own checkpoint."""

    def _take(self, config: dict[str, Any]) -> None:
        load_shared(config["plugins"])
        spec = ArmSpec.from_plain(config["spec"])
        # What the driver knows of an arm that goes on is not told again.
        self._next = 0 if spec.source is not None else int(config["known"]) + 1
        self._told = False
        if self._arm == spec.id and spec.source is None:  # a search is done again
            return
        self._close()
        self._arm = spec.id
        if spec.workers == 1 or spec.source is not None:
            self._records = records_or_reason(spec, dataset_of(config["data"]))
        else:
            from lvm.triage.on_ray.workers import from_workers

            self._records = from_workers(spec, config)

    def _close(self) -> None:
        close = getattr(self._records, "close", None)
        if close is not None:
            close()
        self._arm, self._records = None, iter(())
        gc.collect()  # a model of the next arm may need the room of this one
        _empty_gpu_cache()


def _empty_gpu_cache() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _node_id() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())
