"""The forecast: arithmetic on hand-made costs, the plan against the arms that really run."""

from __future__ import annotations

import dataclasses

import pytest
import tiny

from lvm.core.config.run import ScheduleConfig
from lvm.triage.forecast import BETWEEN_RACES, TRAIN_START, TUNE_START, forecast, race_seconds
from lvm.triage.plan import Planned, PlannedRace, plan_races
from lvm.triage.probe import Costs, probe, recipe_key
from lvm.triage.step import extended_steps, steps_in_order

SCHEDULE = ScheduleConfig(first_rung=2, short_epochs=4, long_epochs=8, max_concurrent_arms=6)
RECIPE = tiny.recipe(**{"training.epochs": 8, "training.batch_size": 10})
COSTS = Costs(update={"": 1.0}, epoch={"": 0.0}, dev=2.0, test=5.0, start=4.0, probe=1.0)
EPOCH = 12.0  # 100 windows in batches of 10, and an evaluation
FIXED = BETWEEN_RACES + TUNE_START


def seconds(*arms, slots=2, schedule=SCHEDULE):
    race = PlannedRace(name="x", arms=arms)
    return race_seconds(race, COSTS, schedule, num_windows=100, slots=slots)


def arm(**changes):
    return dataclasses.replace(Planned(recipe=RECIPE), **changes)


def test_one_arm_costs_its_epochs_and_a_start() -> None:
    assert seconds(arm()) == pytest.approx(FIXED + 4 + 8 * EPOCH)


def test_arms_that_fit_side_by_side_cost_as_much_as_one() -> None:
    one, two = seconds(arm(pruned=False)), seconds(arm(pruned=False), arm(pruned=False))
    assert two == pytest.approx(one)
    four = seconds(*[arm(pruned=False)] * 4)
    assert four == pytest.approx(FIXED + 4 * 2 + 2 * 8 * EPOCH)  # two at a time
    alone = seconds(*[arm(pruned=False)] * 4, slots=1)
    assert alone == pytest.approx(FIXED + 4 * 4 + 4 * 8 * EPOCH)


def test_the_schedule_limits_the_arms_at_once() -> None:
    schedule = dataclasses.replace(SCHEDULE, max_concurrent_arms=1)
    pair = [arm(pruned=False)] * 2
    assert seconds(*pair, slots=8, schedule=schedule) == pytest.approx(seconds(*pair, slots=1))


def test_the_rungs_save_what_they_prune() -> None:
    control, arms = arm(pruned=False), [arm() for _ in range(4)]  # four objects, equal as they are
    # Rungs at 2, 4 and 8 epochs: 5 arms, then 2 and the control, then 1 and the control.
    epochs = 2 * 5 / 2 + 2 * 3 / 2 + 4 * 1
    assert seconds(control, *arms) == pytest.approx(FIXED + 4 * 5 / 2 + epochs * EPOCH)


def test_workers_share_the_updates_and_cost_a_start_of_their_own() -> None:
    found = seconds(arm(workers=2, test=True, pruned=False))
    assert found == pytest.approx(FIXED + 4 + TRAIN_START + 4 + 8 * (10 + 2) + 5)  # no faster
    four = seconds(arm(workers=4, test=True, pruned=False))
    assert four == pytest.approx(FIXED + 4 * 2 + TRAIN_START + 4 + 8 * (10 / 2 + 2) + 5)


def test_a_model_that_is_only_searched_costs_an_evaluation() -> None:
    assert seconds(arm(trains=False)) == pytest.approx(FIXED + 4 + 2)


def test_the_range_lies_between_no_full_training_and_all_of_them() -> None:
    races = [
        PlannedRace(name="phase 1", arms=[arm()]),
        PlannedRace(name="step", arms=[arm()], certain=False),
        PlannedRace(name="confirm", arms=[arm()], certain=False, in_full=True),
    ]
    found = forecast(races, COSTS, SCHEDULE, num_windows=100, slots=2)
    asked, in_full = found.parts["step"], found.parts["confirm"]
    assert found.upper - found.lower == pytest.approx(asked + in_full)
    assert found.upper == pytest.approx(sum(found.parts.values()))
    assert found.lower < found.seconds < found.upper
    assert found.seconds**2 == pytest.approx(found.lower * (found.upper - in_full / 2))
    assert "at least" in found.in_words()
    assert found.in_journal().probe.update_seconds == 1.0


def test_costs_are_those_of_the_recipe_whatever_its_epochs() -> None:
    other = RECIPE.with_changes({"objective.space": "raw"})
    costs = dataclasses.replace(
        COSTS, update={"": 1.0, recipe_key(other): 3.0}, epoch={"": 0.0, recipe_key(other): 1.0}
    )
    longer = other.with_changes({"training.epochs": 3, "seed": 5})
    assert costs.of(longer, 100) == pytest.approx(10 * 3.0 + 1.0 + 2.0)
    unknown = RECIPE.with_changes({"objective.temperature": 0.5})
    assert costs.of(unknown, 100) == pytest.approx(EPOCH)


def test_the_plan_holds_every_arm_once(tiny_dataset) -> None:
    config = tiny.config()
    races = plan_races(config, steps_in_order(), extended_steps(), tiny_dataset, all_steps=True)
    arms = {race.name: len(race.arms) for race in races}
    # Phase 1 trains 3 epochs and a step 2, so that the control of the first step is new ...
    assert arms["phase 1"] == 2
    assert arms["projection_head"] == 4
    # ... and the same in every later one, the open questions included.
    assert (arms["temperature"], arms["contrastive_weight"]) == (3, 2)
    assert arms["infonce_alone"] == 1  # its control is an arm of step 1
    assert arms["stop_gradient"] == 1  # "none" is an arm of step 1 as well
    assert "projection_at_inference" not in arms  # all of it is in step 1
    uncertain = [race.name for race in races if not race.certain]
    assert len(uncertain) == len(steps_in_order()) + 1
    assert uncertain[-1] == "confirm combination"


def test_a_run_that_may_end_early_is_certain_of_its_first_step_alone(tiny_dataset) -> None:
    races = plan_races(
        tiny.config(), steps_in_order(), extended_steps(), tiny_dataset, all_steps=False
    )
    certain = [race.name for race in races if race.certain]
    assert certain[:3] == ["phase 1", "projection_head", "confirm projection_head"]
    assert set(certain[3:]) <= {step.name for step in extended_steps()}


def test_a_step_without_arms_cannot_end_a_run(tiny_dataset) -> None:
    config = tiny.config(base=tiny.recipe(**{"objective.space": "raw"}))
    races = plan_races(config, steps_in_order(), [], tiny_dataset, all_steps=False)
    certain = [race.name for race in races if race.certain]
    assert certain == ["phase 1", "temperature", "confirm temperature"]


def test_the_probe_times_every_recipe_and_leaves_nothing_behind(tiny_dataset, monkeypatch) -> None:
    monkeypatch.setattr("lvm.triage.probe._start_seconds", lambda: 1.5)
    config = tiny.config()
    races = plan_races(config, steps_in_order()[:2], [], tiny_dataset, all_steps=True)
    costs = probe(config, tiny_dataset, races, limit=600.0)
    trained = {recipe_key(a.recipe) for race in races for a in race.arms if a.trains}
    assert set(costs.update) == {"", *trained}
    assert all(0 < value < 10 for value in costs.update.values())
    assert costs.dev > 0
    assert costs.test > 0
    assert costs.start == 1.5
    hurried = probe(config, tiny_dataset, races, limit=0.0)
    assert set(hurried.update) == {""}  # the rest is taken to cost what the base recipe costs
