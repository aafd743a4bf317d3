from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scipy.stats

from lvm.core.errors import DataError
from lvm.core.statistics import (
    article_mean,
    bell_mccaffrey,
    cr2_error,
    design_effect,
    holm,
    mean_difference,
    mean_over_seeds,
    more_articles,
)
from lvm.evaluation.sign_flip import sign_flip_mean_p, sign_flip_p


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
    got = article_mean(values, articles).estimate(0.95)
    assert got.value == pytest.approx(values.mean())
    assert (got.lower, got.upper) == pytest.approx((want.low, want.high))
    assert (got.num_windows, got.num_articles, got.confidence) == (1000, 20, 0.95)


def unequal(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Sums and sizes of nine articles."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 90, 9).astype(float)
    return sizes * rng.normal(0.3, 0.1, 9), sizes


def test_error_and_degrees_agree_with_the_matrices_of_bell_and_mccaffrey() -> None:
    """Their definitions, with the projection matrix of a weighted intercept written out."""
    sums, sizes = unequal()
    w = sizes / sizes.sum()
    means, residual = sums / sizes, np.eye(9) - np.outer(np.ones(9), w)
    pulled = np.diag(w / np.sqrt(1 - w))  # weight times the inverse square root of I - H
    form = (pulled @ residual).T @ (pulled @ residual)
    assert cr2_error(sums, sizes) ** 2 == pytest.approx(means @ form @ means)
    want = np.trace(form) ** 2 / np.trace(form @ form)
    assert bell_mccaffrey(sizes) == pytest.approx(want)
    assert want < 8
    both = bell_mccaffrey(np.stack([sizes, np.full(9, 7.0)]))
    assert both == pytest.approx([want, 8])  # articles of one length leave G - 1


def test_many_articles_agree_with_scipys_bootstrap_of_the_ratio() -> None:
    rng = np.random.default_rng(1)
    sizes = rng.integers(2, 12, 300)
    articles = np.repeat(np.arange(300), sizes)
    values = rng.normal(0.5, 0.2, 300)[articles]
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
    got = article_mean(values, articles).estimate(0.95)
    width = want.high - want.low
    assert got.lower == pytest.approx(want.low, abs=0.05 * width)
    assert got.upper == pytest.approx(want.high, abs=0.05 * width)


def test_windows_of_one_article_move_together() -> None:
    values, articles = balanced(0)
    shuffled = np.random.default_rng(0).permutation(articles)
    clustered = article_mean(values, articles).error
    assert clustered > 2 * article_mean(values, shuffled).error


def test_difference_is_paired() -> None:
    values, articles = balanced(3)
    noise = np.random.default_rng(4).normal(0, 0.01, len(values))
    found = mean_difference(values + 0.05 + noise, values, articles)
    estimate = found.estimate(0.95)
    assert 0.04 < estimate.lower < estimate.value < estimate.upper < 0.06
    assert found.p_value() < 1e-6
    assert article_mean(values, articles).error > 10 * found.error


def test_p_value_agrees_with_the_t_test_of_article_means() -> None:
    a, articles = balanced(5)
    means = a.reshape(20, 50).mean(axis=1)
    for bound in (0.24, 0.26, 0.28, 0.32):
        want = scipy.stats.ttest_1samp(means, bound, alternative="greater").pvalue
        assert article_mean(a, articles).p_value(bound) == pytest.approx(want)


def test_p_value_and_interval_never_contradict_each_other() -> None:
    values, articles = balanced(6)
    found, lengths = article_mean(values, articles), np.tile([1, 2, 3, 4], 250)
    weighed = article_mean(np.repeat(values, lengths), np.repeat(articles, lengths))
    for mean in (found, weighed):
        lower = mean.estimate(0.95).lower
        seen = [
            (mean.p_value(bound) <= 0.025, lower >= bound) for bound in np.linspace(0.2, 0.4, 81)
        ]
        assert set(seen) == {(True, True), (False, False)}


def test_equal_values_have_an_interval_without_width_and_the_p_value_of_signs() -> None:
    articles = np.repeat([3, 8, 9], [5, 7, 2])
    found = mean_difference(np.full(14, 0.7), np.full(14, 0.7), articles)
    estimate = found.estimate(0.95)
    assert (estimate.lower, estimate.value, estimate.upper, found.p_value()) == (0, 0, 0, 1)
    assert article_mean(np.full(14, 0.7), articles).p_value() == 1 / 8
    assert found.size_correlation is None


def test_two_articles_give_a_wide_and_finite_interval() -> None:
    estimate = article_mean(np.array([0.2, 0.4]), np.array([1, 2])).estimate(0.95)
    assert np.isfinite([estimate.lower, estimate.upper]).all()
    assert estimate.lower < 0 < 0.6 < estimate.upper  # t with one degree of freedom: 12.7 errors


def test_what_is_of_one_article_or_not_finite_is_refused() -> None:
    with pytest.raises(DataError, match="1 articles"):
        article_mean(np.ones(4), np.zeros(4, dtype=int))
    with pytest.raises(DataError, match="1 non-finite values"):
        article_mean(np.array([1, np.nan]), np.array([0, 1]))


@pytest.mark.parametrize("correlation", [-0.86, -0.4, 0.0])
def test_lower_limits_hold_where_long_articles_gain_less(correlation: float) -> None:
    """A part of benchmarks/coverage.py; with G - 1 degrees of freedom -.86 misses 5 to 7 %."""
    population = coverage.drawn(correlation, 1.2)
    for articles in (10, 17, 40):
        found = coverage.misses(population, articles, rounds=6000, seed=1)
        assert 0.005 < found.below < 0.04  # Monte-Carlo error .2 points
        assert found.above < 0.04


def test_more_articles_keep_their_promise() -> None:
    population = coverage.drawn(-0.4, 1.2)
    kept = coverage.promises(population, 17, distance=0.04, level=0.025, rounds=400, seed=2)
    assert 0.74 < kept.settled < 0.92  # 80 % promised, Monte-Carlo error 2 points
    assert kept.fewest < kept.more < kept.most


@pytest.mark.parametrize("articles", [9, 40])
def test_sign_flips_agree_with_scipys_paired_permutations(articles: int) -> None:
    rng = np.random.default_rng(articles)
    a, b = rng.normal(0.2, 0.5, articles), rng.normal(0, 0.5, articles)
    want = scipy.stats.permutation_test(
        (a, b),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        alternative="greater",
        n_resamples=20_000,
        rng=np.random.default_rng(0),
    ).pvalue
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
    with pytest.raises(DataError, match=r"at least 2 seeds .* \(got 1\)"):
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
