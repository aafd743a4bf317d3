"""Recipes that are wrong in one respect, in a world where the remedy is known: is it found?

The worlds and why each recipe fails in them are described in tests/worlds.py. The table over ten
seeds comes from benchmarks/planted_worlds.py.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import tiny
import worlds

from lvm.core.config.read import load_run_config
from lvm.core.records import RunVerdict, Verdict
from lvm.triage.events import BelowLadder, Confirmed, Phase1Judged, StepEnded, TestJudged

pytestmark = pytest.mark.integration  # whole triages, for their seconds; they start no process

RECIPES = Path(__file__).parents[2] / "lvm" / "recipes"
SEEDS = (0, 1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("recipe", "cause"),
    [
        ("wrong_head_only", "projection_head"),
        ("wrong_temperature", "temperature"),
        ("wrong_contrastive_weight", "contrastive_weight"),
    ],
)
def test_the_step_that_repairs_a_wrong_recipe_is_the_cause(recipe, cause, seed, tmp_path) -> None:
    world = worlds.planted(seed)
    config = load_run_config(RECIPES / f"{recipe}.toml", worlds.base_config(seed))
    stop, journal = tiny.triage(tmp_path, world.dataset, config, num_steps=6)

    assert journal.events.last(Phase1Judged).verdict != Verdict.PASS
    assert (stop.verdict, stop.cause) == (RunVerdict.FIXED, (cause,))
    *earlier, last = journal.events.of(Confirmed)
    assert last.step == cause
    assert last.verdict == Verdict.PASS
    assert all(event.verdict != Verdict.PASS for event in earlier)
    # The remedy is decisive: it finds nearly all that can be found, and the wrong recipe does not.
    found = {e.arm: e.evaluation.masked["r_at_5"] for e in journal.events.of(TestJudged)}
    wrong = journal.events.last(TestJudged, name="InfoNCE+AR").arm
    assert found[last.spec] > 0.55 > found[wrong]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_network_too_narrow_to_copy_is_the_cause_where_copying_is_best(seed, tmp_path) -> None:
    world = worlds.drifting(seed)
    config = load_run_config(RECIPES / "wrong_width.toml", worlds.base_config(seed))
    stop, journal = tiny.triage(tmp_path, world.dataset, config, num_steps=6)

    found = journal.events.last(BelowLadder).findings
    assert [f.code for f in found] == ["BELOW_LADDER"]
    assert (stop.verdict, stop.cause) == (RunVerdict.FIXED, ("context_path",))
    assert journal.events.of(StepEnded)[0].step == "context_path", "asked first"
    reached = {e.arm: e.evaluation.masked["r_at_5"] for e in journal.events.of(TestJudged)}
    confirmed = journal.events.last(Confirmed, step="context_path")
    assert reached[confirmed.spec] > 0.9 > 0.2 > reached[confirmed.control.spec]


@pytest.mark.parametrize("seed", SEEDS)
def test_without_signal_nothing_is_called_a_fix(seed, tmp_path) -> None:
    world = worlds.without_signal(seed)
    config = load_run_config(RECIPES / "wrong_head_only.toml", worlds.base_config(seed))
    schedule = dataclasses.replace(config.schedule, long_epochs=5)  # it walks the whole tree
    config = dataclasses.replace(config, schedule=schedule)
    stop, journal = tiny.triage(tmp_path, world.dataset, config, num_steps=6)

    assert stop.verdict in (RunVerdict.NOT_FIXED, RunVerdict.INCONCLUSIVE)
    assert stop.cause == ()
    assert len(journal.events.of(StepEnded)) == 6
    # The stage gate alone would have been fooled: arms hold it, and only retrieval says no.
    assert journal.events.of(Confirmed)
    found = [e.evaluation.masked["r_at_5"] for e in journal.events.of(TestJudged)]
    assert max(found) < 0.03


def test_each_recipe_differs_from_the_right_one_in_one_respect() -> None:
    base = worlds.base_config()
    right = base.recipe.with_changes({"objective.space": "raw"}).objective
    differing = {
        "wrong_head_only": {"space"},
        "wrong_temperature": {"temperature"},
        "wrong_contrastive_weight": {"contrastive_weight", "ar_weight"},
        "wrong_width": {"space"},  # the report's objective, on a network too narrow
    }
    assert {path.stem for path in RECIPES.glob("wrong_*.toml")} == set(differing)
    for name, fields in differing.items():
        config = load_run_config(RECIPES / f"{name}.toml", base)
        values, wanted = vars(config.recipe.objective), vars(right)
        assert {key for key in values if values[key] != wanted[key]} == fields
        own, model = vars(config.recipe.model), vars(base.recipe.model)
        narrow = {"hidden", "head_dim"} if name == "wrong_width" else set()
        assert {key for key in model if own[key] != model[key]} == narrow
        same = dataclasses.replace(
            config.recipe, objective=base.recipe.objective, model=base.recipe.model
        )
        assert dataclasses.replace(config, recipe=same) == base
