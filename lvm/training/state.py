"""Model, optimiser and data of one training, and how they get to disk and back."""

from __future__ import annotations

import functools
import hashlib
import math
from pathlib import Path

import msgspec
import numpy as np
import torch

from lvm.core.config.plain import fingerprint
from lvm.core.config.recipe import Recipe
from lvm.core.device import ids_on
from lvm.core.errors import CheckpointError, ConfigError, DataError
from lvm.core.plugins import digests, in_words
from lvm.core.randomness import derive_seed
from lvm.data.sketch import sketch
from lvm.data.windows import Dataset, count_by_article
from lvm.models.base import weight_decay_groups
from lvm.models.predictor import Predictor
from lvm.training.candidates import DeviceCandidates
from lvm.training.checkpoint import (
    load_optimizer_state,
    load_weights,
    read_manifest,
    save_checkpoint,
)
from lvm.training.epochs import EpochRecord, read_epochs, warmup_updates, write_epochs
from lvm.training.health import DevLoss, configured_negatives
from lvm.training.manifest import Manifest, Stated, TextSeen
from lvm.training.negatives import NegativeSampler
from lvm.training.reach import unreached
from lvm.training.updates import DeviceUpdates, Parts
from lvm.training.world import World

ELSEWHERE = "use another folder"


class TrainingState:
    """Model, optimiser and data of one training, and how they get to disk and back."""

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        folder: Path,
        world: World,
        lineage: Stated,
    ) -> None:
        self.recipe, self.dataset, self.folder = recipe, dataset, folder
        self.device, self.world, self.lineage = world.device, world, lineage
        batch = recipe.training.batch_size
        if batch % world.size:
            raise ConfigError(
                f"training.batch_size must be a multiple of the {world.size} workers (got {batch})."
            )
        self.updates_per_epoch = len(dataset.train) // batch
        if self.updates_per_epoch == 0:
            raise DataError(
                f"the train split has {len(dataset.train)} windows but a batch needs {batch} "
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
        self.epochs_done = self._epochs_of(manifest, checkpoint)
        if self.epochs_done < self.recipe.training.epochs:  # the state of a whole one may be gone
            moments = load_optimizer_state(checkpoint).get("optimizer")
            if not isinstance(moments, dict):
                raise CheckpointError(f"{checkpoint}/state.pt has no optimizer; {ELSEWHERE}.")
            self.optimizer.load_state_dict(moments)
        load_weights(self.predictor, checkpoint)
        return read_epochs(self.folder)[: self.epochs_done]

    def _epochs_of(self, manifest: Manifest, checkpoint: Path) -> int:
        """Return the epochs of a checkpoint; CheckpointError where it is not of this training."""
        for what, then, now in (
            ("another recipe", manifest.recipe_id, fingerprint(self.recipe)),
            ("another data", manifest.data, self.dataset.fingerprint),
            ("other plug-ins", in_words(manifest.plugins), in_words(digests())),
        ):
            if then != now:
                raise CheckpointError(
                    f"{checkpoint} was trained with {what} ({then}, now {now}); {ELSEWHERE}."
                )
        if not manifest.epoch:
            raise CheckpointError(f"{checkpoint}/manifest.json has no epoch; {ELSEWHERE}.")
        return manifest.epoch

    @functools.cached_property
    def text_seen(self) -> TextSeen:
        """Sketches of the train text, by which it is known where ids are of another bank."""
        found = sketch(self.dataset.bank, self.dataset.train)
        return msgspec.convert(found.to_plain(), TextSeen)

    def save(self, record: EpochRecord) -> None:
        """Append the record, then replace the checkpoint: a record may be ahead, never behind."""
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = read_epochs(self.folder)[: record.epoch - 1]
        write_epochs(self.folder, [*kept, record])
        cosine = record.dev.get("eval_cosine")
        dev_ids = np.ascontiguousarray(self.dataset.dev.targets)
        save_checkpoint(
            self.folder / "checkpoint",
            self.predictor,
            self.recipe,
            stated=msgspec.structs.replace(
                self.lineage,
                epoch=record.epoch,
                recipe_id=fingerprint(self.recipe),
                data=self.dataset.fingerprint,
                bank=self.dataset.bank.fingerprint,
                articles_seen=np.unique(self.dataset.train.articles).tolist(),
                text_seen=self.text_seen,
                seed=self.recipe.seed,
                val_cosine=float(cosine) if isinstance(cosine, int | float) else None,
                val_ids_sha256=hashlib.sha256(dev_ids.tobytes()).hexdigest(),
                val_articles=list(count_by_article(self.dataset.dev).items()),
            ),
            optimizer_state={"optimizer": self.optimizer.state_dict()},
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
