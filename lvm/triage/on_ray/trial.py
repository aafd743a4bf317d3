"""What runs away from the driver: the body of a Tune trial, and that of a Ray Train worker.

Ray pickles both by reference, so they stand at the top of a module that every process can import.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np

from lvm.data.bank import Bank
from lvm.data.windows import Dataset, Windows
from lvm.records import ABSENT
from lvm.training import distributed
from lvm.training.world import World
from lvm.triage.arm import ArmSpec, run_arm
from lvm.triage.endings import failure_of

POLL_SECONDS = 0.1
PLACEMENT_GROUP = "placement_group"  # key under which rank 0 reports what holds its workers


def pack(dataset: Dataset) -> dict[str, Any]:
    """Return the data as arrays, which the processes on one node map from the same memory."""
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


def run_trial(config: dict[str, Any], data: dict[str, Any]) -> None:
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
    except Exception as error:
        failure = failure_of(error, spec.folder)
        alone = World.current().rank > 0 and failure is not None and failure.reason in ABSENT
        if failure is None or alone:  # the others wait for this worker, and nobody reads its record
            raise
        yield {"ended": str(failure.reason), "detail": failure.detail}
