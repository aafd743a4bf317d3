"""What the benchmark of a GPU works on: sizes, data made on the device, trainings and a table."""

from __future__ import annotations

import contextlib
import gc
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from lvm.core import compiled
from lvm.core.config.recipe import HeadConfig, ModelConfig, Recipe, TrainingConfig
from lvm.core.device import synchronise
from lvm.data.bank import Bank
from lvm.data.windows import Dataset, dataset_from_bank
from lvm.jobs.presets import preset
from lvm.training import loop
from lvm.training.health import Probe
from lvm.training.manifest import Stated
from lvm.training.state import TrainingState
from lvm.training.updates import DeviceUpdates
from lvm.training.world import World

RATE = 1e-4  # of every update: nothing is learnt, nothing diverges
WINDOWS = 396_000  # of the report's epoch


@dataclass(frozen=True, kw_only=True)
class Size:
    """What is measured."""

    rows: int = 584_604
    article: int = 69  # rows
    batches: tuple[int, ...] = (1024, 8192)
    updates: tuple[int, ...] = (60, 16)  # timed, of each batch size
    parity_updates: int = 20
    dev_windows: int = 8192
    queries: int = 200
    square: int = 8192  # of the product that gives the rate
    recipe: Recipe = field(default_factory=lambda: preset("gpu").recipe)
    width: int = 768


SMALL = Size(
    rows=720,
    article=15,
    batches=(16, 32),
    updates=(2, 2),
    parity_updates=4,
    dev_windows=20,
    queries=2,
    square=64,
    recipe=Recipe(
        model=ModelConfig(hidden=16, num_layers=3, state=8, head_dim=8),
        head=HeadConfig(hidden=16, width=8),
        training=TrainingConfig(batch_size=16, epochs=2),
    ),
    width=16,
)


class Bench:
    """The rows measured so far, and what the parts share."""

    def __init__(self, size: Size, device: torch.device) -> None:
        self.size, self.device = size, device
        self.rows: list[dict[str, str]] = []
        self.failures: list[str] = []
        self.bf16_rate = float("nan")  # operations per second
        self.update_ms: dict[tuple[str, int], float] = {}
        self._dataset: Dataset | None = None

    def row(self, what: str, figure: str, note: str = "") -> None:
        """Print a row and keep it."""
        self.rows.append({"what": what, "figure": figure, "note": note})
        print(f"| {what} | {figure} | {note} |", flush=True)

    @property
    def on_cuda(self) -> bool:
        """Whether there is a GPU."""
        return self.device.type == "cuda"

    @property
    def dataset(self) -> Dataset:
        """A bank of walks along articles, made on the device, with its windows."""
        if self._dataset is None:
            self._dataset = make_dataset(self.size, self.device)
        return self._dataset

    def recipe(self, batch: int, changes: dict[str, Any]) -> Recipe:
        """Return the report's recipe at a batch size."""
        return self.size.recipe.with_changes({"training.batch_size": batch, **changes})

    def seconds(self, call: Callable[[], object]) -> float:
        """Return the seconds until the device has done what a call asks of it."""
        synchronise(self.device)
        started = time.perf_counter()
        call()
        synchronise(self.device)
        return time.perf_counter() - started

    def median(self, call: Callable[[], object], repeats: int = 10) -> float:
        """Return the median seconds of some calls after two that are not counted."""
        return statistics.median([self.seconds(call) for _ in range(repeats + 2)][2:])


def make_dataset(size: Size, device: torch.device) -> Dataset:
    """Return articles in which each vector leans on the one before it."""
    generator = torch.Generator(device).manual_seed(0)
    articles = size.rows // size.article + 1
    rows = torch.empty(articles, size.article, size.width, device=device)
    row = torch.zeros(articles, size.width, device=device)
    for place in range(size.article):
        noise = torch.randn(articles, size.width, generator=generator, device=device)
        row = F.normalize(0.6 * row + 0.8 * F.normalize(noise, dim=1), dim=1)
        rows[:, place] = row
    vectors = rows.flatten(0, 1)[: size.rows].clone()
    number = np.arange(size.rows)
    keys = np.column_stack([number // size.article, number % size.article]).astype(np.int32)
    if device.type == "cpu":
        bank = Bank(vectors.numpy(), keys)
    else:  # the host never holds it
        bank = Bank(np.broadcast_to(np.float32(0), vectors.shape), keys)
        bank._on_gpu[device] = vectors
    known = {"duplicate_group": number, "fingerprint": "made by seed 0"}
    bank.__dict__.update(known)  # hashing 1.8 GB on the host is not what is measured
    return dataset_from_bank(bank, 5)


@contextlib.contextmanager
def state_of(bench: Bench, recipe: Recipe) -> Iterator[TrainingState]:
    """A training of a recipe, ready for its first update; the memory of the last is given back."""
    _collect(bench)
    with tempfile.TemporaryDirectory() as folder:
        state = TrainingState(
            recipe, bench.dataset, Path(folder), World.current(bench.device), Stated()
        )
        state.updates = state.updates or state._device_updates()  # on a CPU as well
        state.sampler.refresh(1)
        state.network.train()
        if bench.on_cuda:
            torch.cuda.reset_peak_memory_stats()
        yield state


def _collect(bench: Bench) -> None:
    gc.collect()
    if bench.on_cuda:
        torch.cuda.empty_cache()


def order_of(bench: Bench) -> np.ndarray:
    """Return the train windows in the order of every training here."""
    return np.random.default_rng(0).permutation(len(bench.dataset.train))


def begin(bench: Bench, state: TrainingState, *, capture: bool) -> DeviceUpdates:
    """Return the updates of a state at the start of an epoch."""
    updates = state.updates
    assert updates is not None
    updates._may_capture = capture and bench.on_cuda
    updates.begin(order_of(bench), [RATE] * updates.updates_per_epoch)
    return updates


def as_before(bench: Bench, state: TrainingState) -> Callable[[int], float]:
    """Return an update that the host looks at before the next one, as on a CPU."""
    order, size = order_of(bench), state.recipe.training.batch_size
    probe = Probe(state.recipe, state.world, is_first=False, num_updates=10**9)
    probe.update = 1  # beyond the first, which it measures
    for group in state.optimizer.param_groups:
        group["lr"] = RATE
    return lambda n: loop._update(state, order[n * size : (n + 1) * size], probe)["loss"]


def update_row(bench: Bench, what: str, batch: int, seconds: float, note: str = "") -> None:
    """Print what an update takes, with the epoch of the report that it makes."""
    peak = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if bench.on_cuda else ""
    bench.row(
        what,
        f"{1e3 * seconds:.2f} ms",
        ", ".join(filter(None, [f"{seconds * WINDOWS / batch:.2f} s an epoch", peak, note])),
    )


def uncompiled() -> str:
    """Return what a note has to say where the compiler failed."""
    return "" if compiled.is_allowed() else f"; NOT compiled: {compiled._refused['why']}"


def failed(bench: Bench, what: str, error: BaseException) -> None:
    """Print what was not measured and why; keep the end of the traceback."""
    bench.row(what, "not run", compiled.reason_of(error).replace("|", "/"))
    lines = traceback.format_exception(error)
    bench.failures.append(f"{what}\n{''.join(lines)[-3000:]}")
