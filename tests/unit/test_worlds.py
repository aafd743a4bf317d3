"""The planted worlds are what they say: the tests of wrong recipes rest on it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import worlds

from lvm.evaluation.evaluate import evaluate


def _judge(world, predictions):
    dataset = world.dataset
    rows = torch.from_numpy(predictions)
    found, _ = evaluate(rows, dataset.test, dataset.bank, space="raw", split="test")
    return found.masked


@pytest.mark.parametrize("seed", [0, 1])
def test_the_best_prediction_by_cosine_is_not_the_best_to_search_with(seed) -> None:
    world = worlds.planted(seed)
    expected = _judge(world, world.expected(world.dataset.test))
    key = _judge(world, world.key_alone(world.dataset.test))
    # Kept topic and key, and kept key, with three standard errors of 550 windows.
    kept_topic = worlds.KEEP_TOPIC + (1 - worlds.KEEP_TOPIC) / 4
    assert expected["r_at_5"] == pytest.approx(kept_topic * (1 - worlds.NEW_KEY), abs=0.064)
    assert key["r_at_5"] == pytest.approx(1 - worlds.NEW_KEY, abs=0.056)
    # A prediction for search is far enough above the stage gate, and below the best cosine.
    assert 0.40 < key["eval_cosine"] < expected["eval_cosine"] - 0.1


def test_without_signal_the_cosine_is_high_and_nothing_is_found() -> None:
    world = worlds.without_signal(0)
    best = _judge(world, world.expected(world.dataset.test))
    assert best["eval_cosine"] > 0.7
    assert best["r_at_5"] < 0.02


def test_no_axis_is_free_of_variance() -> None:
    vectors = worlds.planted(0).dataset.bank.vectors
    spread = np.linalg.eigvalsh(np.cov(vectors.T.astype(np.float64)))
    quiet = worlds.QUIET_LENGTH**2 / worlds.QUIET / (1 + worlds.QUIET_LENGTH**2)
    assert spread[0] > 0.8 * quiet


def test_a_seed_names_a_world() -> None:
    first, again, other = (worlds.planted(seed).dataset.fingerprint for seed in (3, 3, 4))
    assert first == again != other
