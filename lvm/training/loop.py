"""The training loop: one generator that trains an epoch and yields what it measured.

    for record in train(recipe, dataset, folder, validate=...):
        ...                      # stop any time; the last finished epoch is on disk

The same loop runs in a notebook, in a Ray Tune trial, and on every worker of a Ray Train run (where
the default process group decides the world). It knows nothing of gates, arms or Ray.
"""

from __future__ import annotations

import functools
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lvm.config.plain import fingerprint
from lvm.config.recipe import Recipe
from lvm.data.draw import count_by_article
from lvm.data.sketch import sketch
from lvm.data.windows import Dataset
from lvm.device import claim, ids_on
from lvm.errors import CheckpointError, ConfigError, DataError
from lvm.models.base import weight_decay_groups
from lvm.models.predictor import Predictor
from lvm.plugins import digests, in_words
from lvm.randomness import derive_seed, numpy_generator
from lvm.training.candidates import DeviceCandidates
from lvm.training.checkpoint import (
    load_optimizer_state,
    load_weights,
    read_manifest,
    save_checkpoint,
)
from lvm.training.epochs import EpochRecord, read_epochs, warmup_updates, write_epochs
from lvm.training.forward import Outputs, forward_pass
from lvm.training.health import DevLoss, Probe, configured_negatives
from lvm.training.negatives import NegativeSampler
from lvm.training.objective import objective
from lvm.training.reach import unreached
from lvm.training.updates import DeviceUpdates, Parts, not_finite
from lvm.training.world import World

Validate = Callable[[Predictor, int], Mapping[str, float | str]]


def train(
    recipe: Recipe,
    dataset: Dataset,
    folder: Path,
    *,
    validate: Validate,
    device: str = "cpu",
    lineage: Mapping[str, Any] | None = None,
) -> Iterator[EpochRecord]:
    """Train `recipe` on the train split, yield an EpochRecord per epoch, resume by itself.

    `folder` receives `checkpoint/` and `epochs.jsonl`. When it already holds epochs of the same
    recipe and data, their records are yielded again and training goes on after them, bit for bit
    on a CPU. Raises NonFiniteLossError for a loss or gradient that is not finite before it changes
    anything (on a GPU the error comes a little later, and before anything is saved),
    CheckpointError when the folder belongs to another recipe or other data, and DeviceError when
    this process has no such `device`.
    """
    world = World.current(claim(device))
    state = _State(recipe, dataset, folder, world, dict(lineage or {}))
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


