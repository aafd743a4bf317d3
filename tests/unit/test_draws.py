"""What a sweep draws: every combination once, within its bounds, the same again."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lvm.core.config.steps import OwnStep, Sweep, Values
from lvm.triage.draws import Draws, drawn_arms

LISTED = Values(kind="list", values=(64, 128, 256))
WHOLE = Values(kind="int", values=(1, 4))
RATE = Values(kind="log_uniform", values=(1e-4, 1e-1))
SHARE = Values(kind="uniform", values=(-0.5, 0.5))
KEYS = {"training.batch_size": LISTED, "model.num_layers": WHOLE}
MANY = {**KEYS, "training.learning_rate": RATE, "model.dropout": SHARE}


def test_a_grid_has_every_combination_once_the_last_key_fastest() -> None:
    arms = drawn_arms(Sweep(keys=KEYS), 0, "s")
    assert [tuple(arm.values()) for arm in arms][:5] == [
        (64, 1),
        (64, 2),
        (64, 3),
        (64, 4),
        (128, 1),
    ]
    assert len({repr(arm) for arm in arms}) == len(arms) == 12


@pytest.mark.parametrize("sampler", ["random", "sobol"])
@pytest.mark.parametrize("num_arms", [1, 5, 200])
def test_as_many_arms_as_are_asked_within_their_bounds(sampler, num_arms) -> None:
    arms = drawn_arms(Sweep(keys=MANY, arms=num_arms, sampler=sampler), 0, "s")
    assert len({repr(arm) for arm in arms}) == len(arms) == num_arms
    for arm in arms:
        assert list(arm) == list(MANY)
        assert arm["training.batch_size"] in LISTED.values
        assert type(arm["model.num_layers"]) is int
        assert 1 <= arm["model.num_layers"] <= 4
        assert 1e-4 <= arm["training.learning_rate"] <= 1e-1
        assert float(f"{arm['training.learning_rate']:.4g}") == arm["training.learning_rate"]
        assert -0.5 <= arm["model.dropout"] <= 0.5


@pytest.mark.parametrize("sampler", ["random", "sobol"])
def test_all_there_are_can_be_drawn(sampler) -> None:
    arms = drawn_arms(Sweep(keys=KEYS, arms=12, sampler=sampler), 3, "s")
    assert {repr(arm) for arm in arms} == {repr(arm) for arm in drawn_arms(Sweep(keys=KEYS), 0, "")}


@pytest.mark.parametrize("sampler", ["random", "sobol"])
def test_a_draw_depends_on_the_seed_and_the_step_alone(sampler) -> None:
    sweep = Sweep(keys=MANY, arms=6, sampler=sampler)
    first = drawn_arms(sweep, 0, "one")
    assert drawn_arms(sweep, 0, "one") == first
    assert drawn_arms(sweep, 1, "one") != first
    assert drawn_arms(sweep, 0, "two") != first


def test_a_logarithm_is_even_and_sobol_more_even_than_chance() -> None:
    found = {}
    for sampler in ("random", "sobol"):
        sweep = Sweep(keys={"training.learning_rate": RATE}, arms=128, sampler=sampler)
        drawn = [arm["training.learning_rate"] for arm in drawn_arms(sweep, 0, "s")]
        shares = np.sort([math.log10(value) / 3 + 4 / 3 for value in drawn])
        found[sampler] = np.abs(shares - (np.arange(128) + 0.5) / 128).max()
    assert found["sobol"] < 0.02 < found["random"] < 0.15


def test_arms_are_named_by_what_they_change() -> None:
    keys = {"objective.terms.one.weight": LISTED, "objective.terms.two.weight": LISTED, **KEYS}
    step = OwnStep(name="s", question="?", sweep=Sweep(keys=keys, arms=2, sampler="random"))
    names = [arm.name for arm in Draws(0).first(step)]
    assert len(set(names)) == 2
    assert names[0].startswith("objective.terms.one.weight ")
    assert ", batch_size " in names[0]
