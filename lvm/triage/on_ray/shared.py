"""What the driver hands to the processes of trials, and what a trial makes of an arm.

The data and the plug-ins are objects of Ray, put there once: the processes on one node map them
from the same memory.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from lvm.core.config.run import ScheduleConfig
from lvm.core.plugins import PackedPlugins, load_packed
from lvm.core.records import ABSENT
from lvm.data.bank import Bank
from lvm.data.windows import Dataset
from lvm.triage.arm import ArmSpec
from lvm.triage.endings import failure_of
from lvm.triage.events import Epoch
from lvm.triage.on_ray.handles import Ref
from lvm.triage.on_ray.reports import Ended
from lvm.triage.own_arm import run_trial

TASK = "task"  # the one key of a trial's configuration


class ArmBroke(Exception):
    """An arm was broken by the place where it ran, in one line."""


# --- the data -------------------------------------------------------------------------------------


def pack(dataset: Dataset) -> Dataset:
    """Return the dataset without what the driver alone needs; its arrays are mapped as they are."""
    bank = dataset.bank
    arrays = np.ascontiguousarray(bank.vectors), np.ascontiguousarray(bank.keys)
    bare = Bank(*arrays, pool_size=bank.pool_size)
    # Both were computed from the same rows; a trial need not hash them again.
    vars(bare).update(duplicate_group=bank.duplicate_group, fingerprint=bank.fingerprint)
    return replace(dataset, bank=bare)


_datasets: dict[str, Dataset] = {}  # this process's, by the id of the shared object


# --- what a trial is given ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Common:
    """What all trials are given."""

    data: Ref[Dataset]
    plugins: Ref[PackedPlugins] | None
    schedule: ScheduleConfig
    spare: int  # CPUs that the cluster counts and does not have

    def dataset(self) -> Dataset:
        """Return the dataset; taken up once by a process, which keeps what it computes of it."""
        if self.data.hex() not in _datasets:
            import ray

            _datasets[self.data.hex()] = ray.get(self.data)
        return _datasets[self.data.hex()]

    def load_plugins(self) -> None:
        """Import the plug-ins, as the driver has them."""
        if self.plugins is not None:
            import ray

            load_packed(ray.get(self.plugins))


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one trial is given."""

    pickled: bytes  # of the arm's spec, which may hold options that a plug-in declares
    known: int  # epochs of the arm
    common: Common

    @property
    def spec(self) -> ArmSpec:
        """The spec of the arm, where the plug-ins are loaded."""
        spec: ArmSpec = pickle.loads(self.pickled)
        return spec

    def to_config(self) -> dict[str, Task]:
        """Return the task as Tune's configuration of a trial."""
        return {TASK: self}

    @staticmethod
    def of(config: Mapping[str, Task]) -> Task:
        """Return the task in a trial's configuration."""
        return config[TASK]


# --- an arm ---------------------------------------------------------------------------------------


def epochs_or_reason(spec: ArmSpec, dataset: Dataset) -> Iterator[Epoch | Ended]:
    """Yield the epochs of an arm; a foreseeable end becomes a last report, not a crash."""
    epochs = run_trial(spec, dataset)
    with contextlib.closing(epochs):
        try:
            yield from epochs
        except Exception as error:
            failure = failure_of(error, spec.folder)
            if failure is None:
                raise
            if failure.reason in ABSENT:  # the place's doing: elsewhere, or later, it may go well
                raise ArmBroke(failure.detail) from None
            yield Ended(reason=failure.reason, detail=failure.detail)
