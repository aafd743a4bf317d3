"""What a triage checks and reads of a person's own trainer before it starts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from lvm.core.config.run import RunConfig
from lvm.core.errors import UsageError
from lvm.jobs.options import TriageOptions
from lvm.training.own.code import FOLDER, TrainerCode, code_of
from lvm.training.own.template import check_trainable

HANDED_IN = ("checkpoint", "predictions")  # each is a trained model


def check_trainer(config: RunConfig, options: TriageOptions) -> None:
    """Refuse what cannot work with the trainer of a recipe, before anything starts.

    Raises ConfigError for its command, UsageError for a model that is handed in as well.
    """
    if config.recipe.trainer is None:
        return
    for name in HANDED_IN:
        if getattr(options, name) is not None:
            raise UsageError(
                f"--{name} cannot be given with a trainer, which trains the model under triage; "
                "leave one of them out."
            )
    check_trainable(config.recipe, num_seeds=options.seeds or 1)


def trainer_code(config: RunConfig, recipe: Path | None, run: Path) -> TrainerCode | None:
    """Return the files of the recipe's trainer, or None without one.

    They are in the recipe's folder. A run that was fetched from another machine may lack both; it
    has its own copy.
    """
    if config.recipe.trainer is None:
        return None
    here = recipe is not None and recipe.exists()
    home = recipe.absolute().parent if recipe is not None and here else run / FOLDER
    return code_of(config.recipe.trainer, home)


@contextlib.contextmanager
def keep_files(code: TrainerCode | None, run: Path) -> Iterator[None]:
    """Keep the files of a trainer in a run; remove what its arms trained on when all is done."""
    if code is None:
        yield
        return
    code.keep(run)
    yield
    code.forget_windows(run)  # an interrupted run needs them again
