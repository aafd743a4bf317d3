"""A trial that trains on several Ray Train workers: it drives them and forwards what rank 0 says.

Records travel through a small actor, not through files: a shared file system may show a line only
seconds later. It also tells the workers how far they may train, so that they wait at a rung as an
arm alone does.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import ray

from lvm.core.device import claim
from lvm.training import distributed
from lvm.training.world import World
from lvm.triage.events import Epoch
from lvm.triage.on_ray.handles import Mailbox
from lvm.triage.on_ray.nodes import facts
from lvm.triage.on_ray.reports import Report, Workers, from_text, to_text
from lvm.triage.on_ray.shared import ArmBroke, Task, epochs_or_reason

SIGN_SECONDS = 5.0  # how often a trial gives a sign of life while its workers say nothing
POLL_SECONDS = 0.1


def _mailbox() -> object:
    """Return the class of a mailbox, which Ray ships whole: its process imports nothing of ours."""

    class Mailbox:
        """What workers have said, and how many epochs they may train."""

        def __init__(self) -> None:
            self._letters: asyncio.Queue[str] = asyncio.Queue()
            self._allowed = asyncio.Condition()
            self._epochs = 0

        async def put(self, letter: str) -> None:
            """Leave a letter for the trial."""
            self._letters.put_nowait(letter)

        async def get(self, seconds: float) -> str | None:
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


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the workers of a trial are given."""

    task: Task
    mailbox: Mailbox


def from_workers(task: Task) -> Iterator[Report]:
    """Run an arm on Ray Train workers; yield what they report, and signs of life in between.

    Raises what broke the training, as one line.
    """
    mailbox = ray.remote(_mailbox()).options(num_cpus=0).remote()
    pool = ThreadPoolExecutor(max_workers=1)
    try:
        training = pool.submit(_fit, Work(task=task, mailbox=mailbox))
        sign, epoch = Workers(waits=True), 0
        yield sign
        while True:
            ray.get(mailbox.allow.remote(epoch + 1))
            report = _next_report(mailbox, training, sign)
            if report is None:
                return
            if isinstance(report, Workers):
                sign = Workers(waits=report.waits)
            elif isinstance(report, Epoch):
                epoch = report.epoch
            yield report
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        with contextlib.suppress(Exception):
            ray.kill(mailbox)


def _next_report(mailbox: Mailbox, training: Future[None], sign: Workers) -> Report | None:
    """Return what the workers said, `sign` where they said nothing, or None when they are done."""
    waited = 0.0
    while waited < SIGN_SECONDS:
        done = training.done()  # before the last look, or the last letter could be missed
        letter: str | None = ray.get(mailbox.get.remote(POLL_SECONDS))
        if letter is not None:
            return from_text(letter)
        if done:
            _raise_cause(training)
            return None
        waited += POLL_SECONDS
    return sign


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


def _fit(work: Work) -> None:
    spec, schedule = work.task.spec, work.task.common.schedule
    distributed.fit(
        _worker,
        work,
        name=f"{spec.id}-{uuid.uuid4().hex[:8]}",
        storage=spec.folder / "ray_train",
        workers=spec.workers,
        threads=spec.threads,
        use_gpu=spec.device != "cpu",
        max_restarts=schedule.max_restarts,
        placement_seconds=60 * schedule.wait_minutes,
    )


def _worker(work: Work) -> None:
    """Body of a Ray Train worker: the same arm, in a world of several."""
    task, mailbox = work.task, work.mailbox
    task.common.load_plugins()
    spec = task.spec
    last = spec.recipe.training.epochs
    world = World.current(claim(spec.device))
    group = ray.util.get_current_placement_group() if world.rank == 0 else None
    holds = "" if group is None else group.id.hex()
    placed = Workers(waits=False, facts=facts(), placement_group=holds)
    ray.get(mailbox.put.remote(to_text(placed)))
    for report in epochs_or_reason(spec, task.common.dataset()):
        if world.rank == 0:
            ray.get(mailbox.put.remote(to_text(report)))
            # After the last one there is nothing to wait for.
            if isinstance(report, Epoch) and report.epoch < last:
                ray.get(mailbox.wait_for.remote(report.epoch + 1))
        world.barrier()
