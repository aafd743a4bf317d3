"""Presets: a complete run configuration per kind of machine. A recipe file changes keys of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lvm.core.config.read import load_run_config
from lvm.core.config.recipe import HeadConfig, ModelConfig, ObjectiveConfig, Recipe, TrainingConfig
from lvm.core.config.run import RunConfig, ScheduleConfig
from lvm.core.errors import UsageError
from lvm.core.registry import closest


def laptop() -> RunConfig:
    """Return the report's objective on a small network: minutes on two cores.

    One layer and this learning rate are best for the base recipe on dev (reports/LOG.md); no choice
    was based on what a fix reaches.
    """
    return RunConfig(
        recipe=Recipe(
            model=ModelConfig(hidden=128, num_layers=1, state=64),
            head=HeadConfig(hidden=512, width=256),
            objective=ObjectiveConfig(),
            training=TrainingConfig(epochs=8, batch_size=256, learning_rate=1.5e-3),
        ),
        schedule=ScheduleConfig(short_epochs=5, long_epochs=8, confirm_workers=2),
    )


def gpu() -> RunConfig:
    """Return the report's full recipe on one GPU: 768-D, 8 layers, state 128.

    The report's "effective batch 1024" was 256 x 4 gradient accumulation, which is 255 negatives;
    here one batch has 1024 rows, and 1023 of them are negatives.
    """
    return RunConfig(
        recipe=Recipe(
            model=ModelConfig(hidden=768, num_layers=8, state=128),
            head=HeadConfig(hidden=512, width=256),
            objective=ObjectiveConfig(),
            training=TrainingConfig(
                epochs=20, batch_size=1024, learning_rate=1e-3, precision="auto"
            ),
        ),
        schedule=ScheduleConfig(
            use_gpu=True, confirm_workers=1, threads_per_worker=2, max_concurrent_arms=8
        ),
    )


def cluster() -> RunConfig:
    """Return the report's full recipe on a cluster: batch 256 per worker, 4 workers to confirm.

    A spot node takes about ten minutes to boot and install torch, and may be refused or reclaimed
    before it is ready: arms wait long enough for a second one. Each reclaimed node costs its arms
    an epoch, and a long training may lose many nodes.
    """
    base = gpu()
    return RunConfig(
        recipe=base.recipe,
        schedule=ScheduleConfig(
            use_gpu=True,
            workers_per_arm=1,
            confirm_workers=4,
            threads_per_worker=2,
            autoscaling=True,
            max_concurrent_arms=16,
            wait_minutes=30.0,
            max_restarts=10,
            stuck_seconds=600.0,  # a shared file system may hang for minutes and recover
        ),
    )


DEFAULT_PRESET = "laptop"
PRESETS: dict[str, Callable[[], RunConfig]] = {"laptop": laptop, "gpu": gpu, "cluster": cluster}


def preset(name: str) -> RunConfig:
    """Return the preset called `name`; UsageError lists the known ones otherwise."""
    if name not in PRESETS:
        known = sorted(PRESETS)
        raise UsageError(
            f"unknown preset {name!r}{closest(name, known)}; allowed: {', '.join(known)}."
        )
    return PRESETS[name]()


def load_config(name: str, recipe: Path | None) -> RunConfig:
    """Return the preset called `name`, changed by a recipe file when one is given."""
    config = preset(name)
    return config if recipe is None else load_run_config(recipe, config)
