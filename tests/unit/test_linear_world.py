"""The linear world is what it says: nothing beats its optimum by cosine, and it is not easy."""

from __future__ import annotations

import linear_world
import numpy as np
import pytest
import torch

from lvm.evaluation.evaluate import evaluate
from lvm.evaluation.ladder import fit_ladder

DRAWS = 100_000


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _pairs(world, rng):
    """Rows drawn from the bank, and a fresh draw of what follows each."""
    vectors = world.dataset.bank.vectors
    rows = vectors[rng.integers(len(vectors), size=DRAWS)].astype(np.float64)
    return rows, world.step(rows, rng)


def _retrieval(world, predictions):
    dataset = world.dataset
    found, _ = evaluate(
        torch.from_numpy(predictions), dataset.test, dataset.bank, space="raw", split="test"
    )
    return found.masked


def test_what_follows_a_row_lies_on_average_along_the_optimum() -> None:
    world = linear_world.linear(0)
    windows = world.dataset.test.select(np.arange(0, 300, 60))
    rows = world.dataset.bank.rows(windows.contexts[:, -1]).astype(np.float64)
    rng = np.random.default_rng(0)
    for row, best in zip(rows, world.optimum(windows), strict=True):
        mean = world.step(np.tile(row, (DRAWS, 1)), rng).mean(axis=0)
        # Across it a draw has a mean square of .42, so chance leaves .42 / 1e5 / .75^2 / 2 = 4e-6.
        assert mean @ best / np.linalg.norm(mean) > 1 - 1.5e-5


def test_no_competitor_beats_the_optimum_on_a_large_sample() -> None:
    world = linear_world.linear(0)
    rng = np.random.default_rng(1)
    fitted_on = _pairs(world, rng)
    rows, following = _pairs(world, rng)
    best = _unit(rows @ world.transition.T)
    strong = world.axes[:, : linear_world.STRONG]
    competitors = {
        "least squares": rows @ np.linalg.lstsq(*fitted_on, rcond=None)[0],
        "another direction each": best + 0.03 * rng.standard_normal(best.shape),
        "one direction for all": best + 0.05 * world.axes[0],
        "less of the strong axes": best - 0.1 * best @ strong @ strong.T,
        "more of the strong axes": best + 0.1 * best @ strong @ strong.T,
        "copy": rows,
        "away": -best,
    }
    for name, rival in competitors.items():
        lead = np.einsum("md,md->m", best - _unit(rival), following)
        error = lead.std() / len(lead) ** 0.5
        assert lead.mean() > 5 * error, name


def test_the_bank_follows_the_process() -> None:
    world = linear_world.linear(1)
    rows, following = _pairs(world, np.random.default_rng(2))
    cosines = np.einsum("md,md->m", _unit(rows @ world.transition.T), following)
    for split in ("train", "test"):
        windows = world.dataset.split(split)
        error = cosines.std() / len(windows) ** 0.5
        measured = world.cosine(world.optimum(windows), windows)
        assert measured == pytest.approx(cosines.mean(), abs=5 * error)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_best_prediction_by_cosine_is_not_the_best_to_search_with(seed) -> None:
    world = linear_world.linear(seed)
    test = world.dataset.test
    optimum, shrunk = (_retrieval(world, world.shrunk(test, share)) for share in (1.0, 0.75))
    assert optimum["eval_cosine"] == pytest.approx(world.cosine(world.optimum(test), test))
    assert shrunk["eval_cosine"] > 0.985 * optimum["eval_cosine"]
    assert shrunk["mrr"] > optimum["mrr"] + 0.05


def test_only_a_rule_that_learns_the_map_comes_near_the_optimum() -> None:
    world = linear_world.linear(0)
    test = world.dataset.test
    optimum = world.cosine(world.optimum(test), test)
    ladder = fit_ladder(world.dataset, seed=0)
    cosines = {name: world.cosine(rule(test), test) for name, rule in ladder.items()}
    assert 0.95 * optimum < cosines.pop("ridge") < optimum < cosines.pop("oracle")
    assert max(cosines.values()) < 0.5 * optimum


def test_a_seed_names_a_world() -> None:
    first, again, other = (linear_world.linear(seed).dataset.fingerprint for seed in (3, 3, 4))
    assert first == again != other
