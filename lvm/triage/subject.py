"""What a run judges and what it trains: not the same where only predictions were given."""

from __future__ import annotations

from pathlib import Path

from lvm.outside import printable
from lvm.triage.state import RunState
from lvm.triage.summary import Judged

PREDICTIONS = "predictions"  # stands for an arm where a person's predictions are judged


def subject(state: RunState) -> Judged:
    """Return what a run judges and what it trains."""
    arguments = state.arguments
    given = arguments.predictions or arguments.checkpoint
    kind = "predictions" if arguments.predictions else "checkpoint" if given else "recipe"
    name = printable(Path(given).name) if given else None
    trained = state.started.config.recipe.model.name if state.started else None
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
