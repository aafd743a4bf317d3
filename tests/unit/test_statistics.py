from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import scipy.stats

from lvm.errors import DataError
from lvm.statistics import bootstrap_difference, bootstrap_mean, design_effect, holm, sign_flip_p

SETTINGS = {"confidence": 0.95, "resamples": 2000, "seed": 0, "purpose": "test"}


def balanced(seed: int, articles: int = 20, each: int = 50) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(articles), each)
    level = rng.normal(0.3, 0.1, articles)
    return level[ids] + rng.normal(0, 0.2, len(ids)), ids


def test_equal_articles_agree_with_the_t_interval_of_article_means() -> None:
    values, articles = balanced(0)
    means = values.reshape(20, 50).mean(axis=1)
    want = scipy.stats.ttest_1samp(means, 0).confidence_interval(0.95)
    got = bootstrap_mean(values, articles, **{**SETTINGS, "resamples": 20_000})
    assert got.value == pytest.approx(values.mean())
    width = want.high - want.low
    assert got.lower == pytest.approx(want.low, abs=0.05 * width)
    assert got.upper == pytest.approx(want.high, abs=0.05 * width)
    assert (got.num_windows, got.num_articles, got.confidence) == (1000, 20, 0.95)


def test_many_articles_agree_with_scipys_bootstrap_of_the_ratio() -> None:
    rng = np.random.default_rng(1)
    sizes = rng.integers(2, 12, 300)
    articles = np.repeat(np.arange(300), sizes)
    values = rng.gamma(1.0, 1.0, 300)[articles]
    sums = np.bincount(articles, values)
    want = scipy.stats.bootstrap(
        (sums, sizes),
        lambda s, n, axis: s.sum(axis) / n.sum(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=20_000,
        random_state=np.random.default_rng(2),
    ).confidence_interval
    got = bootstrap_mean(values, articles, **{**SETTINGS, "resamples": 20_000})
    width = want.high - want.low
    assert got.lower == pytest.approx(want.low, abs=0.05 * width)
    assert got.upper == pytest.approx(want.high, abs=0.05 * width)


def test_windows_of_one_article_move_together() -> None:
    values, articles = balanced(0)
    shuffled = np.random.default_rng(0).permutation(articles)
    clustered = bootstrap_mean(values, articles, **SETTINGS)
    free = bootstrap_mean(values, shuffled, **SETTINGS)
    assert clustered.upper - clustered.lower > 2 * (free.upper - free.lower)


@pytest.mark.parametrize("num_articles", [15, 25])
def test_coverage_with_few_unequal_articles(num_articles: int) -> None:
    rng = np.random.default_rng(num_articles)
    missed, rounds = 0, 600
    for _ in range(rounds):
        sizes = np.maximum(5, rng.lognormal(4.3, 0.8, num_articles)).astype(int)
        articles = np.repeat(np.arange(num_articles), sizes)
        values = rng.normal(0, 0.08, num_articles)[articles] + rng.normal(0, 0.2, len(articles))
        got = bootstrap_mean(values, articles, **{**SETTINGS, "resamples": 400})
        missed += not got.lower <= 0 <= got.upper
    # 5 % wanted; the plain percentile interval misses 9 to 10 % here.
    assert 0.025 < missed / rounds < 0.085


def test_difference_is_paired() -> None:
    values, articles = balanced(3)
    noise = np.random.default_rng(4).normal(0, 0.01, len(values))
    estimate, p_value = bootstrap_difference(values + 0.05 + noise, values, articles, **SETTINGS)
    assert 0.04 < estimate.lower < estimate.value < estimate.upper < 0.06
    assert p_value == pytest.approx(1 / 2001)
    alone = bootstrap_mean(values, articles, **SETTINGS)
    assert alone.upper - alone.lower > 10 * (estimate.upper - estimate.lower)


def test_p_value_agrees_with_the_t_test_of_article_means() -> None:
    a, articles = balanced(5)
    means = a.reshape(20, 50).mean(axis=1)
    for bound in (0.24, 0.26, 0.28, 0.32):
        want = scipy.stats.ttest_1samp(means, bound, alternative="greater").pvalue
        _, got = bootstrap_difference(
            a, np.zeros_like(a), articles, bound=bound, **{**SETTINGS, "resamples": 20_000}
        )
        assert got == pytest.approx(want, abs=0.012)


def test_p_value_and_interval_never_contradict_each_other() -> None:
    values, articles = balanced(6)
    zeros = np.zeros_like(values)
    seen = set()
    for bound in np.linspace(0.2, 0.4, 81):
        estimate, p_value = bootstrap_difference(values, zeros, articles, bound=bound, **SETTINGS)
        assert (p_value <= 0.025) == (estimate.lower > bound)
        seen.add(p_value <= 0.025)
    assert seen == {True, False}


def test_seed_and_purpose_fix_the_draws() -> None:
    values, articles = balanced(7)
    first = bootstrap_mean(values, articles, **SETTINGS)
    assert bootstrap_mean(values, articles, **SETTINGS) == first
    assert bootstrap_mean(values, articles, **{**SETTINGS, "seed": 1}) != first
    assert bootstrap_mean(values, articles, **{**SETTINGS, "purpose": "other"}) != first


def test_equal_values_have_an_interval_without_width() -> None:
    articles = np.repeat([3, 8, 9], [5, 7, 2])
    estimate, p_value = bootstrap_difference(
        np.full(14, 0.7), np.full(14, 0.7), articles, **SETTINGS
    )
    assert (estimate.lower, estimate.value, estimate.upper, p_value) == (0, 0, 0, 1)


def test_two_articles_give_a_wide_and_finite_interval() -> None:
    estimate = bootstrap_mean(np.array([0.2, 0.4]), np.array([1, 2]), **SETTINGS)
    assert np.isfinite([estimate.lower, estimate.upper]).all()
    assert estimate.lower < 0 < 0.6 < estimate.upper  # t with one degree of freedom: 12.7 errors


def test_what_cannot_be_resampled_is_refused() -> None:
    with pytest.raises(DataError, match="1 articles"):
        bootstrap_mean(np.ones(4), np.zeros(4, dtype=int), **SETTINGS)
    with pytest.raises(DataError, match="1 values that are not finite"):
        bootstrap_mean(np.array([1, np.nan]), np.array([0, 1]), **SETTINGS)


def test_2000_resamples_are_quick() -> None:
    rng = np.random.default_rng(0)
    values, articles = rng.random(2000), rng.integers(0, 20, 2000)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        bootstrap_mean(values, articles, **SETTINGS)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05


def test_sign_flips_are_counted_exactly() -> None:
    values = np.array([0.5, 0.1, -0.2, 0.4, 0.3])
    sums = [np.dot(s, values) for s in itertools.product([1, -1], repeat=5)]
    want = np.mean([s >= values.sum() - 1e-12 for s in sums])
    assert sign_flip_p(values) == pytest.approx(want)
    assert sign_flip_p(np.ones(5)) == 1 / 32
    assert sign_flip_p(np.zeros(5)) == 1
    assert sign_flip_p(-np.ones(5)) == 1


def test_drawn_sign_flips_agree_with_a_known_value_and_the_seed() -> None:
    # 17 of 22 articles gain 1, 5 lose 1: the binomial tail P(X >= 17 | 22, 1/2).
    values = np.array([1.0] * 17 + [-1.0] * 5)
    want = scipy.stats.binom.sf(16, 22, 0.5)
    assert sign_flip_p(values, seed=3) == pytest.approx(want, abs=0.003)
    assert sign_flip_p(values, seed=3) == sign_flip_p(values, seed=3)


def test_holm_by_hand() -> None:
    # Sorted .005 .01 .03 .04, times 4 3 2 1 = .02 .03 .06 .04, never falling: .02 .03 .06 .06
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.7]), [1.0, 1.0])
    assert holm([0.02]).tolist() == [0.02]
    assert holm([]).tolist() == []


def test_design_effect_of_free_and_of_repeated_windows() -> None:
    rng = np.random.default_rng(0)
    articles = np.repeat(np.arange(400), 5)
    assert design_effect(rng.normal(size=2000), articles) == pytest.approx(1, abs=0.2)
    assert design_effect(rng.normal(size=400)[articles], articles) == pytest.approx(5, abs=0.2)
    assert design_effect(np.ones(2000), articles) == 1
