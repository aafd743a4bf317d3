"""A trial that trains on several Ray Train workers: it drives them and forwards what rank 0 says.

Records travel through a small actor, not through files: a shared file system may show a line only
seconds later. It also tells the workers how far they may train, so that they wait at a rung as an
arm alone does.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import ray

from lvm.core.config.run import ScheduleConfig
from lvm.core.device import claim
from lvm.training import distributed
from lvm.training.world import World
from lvm.triage.arm import ArmSpec
from lvm.triage.on_ray.nodes import facts
from lvm.triage.on_ray.shared import (
    PLACEMENT_GROUP,
    ArmBroke,
    dataset_of,
    load_shared,
    records_or_reason,
)

SIGN_SECONDS = 5.0  # how often a trial gives a sign of life while its workers say nothing
POLL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Handed:
    """What every worker of an arm is handed."""

    spec: dict[str, object]  # as plain values: plug-ins are loaded before it is read
    mailbox: ray.actor.ActorHandle
    data: ray.ObjectRef
    plugins: ray.ObjectRef | None


def _mailbox() -> object:
    """Return the class of a mailbox, which Ray ships whole: its process imports nothing of ours."""

    class Mailbox:
        """What workers have said, and how many epochs they may train."""

        def __init__(self) -> None:
            self._letters: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
            self._allowed = asyncio.Condition()
            self._epochs = 0

        async def put(self, letter: dict[str, Any]) -> None:
            """Leave a letter for the trial."""
            self._letters.put_nowait(letter)

        async def get(self, seconds: float) -> dict[str, Any] | None:
            """Return the next letter, None when there is none for so long."""
            try:
                return await asyncio.wait_for(self._letters.get(), seconds)
            except TimeoutError:
                return None

        async def allow(self, epochs: int) -> None:
            """Let the workers train so many epochs in all."""
            async with self._allowed:
                self._epochs = max(self._epochs, epochs)
                self._allowed.notify_all()

        async def wait_for(self, epoch: int) -> None:
            """Return when an epoch may be trained."""
            async with self._allowed:
                await self._allowed.wait_for(lambda: self._epochs >= epoch)

    return Mailbox


def from_workers(spec: ArmSpec, trial: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Run an arm on Ray Train workers; yield its records, and signs of life between them.

    `trial` is the configuration of the trial that drives them.

    Raises what broke the training, as one line.
    """
    mailbox = ray.remote(_mailbox()).options(num_cpus=0).remote()
    pool = ThreadPoolExecutor(max_workers=1)
    handed = Handed(
        spec=spec.to_plain(), mailbox=mailbox, data=trial["data"], plugins=trial["plugins"]
    )
    try:
        training = pool.submit(_fit, spec, handed, ScheduleConfig(**trial["schedule"]))
        waits, epoch = True, 0
        yield {"waits": True}
        while True:
            ray.get(mailbox.allow.remote(epoch + 1))
            letter = _next_letter(mailbox, training)
            if letter is None:
                return
            if "placed" in letter:
                waits = False
                yield {"waits": False, **letter}
            elif "silent" in letter:
                yield {"waits": waits}
            else:
                epoch = letter.get("epoch", epoch)
                yield letter
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        with contextlib.suppress(Exception):
            ray.kill(mailbox)


def _next_letter(mailbox: Any, training: Future[None]) -> dict[str, Any] | None:
    """Return what the workers said, that they said nothing, or None when they are done."""
    waited = 0.0
    while waited < SIGN_SECONDS:
        done = training.done()  # before the last look, or the last letter could be missed
        letter: dict[str, Any] | None = ray.get(mailbox.get.remote(POLL_SECONDS))
        if letter is not None:
            return letter
        if done:
            _raise_cause(training)
            return None
        waited += POLL_SECONDS
    return {"silent": True}


def _raise_cause(training: Future[None]) -> None:
    """Raise what broke a worker, without what Ray Train wraps around it."""
    error = training.exception()
    if error is None:
        return
    failures = getattr(error, "worker_failures", {})
    first = next(iter(failures.values()), error)
    cause = getattr(first, "cause", None) or first
    lines = str(cause).strip().splitlines() or ["no message"]
    named = "" if isinstance(cause, ArmBroke) else f"{type(cause).__name__}: "
    raise ArmBroke(f"{named}{lines[0]}") from None


def _fit(spec: ArmSpec, handed: Handed, schedule: ScheduleConfig) -> None:
    distributed.fit(
        _worker,
        handed,
        name=f"{spec.id}-{uuid.uuid4().hex[:8]}",
        storage=spec.folder / "ray_train",
        workers=spec.workers,
        threads=spec.threads,
        use_gpu=spec.device != "cpu",
        max_restarts=schedule.max_restarts,
        placement_seconds=60 * schedule.wait_minutes,
    )


def _worker(handed: Handed) -> None:
    """Body of a Ray Train worker: the same arm, in a world of several."""
    load_shared(handed.plugins)
    spec, mailbox = ArmSpec.from_plain(handed.spec), handed.mailbox
    last = spec.recipe.training.epochs
    world = World.current(claim(spec.device))
    letter: dict[str, Any] = {"placed": world.rank, "facts": facts()}
    if world.rank == 0:
        group = ray.util.get_current_placement_group()
        letter |= {PLACEMENT_GROUP: group.id.hex()} if group is not None else {}
    ray.get(mailbox.put.remote(letter))
    for record in records_or_reason(spec, dataset_of(handed.data)):
        if world.rank == 0:
            ray.get(mailbox.put.remote(record))
            if record.get("epoch", last) < last:  # after the last one there is nothing to wait for
                ray.get(mailbox.wait_for.remote(record["epoch"] + 1))
        world.barrier()
