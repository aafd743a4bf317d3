"""What a run judges and what it trains: not the same where only predictions were given."""

from __future__ import annotations

from pathlib import Path

from lvm.core.outside import printable
from lvm.core.trainer import TrainerConfig
from lvm.triage.state import RunState
from lvm.triage.summary import Judged

PREDICTIONS = "predictions"  # stands for an arm where a person's predictions are judged
TRAINER = "trainer"  # the kind of a model that a person's own code trains


def subject(state: RunState) -> Judged:
    """Return what a run judges and what it trains."""
    arguments = state.arguments
    given = arguments.predictions or arguments.checkpoint
    kind = "predictions" if arguments.predictions else "checkpoint" if given else "recipe"
    recipe = state.started.config.recipe if state.started else None
    if recipe is not None and recipe.trainer is not None:
        return _own(recipe.trainer)
    name = printable(Path(given).name) if given else None
    trained = recipe.model.name if recipe else None
    stand_in = kind == "predictions"
    network = f"our {trained} network" if trained else "our network"
    return Judged(
        kind=kind,
        file=name,
        trained=trained,
        stand_in=stand_in,
        sentence=f"Judged: the predictions in {name}. Trained: {network} of the recipe, as a "
        "stand-in for the model behind them, which cannot be loaded; the remedies are tried on "
        "this stand-in."
        if stand_in
        else "",
    )


def _own(trainer: TrainerConfig) -> Judged:
    """Return what is judged where a trainer of one's own trains every model."""
    return Judged(
        kind=TRAINER, file=None, trained=trainer.title, stand_in=False, sentence=trainer.sentence
    )
