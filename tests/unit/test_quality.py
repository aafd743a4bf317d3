"""The benchmark of quality measures what it says: the front, the distance from it, the model."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from quality_front import Front, Scores, front_members, mix_weights
from quality_model import ContextMix, Schedule, fit, predict

from tests import tiny

QUICK = Schedule(epochs=4, articles=4)


def scores(cosine: float, hits: int, articles: int = 10, windows: int = 10) -> Scores:
    """Scores whose every article has the same mean cosine and the same share of hits."""
    each = np.full(windows, cosine, dtype=np.float64)
    hit = np.float64(np.arange(windows) < hits)
    repeated = [np.tile(values, articles) for values in (each, hit, hit)]
    return Scores(*repeated, np.repeat(np.arange(articles), windows))


def test_articles_that_lie_elsewhere_on_the_front_do_not_widen_the_interval() -> None:
    """A model that is a coin's pick of the corners lies on the front, whatever the coin."""
    corners = [scores(0.6, 2, windows=40), scores(0.5, 40, windows=40)]
    coin = np.random.default_rng(0).random(400) < np.repeat(np.linspace(0.1, 0.9, 10), 40)
    names = ("cosine", "hit", "reciprocal")
    picked = [np.where(coin, *(getattr(c, name) for c in corners)) for name in names]
    above = Front(corners).below(Scores(*picked, corners[0].articles), purpose="coin")
    for gain in (above.hit, above.cosine):
        assert gain.value == pytest.approx(0, abs=0.02)
        assert gain.upper - gain.lower < 0.05  # articles differ by .8 in what the coin says


def test_the_distance_is_taken_at_equal_cosine_and_at_equal_hits() -> None:
    front = Front([scores(0.6, 2), scores(0.5, 4)])
    above = front.below(scores(0.58, 4), purpose="planted")
    assert above.hit.value == pytest.approx(0.4 - 0.24)  # a fifth of the way: .2 + .2 * .2
    assert above.cosine.value == pytest.approx(0.58 - 0.5)
    assert above.hit.lower > 0


def test_the_front_lies_no_way_above_or_below_itself() -> None:
    front = Front([scores(0.6, 2), scores(0.5, 4), scores(0.3, 5)])
    for member in front.members:
        above = front.below(member, purpose="itself")
        assert (above.hit.value, above.cosine.value) == pytest.approx((0, 0))


def test_beyond_an_end_stands_the_last_member() -> None:
    front = Front([scores(0.6, 2), scores(0.5, 4)])
    above = front.below(scores(0.7, 9), purpose="beyond")
    assert above.hit.value == pytest.approx(0.9 - 0.2)
    assert above.cosine.value == pytest.approx(0.7 - 0.5)


def test_just_beyond_an_end_the_front_may_slope_yet() -> None:
    """Articles that differ in cosine decide there on which side of the end the scores lie."""
    corners = [scores(0.6, 2), scores(0.5, 4)]
    shift = np.repeat(np.linspace(-0.04, 0.05, 10), 10)
    model = dataclasses.replace(scores(0.6, 4), cosine=0.6 + shift)
    hit = Front(corners).below(model, purpose="end").hit
    assert hit.value == pytest.approx(0.2)
    assert hit.lower < 0.18


def test_a_front_of_one_member_can_be_compared_with() -> None:
    above = Front([scores(0.6, 2)]).below(scores(0.5, 3), purpose="one")
    assert (above.hit.value, above.cosine.value) == pytest.approx((0.1, -0.1))


def test_more_of_the_last_vector_is_a_member_of_its_own() -> None:
    members = front_members(tiny.dataset())
    assert len({float(member.cosine.mean()) for member in members}) == len(members)


def test_the_untrained_model_is_the_weighted_mix() -> None:
    dataset = tiny.dataset()
    weights = mix_weights(dataset.bank, dataset.train)
    width = dataset.bank.width
    model = ContextMix(weights, torch.zeros(width), torch.eye(width)).eval()
    contexts = dataset.bank.tensor[torch.from_numpy(dataset.test.contexts)]
    mix = torch.einsum("t,mtd->md", weights, contexts)
    expected = torch.nn.functional.normalize(mix, dim=-1)
    torch.testing.assert_close(predict(model, dataset.bank, dataset.test), expected)


@pytest.mark.parametrize("reads", [False, True])
def test_training_gains_over_the_mix_and_repeats_itself(reads: bool) -> None:
    dataset = tiny.dataset()
    first, second = (
        predict(fit(dataset, 1, QUICK, reads=reads), dataset.bank, dataset.train) for _ in range(2)
    )
    assert torch.equal(first, second)
    other = predict(fit(dataset, 2, QUICK, reads=reads), dataset.bank, dataset.train)
    assert not torch.equal(first, other)
    trained = Scores.of(first, dataset.train, dataset.bank)
    on_train = dataclasses.replace(dataset, test=dataset.train)
    assert trained.cosine.mean() > front_members(on_train)[0].cosine.mean() + 0.01


def test_a_look_at_the_index_does_not_see_the_contexts() -> None:
    width = 4
    model = ContextMix(torch.ones(2), torch.zeros(width), torch.eye(width), reads=True)
    rows = torch.eye(width)
    query = torch.nn.functional.normalize(torch.tensor([[1.0, 1.0, 0.5, 0.0]]), dim=-1)
    moved = model.read(query, rows, torch.tensor([[0, 1]]))
    assert moved[0, 2] > query[0, 2]  # pulled to the nearest row that is no context
    assert moved[0, 0] < query[0, 0]
