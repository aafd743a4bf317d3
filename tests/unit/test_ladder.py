"""The trivial predictors: what each must be, and how the fitted ones relate."""

from __future__ import annotations

import numpy as np
import pytest

from lvm.core.randomness import numpy_generator
from lvm.data.bank import Bank
from lvm.data.windows import dataset_from_bank
from lvm.evaluation import ladder
from lvm.evaluation.ladder import fit_ladder

BETWEEN = {f"mix_plus_{a}_last": a for a in (0.1, 0.2, 0.4, 0.8)}
NAMES = [
    "constant",
    "copy_last",
    "mean_context",
    "weighted_mix",
    *BETWEEN,
    "ridge",
    "random",
    "oracle",
]
WIDTH, LENGTH = 12, 3


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def drifting_bank(*, num_articles=30, num_chunks=40, dtype=np.float32):
    """Articles whose vectors drift around a mean of their own: neighbours resemble each other."""
    draw = numpy_generator(0, "ladder test")
    rows, keys = [], []
    for article in range(num_articles):
        mean = draw.normal(size=WIDTH) + 0.5
        vector = mean
        for chunk in range(num_chunks):
            vector = 0.6 * vector + 0.4 * mean + draw.normal(size=WIDTH)
            rows.append(vector)
            keys.append((article, chunk))
    return Bank(unit(np.array(rows)).astype(dtype), np.array(keys, dtype=np.int32))


@pytest.fixture(scope="module")
def dataset():
    return dataset_from_bank(drifting_bank(), LENGTH)


@pytest.fixture(scope="module")
def fitted(dataset):
    return fit_ladder(dataset, seed=0)


def cosine(dataset, predictor, split="train"):
    windows = dataset.split(split)
    return float((predictor(windows) * unit(dataset.bank.rows(windows.targets))).sum(1).mean())


def test_every_predictor_returns_unit_float32_rows(dataset, fitted):
    assert list(fitted) == NAMES
    for predictor in fitted.values():
        predictions = predictor(dataset.test)
        assert predictions.shape == (len(dataset.test), WIDTH)
        assert predictions.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(predictions, axis=1), 1, atol=1e-5)


def test_oracle_is_the_target(dataset, fitted):
    assert cosine(dataset, fitted["oracle"], "test") == pytest.approx(1, abs=1e-6)


def test_the_plain_rules_are_what_they_say(dataset, fitted):
    contexts = dataset.bank.rows(dataset.test.contexts)
    np.testing.assert_allclose(fitted["copy_last"](dataset.test), contexts[:, -1], atol=1e-6)
    np.testing.assert_allclose(
        fitted["mean_context"](dataset.test), unit(contexts.mean(1)), atol=1e-6
    )
    mean = unit(dataset.bank.rows(dataset.train.targets).astype(np.float64).mean(0))
    np.testing.assert_allclose(
        fitted["constant"](dataset.test), np.tile(mean, (len(contexts), 1)), atol=1e-6
    )


def test_the_ladder_is_ordered_on_text_like_data(dataset, fitted):
    cosines = {name: cosine(dataset, fitted[name]) for name in NAMES}
    assert cosines["weighted_mix"] >= cosines["copy_last"]
    assert cosines["weighted_mix"] >= cosines["mean_context"]
    assert cosines["copy_last"] > cosines["constant"] + 0.1
    assert abs(cosines["random"] - cosines["constant"] ** 2) < 0.05, "two unrelated rows"
    assert cosine(dataset, fitted["ridge"], "test") > cosine(dataset, fitted["constant"], "test")


def test_the_mix_solves_its_least_squares_problem(dataset, fitted):
    contexts = dataset.bank.rows(dataset.train.contexts).astype(np.float64)
    targets = dataset.bank.rows(dataset.train.targets).astype(np.float64)
    design = contexts.transpose(0, 2, 1).reshape(-1, LENGTH)
    weights = np.linalg.lstsq(design, targets.reshape(-1), rcond=None)[0]
    expected = unit(np.einsum("t,mtd->md", weights, dataset.bank.rows(dataset.test.contexts)))
    np.testing.assert_allclose(fitted["weighted_mix"](dataset.test), expected, atol=1e-5)


def test_a_rung_between_is_the_mix_and_some_of_the_last_vector(dataset, fitted):
    contexts = dataset.bank.rows(dataset.train.contexts).astype(np.float64)
    targets = dataset.bank.rows(dataset.train.targets).astype(np.float64)
    design = contexts.transpose(0, 2, 1).reshape(-1, LENGTH)
    weights = np.linalg.lstsq(design, targets.reshape(-1), rcond=None)[0]
    test = dataset.bank.rows(dataset.test.contexts)
    for name, share in BETWEEN.items():
        expected = unit(np.einsum("t,mtd->md", weights, test) + share * test[:, -1])
        np.testing.assert_allclose(fitted[name](dataset.test), expected, atol=1e-5)


