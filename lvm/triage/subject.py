"""What a run judges and what it trains: not the same where only predictions were given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lvm.events import Event, indexed
from lvm.outside import printable
from lvm.printed import arguments_of
from lvm.trainer import TrainerConfig, read_trainer

PREDICTIONS = "predictions"  # stands for an arm where a person's predictions are judged
TRAINER = "trainer"  # the kind of a model that a person's own code trains


def subject(events: Sequence[Event]) -> dict[str, Any]:
    """Return `judged` of verdict.json: kind, file, what is trained, and both in a sentence.

    `kind` is predictions, checkpoint, recipe or trainer. `stand_in` says that the steps are tried
    on a network of ours in place of the model under triage; the sentence is then about both, and
    with a trainer about that; else it is empty.
    """
    events = indexed(events)
    arguments = arguments_of(events)
    kind = next((k for k in ("predictions", "checkpoint") if arguments.get(k)), "recipe")
    started = events.last("run_started") or {}
    recipe = started.get("config", {}).get("recipe", {})
    trained, trainer = recipe.get("model", {}).get("name"), recipe.get("trainer")
    if trainer is not None:
        return _own(read_trainer(trainer, None, "trainer"))
    name = printable(Path(arguments[kind]).name) if kind != "recipe" else None
    stand_in = kind == "predictions"
    network = f"our {trained} network" if trained else "our network"
    return {
        "kind": kind,
        "file": name,
        "trained": trained,
        "stand_in": stand_in,
        "sentence": f"Judged: the predictions in {name}. Trained: {network} of the recipe, as a "
        "stand-in for the model behind them, which cannot be loaded; the remedies are tried on "
        "this stand-in."
        if stand_in
        else "",
    }


def _own(trainer: TrainerConfig | None) -> dict[str, Any]:
    """Return `judged` where a trainer of one's own trains every model."""
    assert trainer is not None
    return {
        "kind": TRAINER,
        "file": None,
        "trained": trainer.title,
        "stand_in": False,
        "sentence": trainer.sentence,
    }