class _State:
    """Model, optimiser and data of one training, and how they get to disk and back."""

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        folder: Path,
        world: World,
        lineage: dict[str, Any],
    ) -> None:
        self.recipe, self.dataset, self.folder = recipe, dataset, folder
        self.device, self.world, self.lineage = world.device, world, lineage
        batch = recipe.training.batch_size
        if batch % world.size:
            raise ConfigError(
                f"training.batch_size is {batch}, expected a multiple of the {world.size} "
                "workers; change one of the two."
            )
        self.updates_per_epoch = len(dataset.train) // batch
        if self.updates_per_epoch == 0:
            raise DataError(
                f"the train split has {len(dataset.train)} windows, expected {batch} or more "
                "(training.batch_size); lower the batch size or embed more text."
            )
        torch.manual_seed(derive_seed(recipe.seed, "torch"))  # dropout draws from the global stream
        self.predictor = Predictor(recipe, dataset.bank.width).to(self.device)
        self.autocast = _uses_bf16(recipe.training.precision, self.device)
        self.vectors = dataset.bank.on(self.device)
        if world.size > 1:
            self._leave_unreached()
        self.network = world.share(self.predictor)
        config = recipe.training
        self.optimizer = torch.optim.AdamW(
            weight_decay_groups(self.predictor),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.sampler = NegativeSampler(dataset.bank, dataset.train, recipe.negatives, recipe.seed)
        self.dev_loss = DevLoss(recipe, dataset, self.vectors)
        self.schedule = {
            "warmup_updates": float(warmup_updates(config, self.updates_per_epoch)),
            "configured_negatives": float(configured_negatives(recipe, dataset)),
        }
        self.epochs_done = 0
        self.updates = self._device_updates() if _is_gpu(self.device) else None

    def _leave_unreached(self) -> None:
        """Tell DDP not to wait for gradients that the objective does not have."""
        rows = np.arange(self.recipe.training.batch_size // self.world.size)
        contexts, targets = (
            self.vectors[ids_on(ids[rows], self.device)]
            for ids in (self.dataset.train.contexts, self.dataset.train.targets)
        )
        idle = unreached(
            self.predictor, self.recipe, contexts, targets, self.world, autocast=self.autocast
        )
        for parameter in idle:
            parameter.requires_grad_(False)

    def _device_updates(self) -> DeviceUpdates:
        recipe, world = self.recipe, self.world
        whole_bank = recipe.negatives.candidates == "bank"
        # Nothing but products reads the rows of the whole bank: they may be kept as these need.
        guided = recipe.negatives.false_negative_margin is not None
        rounded = self.autocast and not guided and not self.predictor.model.has_document_tower
        rows, half = world.slice(recipe.training.batch_size), torch.bfloat16 if rounded else None
        candidates = DeviceCandidates(
            self.sampler, self.dataset.train, self.vectors, rows, whole_bank=whole_bank, half=half
        )
        parts = Parts(
            recipe, self.network, self.predictor, self.optimizer, candidates, world, self.autocast
        )
        return DeviceUpdates(parts, self.updates_per_epoch)

    def set_learning_rate(self, update: int) -> None:
        """Set the rate of one update, counted from 0 over all epochs."""
        rate = self.learning_rate(update)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def learning_rate(self, update: int) -> float:
        """Return the rate of one update, counted from 0 over all epochs."""
        config = self.recipe.training
        total = self.updates_per_epoch * config.epochs
        warmup = warmup_updates(config, self.updates_per_epoch)
        return config.learning_rate * _warmup_cosine(update, warmup, total)

    def restore(self) -> list[EpochRecord]:
        """Load the last checkpoint, if any, and return the records of its epochs."""
        checkpoint = self.folder / "checkpoint"
        manifest = read_manifest(checkpoint)
        if manifest is None:
            return []
        expected = {"recipe_id": fingerprint(self.recipe), "data": self.dataset.fingerprint}
        for key, value in expected.items():
            if manifest.get(key) != value:
                raise CheckpointError(
                    f"{checkpoint} was trained with another {key.split('_')[0]} "
                    f"({manifest.get(key)}, now {value}); use another folder."
                )
        if (made_with := manifest.get("plugins", {})) != (here := digests()):
            raise CheckpointError(
                f"{checkpoint} was trained with other plug-ins ({in_words(made_with)}, now "
                f"{in_words(here)}); use another folder."
            )
        self.epochs_done = int(manifest["epoch"])
        if self.epochs_done < self.recipe.training.epochs:  # the state of a whole one may be gone
            self.optimizer.load_state_dict(load_optimizer_state(checkpoint)["optimizer"])
        load_weights(self.predictor, checkpoint)
        return read_epochs(self.folder)[: self.epochs_done]

    @functools.cached_property
    def text_seen(self) -> dict[str, Any]:
        """Sketches of the train text, by which it is known where ids are of another bank."""
        return sketch(self.dataset.bank, self.dataset.train).to_plain()

    def save(self, record: EpochRecord) -> None:
        """Append the record, then replace the checkpoint: a record may be ahead, never behind."""
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = read_epochs(self.folder)[: record.epoch - 1]
        write_epochs(self.folder, [*kept, record])
        dev_ids = np.ascontiguousarray(self.dataset.dev.targets)
        save_checkpoint(
            self.folder / "checkpoint",
            self.predictor,
            self.recipe,
            manifest={
                "width": self.dataset.bank.width,
                "epoch": record.epoch,
                "recipe_id": fingerprint(self.recipe),
                "data": self.dataset.fingerprint,
                "bank": self.dataset.bank.fingerprint,
                "articles_seen": np.unique(self.dataset.train.articles).tolist(),
                "text_seen": self.text_seen,
                "parents": self.lineage.get("parents", []),
                "commit": self.lineage.get("commit"),
                "seed": self.recipe.seed,
                "val_cosine": record.dev.get("eval_cosine"),
                "val_ids_sha256": hashlib.sha256(dev_ids.tobytes()).hexdigest(),
                "val_articles": list(count_by_article(self.dataset.dev).items()),
            },
            optimizer_state={"optimizer": self.optimizer.state_dict()},
        )


def time_updates(
    recipe: Recipe, dataset: Dataset, *, device: str = "cpu", num_updates: int = 4
) -> tuple[float, float]:
    """Return the seconds of one update (the median of a few) and of what an epoch does before.

    Trains and keeps nothing: it is what a forecast of a run's length is made from.
    """
    state = _State(recipe, dataset, Path(), World.current(claim(device)), {})
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


def _train_epoch(state: _State, epoch: int) -> tuple[dict[str, float], dict[str, float]]:
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


def _make_all(state: _State, order: np.ndarray, epoch: int, probe: Probe) -> dict[str, float]:
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
    state: _State, order: np.ndarray, epoch: int, probe: Probe
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


def _update(state: _State, batch: np.ndarray, probe: Probe) -> dict[str, float]:
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


def _forward(state: _State, batch: np.ndarray) -> Outputs:
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


def _warmup_cosine(update: int, warmup: int, total: int) -> float:
    """Return the share of the learning rate: linear warm-up, then half a cosine to zero."""
    if update < warmup:
        return (update + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (update - warmup) / max(1, total - warmup))))


def _is_gpu(device: torch.device) -> bool:
    return device.type != "cpu"


def _uses_bf16(precision: str, device: torch.device) -> bool:
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported())
