"""The front of predictions without training, and where models lie against it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from lvm.core.config.run import GateConfig
from lvm.core.records import Pool, Position
from lvm.data.sample import load_sample
from lvm.data.windows import dataset_from_bank
from lvm.evaluation.front import front_position, solve
from lvm.evaluation.ladder import fit_ladder, judge_ladder
from lvm.evaluation.metrics import PerQuery, Ranks

CONFIG = GateConfig()
POOL = Pool(id="a", size=1000, mask="own contexts")
ARTICLES = np.repeat(np.arange(20), 30)
NOISE = np.random.default_rng(0)
HARDNESS = NOISE.uniform(size=len(ARTICLES))  # of a window: a rung hits where it is low
COSINES = NOISE.normal(0, 0.05, len(ARTICLES))


def results(cosine: float, hits: float, *, seed: int | None = None, space="raw") -> PerQuery:
    """Windows with these means; the same windows are hard for all, but for a model of a seed."""
    own = np.random.default_rng(seed)
    moved = own.normal(0, 0.01, len(ARTICLES)) if seed is not None else 0.0
    shaken = own.normal(0, 0.02, len(ARTICLES)) if seed is not None else 0.0
    hit = HARDNESS + shaken < hits
    greater = np.where(hit, 0, 400).astype(np.int64)
    ranks = Ranks(greater, np.zeros_like(greater), np.full_like(greater, 1000))
    values = (cosine + COSINES + moved).astype(np.float32)
    return PerQuery(
        cosine=values, masked=ranks, raw=ranks, articles=ARTICLES, space=space, pool=POOL
    )


RUNGS = {
    "copy_last": results(0.40, 0.60),
    "mean_context": results(0.55, 0.10),
    "weighted_mix": results(0.60, 0.30),
    "mix_plus_0.2_last": results(0.57, 0.50),
}


def position(model: PerQuery, rungs=RUNGS):
    return front_position(model, rungs, CONFIG)


# --- the game ------------------------------------------------------------------------------------


def largest_retreat(gains: np.ndarray) -> float:
    """Solve the game as a linear program over shares of the rungs."""
    count = len(gains)
    found = linprog(
        [*np.zeros(count), 1.0],  # the least s with: shares . gains[:, metric] <= s
        A_ub=np.column_stack([gains.T, [-1.0, -1.0]]),
        b_ub=[0.0, 0.0],
        A_eq=[[*np.ones(count), 0.0]],
        b_eq=[1.0],
        bounds=[*[(0, None)] * count, (None, None)],
    )
    return float(found.fun)


@pytest.mark.parametrize("seed", range(30))
def test_the_distance_is_the_value_of_the_game(seed) -> None:
    draw = np.random.default_rng(seed)
    gains = draw.normal(size=(1 + seed % 8, 2))
    saddle = solve(gains)
    assert saddle.value == pytest.approx(largest_retreat(gains), abs=1e-7)
    assert saddle.shares.sum() == pytest.approx(1)
    assert (saddle.shares >= 0).all()
    assert saddle.weights.sum() == pytest.approx(1)
    assert saddle.shares @ gains @ saddle.weights == pytest.approx(saddle.value)


def test_rungs_that_repeat_each_other_change_nothing() -> None:
    gains = np.array([[0.1, -0.2], [-0.1, 0.3]])
    again = solve(np.concatenate([gains, gains]))
    assert again.value == pytest.approx(solve(gains).value)
    assert solve(np.zeros((3, 2))).value == 0


# --- positions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cosine", "hits", "where"),
    [
        (0.70, 0.70, Position.ABOVE),
        (0.58, 0.58, Position.ABOVE),  # R@5 below copy_last, cosine below the mix
        (0.30, 0.75, Position.ABOVE),  # no rung reaches its R@5
        (0.70, 0.05, Position.ABOVE),  # nor its cosine
        (0.585, 0.40, Position.ON),  # between two rungs
        (0.50, 0.40, Position.BELOW),
        (0.45, 0.52, Position.BELOW),  # no rung is better in both by much, a mixture is
        (0.05, 0.01, Position.BELOW),
    ],
)
def test_a_model_is_told_where_it_lies(cosine, hits, where) -> None:
    found = position(results(cosine, hits, seed=3))
    assert found.position is where
    assert found.metrics == ("eval_cosine", "r_at_5")
    assert (found.distance.lower > 0) == (where is Position.ABOVE)
    assert found.distance.lower <= found.distance.value <= found.distance.upper


def test_the_distance_is_what_both_metrics_can_lose_before_the_front_is_reached() -> None:
    for cosine, hits in ((0.70, 0.70), (0.50, 0.40), (0.45, 0.20)):
        model = results(cosine, hits, seed=1)
        found = position(model)
        loss = found.distance.value
        moved = np.array([model.cosine.mean(dtype=np.float64), model.hit(5).mean()]) - loss
        mixed = sum(
            share * np.array([RUNGS[n].cosine.mean(dtype=np.float64), RUNGS[n].hit(5).mean()])
            for n, share in found.mixture.items()
        )
        assert sum(found.mixture.values()) == pytest.approx(1)
        assert (mixed >= moved - 1e-6).all()
        assert np.abs(mixed - moved).min() < 1e-6


@pytest.mark.parametrize("name", ["copy_last", "weighted_mix", "mix_plus_0.2_last"])
def test_a_rung_of_the_front_lies_on_it(name) -> None:
    found = position(RUNGS[name])
    assert found.position is Position.ON
    assert found.distance.value == pytest.approx(0, abs=1e-9)
    assert found.rung == name
    assert found.position.beats is False


def test_a_rung_inside_the_hull_lies_below() -> None:
    found = position(RUNGS["mean_context"])
    assert (found.position, found.rung) == (Position.BELOW, "weighted_mix")
    assert found.gains["r_at_5"].upper < 0


def test_a_model_as_good_as_a_rung_in_one_metric_and_worse_in_the_other_lies_below() -> None:
    mix = RUNGS["weighted_mix"]
    same = results(0.60, 0.15)
    np.testing.assert_array_equal(same.cosine, mix.cosine)
    found = position(same)
    assert found.distance.value == pytest.approx(0, abs=1e-9)
    assert (found.position, found.rung) == (Position.BELOW, "weighted_mix")


def test_a_clear_loss_is_below_only_where_the_gain_beside_it_is_small() -> None:
    # R@5 of copy_last, known to within a few points, and less cosine: a little less is a trade.
    little, much = (results(cosine, 0.605, seed=5) for cosine in (0.37, -0.3))
    assert position(little).gains["eval_cosine"].upper < 0
    assert position(little).position is Position.ON
    assert position(much).position is Position.BELOW


def test_a_model_in_a_learned_space_is_compared_in_mrr_and_r_at_5() -> None:
    poor, rich = (results(0.99, hits, seed=2, space="projected") for hits in (0.3, 0.8))
    assert position(poor).metrics == ("mrr", "r_at_5")
    assert position(poor).position is Position.BELOW
    assert position(rich).position is Position.ABOVE
    assert set(position(rich).gains) == {"mrr", "r_at_5"}


def test_what_cannot_be_compared_has_a_reason() -> None:
    model = results(0.6, 0.5)
    none = position(model, {})
    assert (none.position, none.distance) == (Position.NOT_EVALUABLE, None)
    assert none.position.beats is None
    other = PerQuery(
        cosine=model.cosine,
        masked=model.masked,
        raw=model.raw,
        articles=ARTICLES,
        space="raw",
        pool=Pool(id="b", size=1000, mask="own contexts"),
    )
    assert "pools differ" in position(other).reason


def test_the_same_seed_gives_the_same_interval() -> None:
    model = results(0.58, 0.5, seed=4)
    assert position(model) == position(model)


# --- the bundled sample --------------------------------------------------------------------------

GOLDEN = {  # rung -> cosine, R@5 on the test split, own contexts masked
    "copy_last": (0.4934, 0.3609),
    "weighted_mix": (0.5766, 0.3110),
    "mix_plus_0.1_last": (0.5743, 0.3326),
    "mix_plus_0.2_last": (0.5703, 0.3398),
    "mix_plus_0.4_last": (0.5611, 0.3537),
    "mix_plus_0.8_last": (0.5462, 0.3670),
    "constant": (0.1920, 0.0),
    "oracle": (1.0, 1.0),
}
WHERE = {"constant": Position.BELOW, "oracle": Position.ABOVE}


def test_the_front_of_the_bundled_sample() -> None:
    dataset = dataset_from_bank(load_sample(), 5)
    fitted = fit_ladder(dataset, seed=0, ridge_strength=1.0)
    kept: dict[str, PerQuery] = {}
    some = {name: fitted[name] for name in GOLDEN}
    judge_ladder(some, dataset, "test", torch.device("cpu"), kept.__setitem__)
    for name, wanted in GOLDEN.items():
        measured = kept[name].cosine.mean(), kept[name].hit(5).mean()
        assert measured == pytest.approx(wanted, abs=1e-3), name
    rungs = {name: found for name, found in kept.items() if name != "oracle"}
    for name, found in kept.items():
        assert position(found, rungs).position is WHERE.get(name, Position.ON), name
