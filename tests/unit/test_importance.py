"""The importance of a key: what a model of it alone explains, and nothing where chance does."""

from __future__ import annotations

import numpy as np
import pytest

from lvm.core.config.steps import Sweep, Values
from lvm.triage.importance import FEWEST, Swept, SweptArm, explained

RANGE = Values(kind="uniform", values=(0.0, 1.0))
LISTED = Values(kind="list", values=("a", "b", "c"))
SWEEP = Sweep(keys={"x": RANGE, "y": RANGE, "z": LISTED}, arms=100, sampler="random")


def made(values, num_arms: int = 60, seed: int = 0, noise: float = 0.1) -> Swept:
    """Arms whose value is `values(x, y, z)` with noise."""
    rng = np.random.default_rng(seed)
    arms = []
    for _ in range(num_arms):
        changes = {"x": rng.random(), "y": rng.random(), "z": str(rng.choice(["a", "b", "c"]))}
        value = values(*changes.values()) + noise * rng.standard_normal()
        arms.append(SweptArm(name=str(changes), changes=changes, value=float(value)))
    return Swept(sweep=SWEEP, epoch=2, arms=arms, num_without=0)


def test_the_key_that_decides_has_nearly_all_of_it() -> None:
    shares = made(lambda x, y, z: 3 * x).shares
    assert next(iter(shares)) == "x"
    assert shares["x"] > 0.85
    assert max(shares["y"], shares["z"]) < 0.1


def test_a_key_with_a_best_value_in_the_middle_counts_as_well() -> None:
    assert made(lambda x, y, z: -8 * (x - 0.5) ** 2).shares["x"] > 0.6


def test_a_word_counts_by_its_values() -> None:
    shares = made(lambda x, y, z: {"a": 0.0, "b": 1.0, "c": 0.2}[z]).shares
    assert (next(iter(shares)), shares["z"] > 0.85) == ("z", True)


def test_chance_explains_nothing_on_average() -> None:
    found = [
        max(made(lambda x, y, z: 0, num_arms=30, seed=seed).shares.values()) for seed in range(40)
    ]
    assert np.median(found) < 0.1
    assert max(found) < 0.5


def test_what_keys_do_together_is_the_share_of_none() -> None:
    shares = made(lambda x, y, z: 4 * (x > 0.5) * (y > 0.5), num_arms=200).shares
    assert 0.2 < shares["x"] < 0.5
    assert 0.2 < shares["y"] < 0.5
    assert sum(shares.values()) < 0.9


@pytest.mark.parametrize(("num_arms", "told"), [(FEWEST - 1, False), (FEWEST, True)])
def test_few_arms_tell_nothing(num_arms, told) -> None:
    assert bool(made(lambda x, y, z: x, num_arms=num_arms).shares) is told


def test_equal_values_explain_nothing() -> None:
    assert explained([[1.0, 1.0], [1.0, 1.0]]) == 0.0
    assert explained([[1.0], [2.0]]) == 0.0  # nothing is left to tell chance by
    assert explained([[1.0, 1.0], [2.0, 2.0]]) == 1.0


def test_a_key_with_one_value_has_no_share() -> None:
    arms = [SweptArm(name=str(i), changes={"x": 1.0}, value=float(i)) for i in range(20)]
    sweep = Sweep(keys={"x": RANGE}, arms=20, sampler="random")
    assert Swept(sweep=sweep, epoch=1, arms=arms, num_without=0).share("x") is None
