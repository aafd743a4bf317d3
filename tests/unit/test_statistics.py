from __future__ import annotations

import importlib.util
import itertools
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scipy.stats

from lvm.errors import DataError
from lvm.statistics import (
    bootstrap_difference,
    bootstrap_mean,
    design_effect,
    holm,
    mean_over_seeds,
    more_articles,
    sign_flip_mean_p,
    sign_flip_p,
)

SETTINGS = {"confidence": 0.95, "resamples": 2000, "seed": 0, "purpose": "test"}


def benchmark(name: str) -> ModuleType:
    """Load a benchmark by its file: a package may bear the same name."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)  # as when it is run: benchmarks import each other
        spec.loader.exec_module(module)
    return module


coverage = benchmark("coverage")


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


@pytest.mark.parametrize("metric", ["r_at_5", "mrr"])
def test_intervals_of_gains_hold_the_truth_and_those_of_windows_do_not(metric: str) -> None:
    """A small version of benchmarks/coverage.py: 17 unequal articles, two arms that rank."""
    rounds = 300
    found = coverage.misses(17, 0.1, metric, rounds=rounds, resamples=400, seed=1)
    missed = (found.above + found.below) / rounds
    assert 0.01 < missed < 0.095  # 5 % wanted, Monte-Carlo error 1.3 points
    assert found.below / rounds < 0.055  # the side of a false PASS, 2.5 % wanted
    assert found.flips / rounds < 0.055
    assert found.windows_only / rounds > 0.25  # what ignoring the articles would do
    assert found.effect / rounds > 3


def test_free_windows_agree_with_scipys_bootstrap_of_a_mean() -> None:
    values = np.random.default_rng(8).gamma(2.0, 1.0, 400)
    want = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000,
        random_state=np.random.default_rng(9),
    ).confidence_interval  # fmt: skip
    got = bootstrap_mean(values, np.arange(400), **{**SETTINGS, "resamples": 20_000})
    assert got.lower == pytest.approx(want.low, abs=0.04 * (want.high - want.low))
    assert got.upper == pytest.approx(want.high, abs=0.04 * (want.high - want.low))


@pytest.mark.parametrize("articles", [9, 40])
def test_sign_flips_agree_with_scipys_paired_permutations(articles: int) -> None:
    rng = np.random.default_rng(articles)
    a, b = rng.normal(0.2, 0.5, articles), rng.normal(0, 0.5, articles)
    want = scipy.stats.permutation_test(
        (a, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples",
        vectorized=True, alternative="greater", n_resamples=20_000,
        rng=np.random.default_rng(0),
    ).pvalue  # fmt: skip
    exact = 2**articles <= 20_000
    assert 0.001 < want < 0.5
    assert sign_flip_p(a - b) == pytest.approx(want, abs=1e-9 if exact else 0.012)


def test_sign_flips_are_counted_exactly() -> None:
    values = np.array([0.5, 0.1, -0.2, 0.4, 0.3])
    sums = [np.dot(s, values) for s in itertools.product([1, -1], repeat=5)]
    want = np.mean([s >= values.sum() - 1e-12 for s in sums])
    assert sign_flip_p(values) == pytest.approx(want)
    assert sign_flip_p(np.ones(5)) == 1 / 32
    assert sign_flip_p(np.zeros(5)) == 1
    assert sign_flip_p(-np.ones(5)) == 1


@pytest.mark.parametrize("articles", [22, 44])  # counted, and drawn
def test_sign_flips_agree_with_a_known_value_and_the_seed(articles: int) -> None:
    # All gain or lose 1, so the p-value is a binomial tail, P(X >= gained | articles, 1/2).
    gained = articles // 2 + 6
    values = np.array([1.0] * gained + [-1.0] * (articles - gained))
    want = scipy.stats.binom.sf(gained - 1, articles, 0.5)
    tolerance = 1e-9 if articles == 22 else 0.004
    assert sign_flip_p(values, seed=3) == pytest.approx(want, abs=tolerance)
    assert sign_flip_p(values, seed=3) == sign_flip_p(values, seed=3)


def test_sign_flips_of_windows_turn_whole_articles_about_the_bound() -> None:
    articles = np.repeat([0, 1, 2, 3], [8, 1, 3, 4])
    values = np.repeat([0.3, 0.5, 0.2, 0.4], [8, 1, 3, 4])
    assert sign_flip_mean_p(values, articles) == 1 / 16  # every article is above 0
    assert sign_flip_mean_p(values, articles, bound=0.6) == 1
    # About .25 the sums are .4, .25, -.15 and .6: turning the third alone loses nothing.
    assert sign_flip_mean_p(values, articles, bound=0.25) == 2 / 16


def test_articles_needed_by_hand() -> None:
    assert more_articles(20, 0.04, 0.02) == 60  # half the width takes four times as many
    assert more_articles(20, 0.02, 0.04) == 1
    assert more_articles(20, 0.02, 0.0) == more_articles(20, 0.02, 0.001) == 7980


def test_seeds_and_articles_both_widen_the_interval() -> None:
    rng = np.random.default_rng(3)
    articles = np.repeat(np.arange(400), 4)
    of_article, of_seed = rng.normal(0, 0.2, 400), rng.normal(0, 0.3, 40)
    rest = rng.normal(0, 0.1, (40, 400))
    values = of_seed[:, None] + (of_article + rest)[:, articles]
    found = mean_over_seeds(values, articles, confidence=0.95)
    assert found.value == pytest.approx(values.mean())
    assert found.between_articles == pytest.approx(np.var(of_article), rel=0.05)
    assert found.between_seeds == pytest.approx(of_seed.var(ddof=1), rel=0.05)
    assert found.rest == pytest.approx(0.01, rel=0.05)
    seeds_only = scipy.stats.ttest_1samp(values.mean(axis=1), 0).confidence_interval(0.95)
    assert found.lower < seeds_only.low < seeds_only.high < found.upper


def test_seeds_that_agree_leave_the_interval_of_the_articles() -> None:
    values, articles = balanced(2)
    found = mean_over_seeds(np.stack([values] * 3), articles, confidence=0.95)
    want = scipy.stats.ttest_1samp(values.reshape(20, 50).mean(axis=1), 0).confidence_interval(0.95)
    assert (found.between_seeds, found.rest) == pytest.approx((0, 0), abs=1e-12)
    assert (found.lower, found.upper) == pytest.approx((want.low, want.high))
    with pytest.raises(DataError, match="1 seeds, allowed are 2 or more"):
        mean_over_seeds(values[None], articles, confidence=0.95)


def test_interval_over_seeds_covers_where_that_of_one_seed_does_not() -> None:
    both, first = coverage.seed_misses(3, 0.05, rounds=300)
    assert both / 300 < 0.085
    assert first / 300 > 0.2


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
