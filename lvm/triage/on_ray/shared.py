"""What the driver hands to the processes of trials, and what a trial makes of an arm.

The data and the plug-ins are objects of Ray, put there once: the processes on one node map them
from the same memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from lvm.core.plugins import load_packed
from lvm.core.records import ABSENT
from lvm.data.bank import Bank
from lvm.data.windows import Dataset, Windows
from lvm.triage.arm import ArmSpec
from lvm.triage.endings import failure_of
from lvm.triage.own_arm import run_trial

PLACEMENT_GROUP = "placement_group"  # key under which a trial says what holds its workers


class ArmBroke(Exception):
    """An arm was broken by the place where it ran, in one line."""


# --- the data -------------------------------------------------------------------------------------


def pack(dataset: Dataset) -> dict[str, Any]:
    """Return the data as arrays, which the processes on one node map from the same memory."""
    bank = dataset.bank
    return {
        "vectors": np.ascontiguousarray(bank.vectors),
        "keys": np.ascontiguousarray(bank.keys),
        "duplicates": bank.duplicate_group,
        "fingerprint": bank.fingerprint,
        "pool_size": bank.pool_size,
        "dev_drawn_from": dataset.dev_drawn_from,
        "windows": {
            name: (part.contexts, part.targets, part.articles)
            for name in ("train", "dev", "test")
            for part in [dataset.split(name)]
        },
    }


def unpack(packed: dict[str, Any]) -> Dataset:
    """Return the dataset of packed arrays."""
    bank = Bank(vectors=packed["vectors"], keys=packed["keys"], pool_size=packed["pool_size"])
    # Both were computed by the driver from the same rows; a trial need not hash them again.
    bank.__dict__["duplicate_group"] = packed["duplicates"]
    bank.__dict__["fingerprint"] = packed["fingerprint"]
    windows = {name: Windows(*arrays) for name, arrays in packed["windows"].items()}
    return Dataset(bank, **windows, dev_drawn_from=packed["dev_drawn_from"])


_datasets: dict[str, Dataset] = {}  # this process's, by the id of the shared object


def dataset_of(shared: Any) -> Dataset:
    """Return the dataset behind the reference of a shared object; unpacked once by a process."""
    if shared.hex() not in _datasets:
        import ray

        _datasets[shared.hex()] = unpack(ray.get(shared))
    return _datasets[shared.hex()]


def load_shared(shared: Any) -> None:
    """Import the plug-ins behind the reference of a shared object, as the driver has them."""
    if shared is not None:
        import ray

        load_packed(ray.get(shared))


# --- an arm ---------------------------------------------------------------------------------------


def records_or_reason(spec: ArmSpec, dataset: Dataset) -> Iterator[dict[str, Any]]:
    """Yield the records of an arm; a foreseeable end becomes a last record, not a crash."""
    records = run_trial(spec, dataset)
    with contextlib.closing(records):
        try:
            yield from records
        except Exception as error:
            failure = failure_of(error, spec.folder)
            if failure is None:
                raise
            if failure.reason in ABSENT:  # the place's doing: elsewhere, or later, it may go well
                raise ArmBroke(failure.detail) from None
            yield {"ended": str(failure.reason), "detail": failure.detail}
