"""The training loop: one generator that trains an epoch and yields what it measured.

    for record in train(recipe, dataset, folder, validate=...):
        ...                      # stop any time; the last finished epoch is on disk

The same loop runs in a notebook, in a Ray Tune trial, and on every worker of a Ray Train run (where
the default process group decides the world). It knows nothing of gates, arms or Ray.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lvm.core.config.recipe import Recipe
from lvm.core.device import claim
from lvm.core.randomness import derive_seed, numpy_generator
from lvm.data.windows import Dataset
from lvm.models.predictor import Predictor
from lvm.training.epochs import EpochRecord
from lvm.training.forward import Outputs, forward_pass
from lvm.training.health import Probe
from lvm.training.manifest import Stated
from lvm.training.objective import objective
from lvm.training.state import TrainingState
from lvm.training.updates import not_finite
from lvm.training.world import World

Validate = Callable[[Predictor, int], Mapping[str, float | str]]


def train(
    recipe: Recipe,
    dataset: Dataset,
    folder: Path,
    *,
    validate: Validate,
    device: str = "cpu",
    commit: str | None = None,
    parents: Sequence[str] = (),
) -> Iterator[EpochRecord]:
    """Train `recipe` on the train split, yield an EpochRecord per epoch, resume by itself.

    `folder` receives `checkpoint/` and `epochs.jsonl`; the manifest names the `commit` and the
    `parents`, checkpoints that the model was started from. When it already holds epochs of the same
    recipe and data, their records are yielded again and training goes on after them, bit for bit
    on a CPU. Raises NonFiniteLossError for a loss or gradient that is not finite before it changes
    anything (on a GPU the error comes a little later, and before anything is saved),
    CheckpointError when the folder belongs to another recipe or other data, and DeviceError when
    this process has no such `device`.
    """
    world = World.current(claim(device))
    lineage = Stated(commit=commit, parents=[*parents])
    state = TrainingState(recipe, dataset, folder, world, lineage)
    for record in state.restore():
        yield record
    for epoch in range(state.epochs_done + 1, recipe.training.epochs + 1):
        started = time.perf_counter()
        tiers = state.sampler.refresh(epoch)
        measured, health = _train_epoch(state, epoch)
        seconds = time.perf_counter() - started
        dev: dict[str, float | str] = {}
        if world.rank == 0:
            dev = dict(validate(state.predictor, epoch))
            health |= state.dev_loss.measure(state.predictor, state.autocast)
        record = EpochRecord(
            epoch=epoch, train=measured, dev=dev, seconds=seconds, negatives=tiers, health=health
        )
        if world.rank == 0:
            state.save(record)
        world.barrier()
        yield record


def time_updates(
    recipe: Recipe, dataset: Dataset, *, device: str = "cpu", num_updates: int = 4
) -> tuple[float, float]:
    """Return the seconds of one update (the median of a few) and of what an epoch does before.

    Trains and keeps nothing: it is what a forecast of a run's length is made from.
    """
    state = TrainingState(recipe, dataset, Path(), World.current(claim(device)), Stated())
    started = time.perf_counter()
    state.sampler.refresh(1)
    before = time.perf_counter() - started
    state.network.train()
    if state.updates is not None:
        return state.updates.time(num_updates), before
    probe = Probe(recipe, state.world, is_first=False, num_updates=num_updates)
    size, seconds = recipe.training.batch_size, []
    for update in range(num_updates + 1):  # the first one also finds out how, and is not counted
        first = update % state.updates_per_epoch * size
        started = time.perf_counter()
        state.set_learning_rate(0)
        _update(state, np.arange(first, first + size), probe)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[1:])), before


def _train_epoch(state: TrainingState, epoch: int) -> tuple[dict[str, float], dict[str, float]]:
    """Make every update of one epoch; return the means of what was measured, and its health."""
    recipe, world = state.recipe, state.world
    order = numpy_generator(recipe.seed, "shuffle", epoch).permutation(len(state.dataset.train))
    torch.manual_seed(derive_seed(recipe.seed, "dropout", epoch, world.rank))
    state.network.train()
    probe = Probe(recipe, world, is_first=epoch == 1, num_updates=state.updates_per_epoch)
    make_all = _make_all if state.updates is None else _make_all_on_device
    means = make_all(state, order, epoch, probe)
    if world.size > 1:
        names = sorted(means)
        own = torch.tensor([means[n] for n in names], dtype=torch.float64, device=world.device)
        means = dict(zip(names, (world.sum(own) / world.size).tolist(), strict=True))
    health = {"updates": float(epoch * state.updates_per_epoch), **state.schedule, **probe.values}
    return means, health


def _make_all(
    state: TrainingState, order: np.ndarray, epoch: int, probe: Probe
) -> dict[str, float]:
    """Make the updates of an epoch, each looked at before the next; return the means."""
    batch_size = state.recipe.training.batch_size
    sums: dict[str, float] = {}
    for update in range(state.updates_per_epoch):
        batch = order[update * batch_size : (update + 1) * batch_size]
        state.set_learning_rate((epoch - 1) * state.updates_per_epoch + update)
        for name, value in _update(state, batch, probe).items():
            sums[name] = sums.get(name, 0.0) + value
    return {name: value / state.updates_per_epoch for name, value in sums.items()}


def _make_all_on_device(
    state: TrainingState, order: np.ndarray, epoch: int, probe: Probe
) -> dict[str, float]:
    """Make the updates of an epoch without waiting for them; return the means."""
    assert state.updates is not None
    count = state.updates_per_epoch
    first = (epoch - 1) * count
    rates = [state.learning_rate(first + update) for update in range(count)]
    means, cosine = state.updates.epoch(order, rates, probe)
    own = torch.tensor(cosine, dtype=torch.float64, device=state.device)
    probe.values["train_cosine"] = float(state.world.sum(own)) / state.world.size
    return means


def _update(state: TrainingState, batch: np.ndarray, probe: Probe) -> dict[str, float]:
    """Make one update from a global batch of train windows."""
    recipe, world = state.recipe, state.world
    outputs = _forward(state, batch)
    state.optimizer.zero_grad(set_to_none=True)
    result = objective(recipe, outputs, world)
    probe.before_backward(outputs, result)
    result.total.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    probe.after_backward(state.predictor)
    norm = nn.utils.clip_grad_norm_(state.predictor.parameters(), recipe.training.clip_norm)
    measured = {"loss": result.total.detach(), "gradient_norm": norm, **result.measured}
    packed = torch.stack([value.double() for value in measured.values()])
    # One transfer per update. DDP has reduced the gradients, but each rank knows its own loss only.
    values = dict(zip(measured, packed.tolist(), strict=True))
    finite = math.isfinite(values["loss"]) and math.isfinite(values["gradient_norm"])
    if world.size > 1:
        bad = world.sum(torch.tensor(0.0 if finite else 1.0, device=world.device))
        finite = float(bad) == 0.0
    if not finite:
        raise not_finite(values["loss"], values["gradient_norm"])
    state.optimizer.step()
    return values


def _forward(state: TrainingState, batch: np.ndarray) -> Outputs:
    rows = state.world.slice(len(batch))
    return forward_pass(
        state.network,
        state.predictor,
        state.vectors,
        state.dataset.train,
        batch[rows],
        state.sampler.candidates(batch, rows),
        autocast=state.autocast,
    )
