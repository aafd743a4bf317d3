"""A checkpoint that was trained too little is not sold a step as its remedy."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import tiny
import torch
import worlds

from lvm.core.config.read import load_run_config
from lvm.core.records import RunVerdict, Verdict
from lvm.triage.actions import COMBINATION, MORE_TRAINING
from lvm.triage.events import Confirmed, Phase1Judged, StepEnded, StepStarted
from lvm.triage.step import STEPS
from lvm.triage.verdict import build_verdict

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def one_thread():
    """Arms set the number of threads; give it back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_more_training_is_the_cause_where_the_unchanged_recipe_needs_nothing_else(tmp_path) -> None:
    """The recipe is right for this world, and its checkpoint had one epoch of eight."""
    world, base = worlds.planted(0), worlds.base_config(0)
    right = base.recipe.with_changes({"objective.space": "raw"})
    short = dataclasses.replace(base, recipe=right.with_changes({"training.epochs": 1}))
    _, first = tiny.triage(tmp_path / "short", world.dataset, short, num_steps=0)
    trained = first.events.last(StepStarted, step="phase_1").arms[1]
    checkpoint = tmp_path / "short" / "arms" / trained.id / "checkpoint"

    full = dataclasses.replace(base, recipe=right)
    stop, journal = tiny.triage(tmp_path / "run", world.dataset, full, checkpoint=checkpoint)

    assert journal.events.last(Phase1Judged).verdict != Verdict.PASS
    (confirmed,) = journal.events.of(Confirmed)
    assert confirmed.success == Verdict.PASS  # the arm of a step passes as well ...
    assert confirmed.control.verdict == Verdict.PASS
    assert (stop.verdict, stop.cause) == (RunVerdict.FIXED, (MORE_TRAINING,))  # ... and is no cause
    document = build_verdict(journal.events, resume="")
    assert document.arm.recipe.objective == right.objective
    assert document.arm.id == confirmed.control.spec


def test_every_step_names_the_one_cause_and_says_what_all_that_helped_add(tmp_path) -> None:
    """Other steps help a little beside the remedy, and together they do harm: only trying tells."""
    world = worlds.planted(0)
    recipe = Path(__file__).parents[2] / "lvm" / "recipes" / "wrong_temperature.toml"
    config = load_run_config(recipe, worlds.base_config(0))
    steps = [STEPS.get(name) for name in ("temperature", "negatives", "anchor_mmd")]
    stop, journal = tiny.triage(tmp_path, world.dataset, config, steps=steps, all_steps=True)

    assert (stop.verdict, stop.cause) == (RunVerdict.FIXED, ("temperature",))
    assert len(journal.events.of(StepEnded)) == 3  # the fix of the first did not end the run
    kept = [(e.step, e.kept) for e in journal.events.of(StepEnded) if e.kept]
    assert len(kept) > 1
    together = journal.events.last(Confirmed, step=COMBINATION)
    spec = journal.events.last(StepStarted, step="confirm_combination").arms[0]
    assert spec.recipe.objective.temperature == 0.10
    assert spec.id == together.spec
    document = build_verdict(journal.events, resume="")
    assert [
        list(pair)
        for pair in zip(document.combination.steps, document.combination.arms, strict=True)
    ] == [list(pair) for pair in kept]
    assert document.combination.best_alone[0] == "temperature"
    assert "does worse than it alone" in document.headline