def test_ridge_solves_the_penalised_problem(dataset):
    strength = 0.2
    contexts = dataset.bank.rows(dataset.train.contexts).astype(np.float64)
    columns = contexts.reshape(len(contexts), -1)
    normal = columns.T @ columns
    penalty = strength * np.trace(normal) / len(normal)
    moment = columns.T @ dataset.bank.rows(dataset.train.targets)
    weights = np.linalg.solve(normal + penalty * np.eye(len(normal)), moment)
    test = dataset.bank.rows(dataset.test.contexts)
    actual = fit_ladder(dataset, seed=0, ridge_strength=strength)["ridge"](dataset.test)
    np.testing.assert_allclose(actual, unit(test.reshape(len(test), -1) @ weights), atol=1e-5)


def test_ridge_takes_the_strength_that_is_best_on_dev(dataset, fitted):
    single = {
        strength: fit_ladder(dataset, seed=0, ridge_strength=strength)["ridge"]
        for strength in ladder.RIDGE_STRENGTHS
    }
    cosines = {strength: cosine(dataset, single[strength], "dev") for strength in single}
    best = max(cosines, key=cosines.__getitem__)
    assert len(set(cosines.values())) > 1
    np.testing.assert_array_equal(fitted["ridge"](dataset.test), single[best](dataset.test))


def test_ridge_recovers_a_planted_linear_map():
    """Targets are a fixed linear map of their contexts, in rows that no other window reads."""
    draw = numpy_generator(1, "planted")
    weights = draw.normal(size=(LENGTH * WIDTH, WIDTH))
    blocks, keys = [], []
    for article in range(400):
        contexts = unit(draw.normal(size=(LENGTH, WIDTH)))
        target = unit(contexts.reshape(-1) @ weights)
        blocks.append(np.vstack([contexts, target]))
        keys += [(article, chunk) for chunk in range(LENGTH + 1)]
    bank = Bank(np.vstack(blocks).astype(np.float32), np.array(keys, dtype=np.int32))
    planted = dataset_from_bank(bank, LENGTH)
    fitted = fit_ladder(planted, seed=0, ridge_strength=1e-4)
    # Unit targets scale each window by its own factor, so the map is recovered up to noise.
    assert cosine(planted, fitted["ridge"], "test") > 0.98
    assert cosine(planted, fitted["weighted_mix"], "test") < 0.5


def test_the_size_of_a_block_does_not_matter(dataset, fitted, monkeypatch):
    monkeypatch.setattr(ladder, "BLOCK", 37)
    for name, predictor in fit_ladder(dataset, seed=0).items():
        np.testing.assert_allclose(
            predictor(dataset.test), fitted[name](dataset.test), atol=1e-5, err_msg=name
        )


def test_ridge_reads_the_last_positions_when_the_matrix_would_grow_too_large(dataset, monkeypatch):
    monkeypatch.setattr(ladder, "RIDGE_COLUMNS", 2 * WIDTH + 3)
    ridge = fit_ladder(dataset, seed=0)["ridge"]
    test = dataset.test
    other_first = test.contexts.copy()
    other_first[:, 0] = test.contexts[::-1, 0]
    other_second = test.contexts.copy()
    other_second[:, 1] = test.contexts[::-1, 1]
    base = ridge(test)
    assert np.array_equal(ridge(type(test)(other_first, test.targets, test.articles)), base)
    assert not np.allclose(ridge(type(test)(other_second, test.targets, test.articles)), base)


def test_predictions_belong_to_the_window_not_to_the_call(dataset, fitted):
    some = np.arange(len(dataset.test))[::-3]
    for name, predictor in fitted.items():
        np.testing.assert_allclose(
            predictor(dataset.test.select(some)),
            predictor(dataset.test)[some],
            atol=1e-6,
            err_msg=name,
        )


def test_the_seed_decides_the_random_rows_alone(dataset, fitted):
    same, other = fit_ladder(dataset, seed=0), fit_ladder(dataset, seed=1)
    for name in NAMES:
        np.testing.assert_array_equal(same[name](dataset.test), fitted[name](dataset.test))
        differs = not np.array_equal(other[name](dataset.test), fitted[name](dataset.test))
        assert differs == (name == "random")


def test_targets_are_never_read_by_the_rules_on_contexts(dataset, fitted):
    test = dataset.test
    shuffled = type(test)(test.contexts, test.targets[::-1].copy(), test.articles)
    for name in set(NAMES) - {"random", "oracle"}:
        np.testing.assert_array_equal(fitted[name](shuffled), fitted[name](test))


def test_repeated_and_half_precision_rows_are_handled():
    bank = drifting_bank(dtype=np.float16)
    bank.vectors[:] = bank.vectors[0]
    same = dataset_from_bank(bank, LENGTH)
    for name, predictor in fit_ladder(same, seed=0).items():
        predictions = predictor(same.test)
        assert np.isfinite(predictions).all(), name
        assert cosine(same, predictor, "test") == pytest.approx(1, abs=1e-5), name
