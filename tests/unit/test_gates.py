from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import scipy.stats
from msgspec import convert

from lvm.core.config.run import GateConfig
from lvm.core.errors import ConfigError, DataError
from lvm.core.outlook import more_for_a_chance
from lvm.core.records import Estimate, GateResult, Pool, Verdict, to_plain
from lvm.evaluation.gates import SKEWED, correct, gain, judge, stage_gate, success_gates
from lvm.triage.over_seeds import gain_over_seeds

CONFIG = GateConfig()
POOL = Pool(id="abc", size=1000, mask="own contexts")


@dataclass(frozen=True, eq=False)
class Toy:
    """What a gate reads, from ranks without ties."""

    rank: np.ndarray
    articles: np.ndarray
    cosine: np.ndarray
    space: str = "raw"
    pool: Pool = POOL

    @property
    def reciprocal_rank(self) -> np.ndarray:
        return 1 / self.rank

    @property
    def percentile(self) -> np.ndarray:
        return 1 - (self.rank - 1) / (self.pool.size - 1)

    def hit(self, k: int) -> np.ndarray:
        return (self.rank <= k).astype(float)


def toy(share: float, *, top: int = 5, articles: int = 17, each: int = 100, spread=0.02) -> Toy:
    """A share of windows of each article at rank `top`, the rest at 200."""
    rng = np.random.default_rng(0)
    ids = np.repeat(np.arange(articles), each)
    shares = np.clip(share + spread * rng.standard_normal(articles), 0, 1)
    place = np.tile(np.arange(each), articles)
    rank = np.where(place < np.round(shares[ids] * each), top, 200)
    cosine = 0.3 + spread * rng.standard_normal(articles)[ids]
    return Toy(rank.astype(float), ids, cosine)


def estimate(lower: float, upper: float) -> Estimate:
    return Estimate(
        value=(lower + upper) / 2,
        lower=lower,
        upper=upper,
        confidence=0.95,
        num_windows=10,
        num_articles=5,
    )


@pytest.mark.parametrize(
    ("lower", "upper", "verdict"),
    [
        (0.35, 0.4, Verdict.PASS),
        (0.36, 0.4, Verdict.PASS),
        (0.2, 0.349, Verdict.FAIL),
        (0.2, 0.35, Verdict.INCONCLUSIVE),
        (0.349, 0.4, Verdict.INCONCLUSIVE),
        (math.nan, 0.4, Verdict.NOT_EVALUABLE),
        (0.36, math.inf, Verdict.NOT_EVALUABLE),
    ],
)
def test_judge(lower: float, upper: float, verdict: Verdict) -> None:
    assert judge(estimate(lower, upper), 0.35) is verdict


@pytest.mark.parametrize(
    ("bound", "verdict"),
    [(0.2, Verdict.PASS), (0.3, Verdict.INCONCLUSIVE), (0.4, Verdict.FAIL)],
)
def test_stage_gate(bound: float, verdict: Verdict) -> None:
    result = stage_gate(toy(0.1), replace(CONFIG, stage_eval_cosine=bound))
    assert (result.gate, result.metric, result.bound) == ("stage", "eval_cosine", bound)
    assert result.verdict is verdict
    assert result.estimate.num_articles == 17
    assert f"against a bound of {bound:.3f}, 17 articles" in result.reason
    assert convert(to_plain(result), GateResult) == result


def test_stage_gate_says_why_it_cannot_judge() -> None:
    good = toy(0.1)
    broken = replace(good, cosine=np.where(np.arange(1700) < 3, np.nan, 0.3))
    none = Toy(np.empty(0), np.empty(0, dtype=int), np.empty(0))
    for measured, words in (
        (toy(0.1, articles=1), "at least 2 articles (got 1)"),
        (none, "no windows"),
        (broken, "3 of 1700 cosines are not finite"),
    ):
        result = stage_gate(measured, CONFIG)
        assert result.verdict is Verdict.NOT_EVALUABLE
        assert result.estimate is None
        assert words in result.reason


def test_success_by_recall_alone_is_a_pass() -> None:
    verdict, (recall, mrr) = success_gates(toy(0.20), toy(0.02), CONFIG, seed=0)
    assert verdict is recall.verdict is Verdict.PASS
    assert mrr.verdict is Verdict.FAIL  # rank 5 adds .2 of a reciprocal rank at most
    assert (recall.metric, mrr.metric) == ("r_at_5", "mrr")
    assert (recall.bound, mrr.bound) == (0.10, 0.05)
    assert recall.estimate.value == pytest.approx(0.18, abs=0.02)
    assert recall.p_value < 0.01
    assert recall.reason.startswith("+0.1")
    assert recall.reason.endswith("against a bound of +0.100, 17 articles")


def test_success_by_reciprocal_rank_alone_is_a_pass() -> None:
    verdict, (recall, mrr) = success_gates(toy(0.2, top=1), toy(0.2), CONFIG, seed=0)
    assert verdict is mrr.verdict is Verdict.PASS
    assert recall.verdict is Verdict.FAIL


def test_failure_needs_both_limits_below_their_bounds() -> None:
    verdict, results = success_gates(toy(0.03), toy(0.02), CONFIG, seed=0)
    assert verdict is Verdict.FAIL
    assert all(r.estimate.upper < r.bound for r in results)
    wide = replace(CONFIG, success_r_at_5=0.18)  # where the gain is
    verdict, (recall, mrr) = success_gates(toy(0.20), toy(0.02), wide, seed=0)
    assert (verdict, recall.verdict) == (Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE)
    assert mrr.verdict is Verdict.FAIL


def test_arms_confirmed_earlier_make_a_pass_harder() -> None:
    arm, base = toy(0.15, spread=0.06), toy(0.0, spread=0.0)
    _, (recall, _) = success_gates(arm, base, CONFIG, seed=0)
    p_value = recall.p_value
    assert 0.002 < p_value < 0.0125  # passes among two tests
    assert recall.verdict is Verdict.PASS
    verdict, (recall, _) = success_gates(arm, base, CONFIG, 0, other_p_values=[0.04] * 30)
    assert verdict is recall.verdict is Verdict.INCONCLUSIVE
    assert recall.p_value == p_value  # as measured
    assert "not after correction for 32 comparisons" in recall.reason
    assert recall.articles_needed > 0
    alone = correct([recall], CONFIG)[0]  # judged anew, nothing of the old judgement stays
    assert (alone.verdict, alone.articles_needed) == (Verdict.PASS, None)
    assert "comparisons" not in alone.reason


def test_arms_that_cannot_be_compared_are_not_judged() -> None:
    arm, base = toy(0.2), toy(0.02)
    turned = replace(base, articles=base.articles[::-1])
    other_pool = replace(base, pool=replace(POOL, size=999))
    broken = replace(base, cosine=np.full(1700, np.inf))
    for other, words in (
        (turned, "another order"),
        (toy(0.02, each=50), "1700 and 850"),
        (other_pool, "the pools differ (abc, 1000 rows"),
        (broken, "1700 of 1700 cosines are not finite"),
    ):
        verdict, results = success_gates(arm, other, CONFIG, seed=0)
        assert verdict is Verdict.NOT_EVALUABLE
        assert [r.verdict for r in results] == [Verdict.NOT_EVALUABLE] * 2
        assert all(words in r.reason for r in results)
        assert gain(arm, other, "mrr", CONFIG, 0).verdict is Verdict.NOT_EVALUABLE


def test_gain_over_the_control() -> None:
    control = toy(0.1)
    assert gain(toy(0.15), control, "r_at_5", CONFIG, 0).verdict is Verdict.PASS
    assert gain(toy(0.05), control, "r_at_5", CONFIG, 0).verdict is Verdict.FAIL
    same = gain(control, control, "r_at_5", CONFIG, 0)
    assert same.verdict is Verdict.INCONCLUSIVE  # no gain is not a gain
    assert (same.gate, same.bound, same.p_value) == ("gain", 0.0, 1.0)
    warmer = replace(control, cosine=control.cosine + 0.01)
    assert gain(warmer, control, "eval_cosine", CONFIG, 0).verdict is Verdict.PASS
    deep = gain(toy(0.2, top=50), control, "contain_at_50", CONFIG, 0)
    assert deep.verdict is Verdict.PASS
    assert deep.estimate.value == pytest.approx(0.1, abs=0.01)


def test_cosines_of_two_spaces_are_not_compared_but_ranks_are() -> None:
    control = toy(0.1)
    projected = replace(toy(0.2), space="projected")
    result = gain(projected, control, "eval_cosine", CONFIG, 0)
    assert result.verdict is Verdict.NOT_EVALUABLE
    assert "projected and raw" in result.reason
    assert gain(projected, control, "r_at_5", CONFIG, 0).verdict is Verdict.PASS


def test_a_metric_that_is_no_mean_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be one of eval_cosine"):
        gain(toy(0.1), toy(0.1), "eff_at_5", CONFIG, 0)


def test_a_seed_draws_the_second_opinion_and_nothing_that_decides() -> None:
    arm, base = shaken(0.12, 1, articles=40), shaken(0.06, 2, articles=40)
    (first, _), (other, _) = (success_gates(arm, base, CONFIG, seed)[1] for seed in (1, 2))
    assert first == success_gates(arm, base, CONFIG, 1)[1][0]
    assert first.sign_flip_p != other.sign_flip_p
    assert replace(first, sign_flip_p=None) == replace(other, sign_flip_p=None)


# --- few articles, skewed gains, several looks ----------------------------------------------------


def test_two_windows_of_two_articles_settle_nothing() -> None:
    """All hits against none leaves an interval without width; two articles are no evidence."""
    base = Toy(np.full(2, 200.0), np.array([0, 1]), np.full(2, 0.9))
    verdict, results = success_gates(replace(base, rank=np.ones(2)), base, CONFIG, 0)
    assert verdict is Verdict.INCONCLUSIVE
    assert [r.verdict for r in results] == [Verdict.INCONCLUSIVE] * 2
    assert [r.p_value for r in results] == [1 / 4, 1 / 4]  # no less than that of two signs
    assert stage_gate(base, CONFIG).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(("articles", "settled"), [(5, False), (6, True)])
def test_fewer_than_six_articles_neither_pass_nor_fail(articles: int, settled: bool) -> None:
    good, base = toy(0.3, articles=articles), toy(0.02, articles=articles)
    gains = gain(good, base, "r_at_5", CONFIG, 0), gain(base, good, "r_at_5", CONFIG, 0)
    bounds = (replace(CONFIG, stage_eval_cosine=bound) for bound in (0.1, 0.6))
    stages = [stage_gate(good, config) for config in bounds]
    expected = [Verdict.PASS, Verdict.FAIL] if settled else [Verdict.INCONCLUSIVE] * 2
    assert [r.verdict for r in gains] == [r.verdict for r in stages] == expected
    assert all(("at least 6 articles" in r.reason) is not settled for r in (*gains, *stages))


def of_articles(gains: Sequence[float]) -> tuple[Toy, Toy]:
    """An arm that hits a share of each article's 100 windows, and one that hits none."""
    ids = np.repeat(np.arange(len(gains)), 100)
    hit = np.tile(np.arange(100), len(gains)) < np.round(100 * np.array(gains)[ids])
    none = Toy(np.full(len(ids), 200.0), ids, np.full(len(ids), 0.3))
    return replace(none, rank=np.where(hit, 5.0, 200.0)), none


def test_a_fail_on_few_articles_with_skewed_gains_needs_twice_the_half_width() -> None:
    skewed = [0.0] * 12 + [0.15] * 4 + [0.3]  # mean .053, upper limit .099
    arm, none = of_articles(skewed)
    close = replace(CONFIG, success_r_at_5=0.105)
    result = success_gates(arm, none, close, 0)[1][0]
    assert result.skew == pytest.approx(scipy.stats.skew(skewed))
    assert result.skew > SKEWED
    assert result.estimate.upper < 0.105 < 2 * result.estimate.upper - result.estimate.value
    assert result.verdict is Verdict.INCONCLUSIVE
    far = replace(CONFIG, success_r_at_5=0.2)  # clear of twice the half-width
    assert success_gates(arm, none, far, 0)[1][0].verdict is Verdict.FAIL
    mirrored = of_articles([0.3 - g for g in skewed])  # its tail is to losses
    limit = gain(*mirrored, "r_at_5", CONFIG, 0).estimate.upper
    just = replace(CONFIG, success_r_at_5=limit + 0.006)
    assert success_gates(*mirrored, just, 0)[1][0].verdict is Verdict.FAIL
    many, nothing = of_articles(skewed * 3)  # 51 articles
    limit = gain(many, nothing, "r_at_5", CONFIG, 0).estimate.upper
    just = replace(CONFIG, success_r_at_5=limit + 0.001)
    assert success_gates(many, nothing, just, 0)[1][0].verdict is Verdict.FAIL


def test_every_look_spends_its_part_of_the_level_and_no_more() -> None:
    arm, base = toy(0.15, spread=0.06), toy(0.0, spread=0.0)
    _, (once, _) = success_gates(arm, base, CONFIG, 0)
    _, (first, _) = success_gates(arm, base, CONFIG, 0, looks=6)
    assert first.adjusted_p == pytest.approx(6 * once.adjusted_p)
    assert (once.num_tests, first.num_tests) == (2, 12)
    assert (once.verdict, first.verdict) == (Verdict.PASS, Verdict.INCONCLUSIVE)
    assert "not after correction for 12 comparisons" in first.reason


def test_articles_of_unequal_length_say_how_many_they_are_worth() -> None:
    sizes = np.array([10, 20, 40, 80, 160, 320])
    ids = np.repeat(np.arange(6), sizes)
    place = np.concatenate([np.arange(size) for size in sizes])
    rank = np.where(place < sizes[ids] * np.array([0.6, 0.5, 0.4, 0.3, 0.2, 0.1])[ids], 1.0, 200.0)
    arm = Toy(rank, ids, np.full(len(ids), 0.3))
    result = gain(arm, replace(arm, rank=np.full(len(ids), 200.0)), "r_at_5", CONFIG, 0)
    assert result.effective_articles == pytest.approx(sizes.sum() ** 2 / (sizes**2).sum())
    assert result.size_correlation == pytest.approx(-1)  # equal steps in the logarithm of size
    assert result.degrees < result.effective_articles - 1 < 5


# --- what stands beside the verdict ---------------------------------------------------------------


def shaken(share: float, seed: int, *, articles: int = 17) -> Toy:
    """Articles whose shares of hits differ, drawn by a seed of their own."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(articles), 100)
    shares = np.clip(share + 0.06 * rng.standard_normal(articles), 0, 1)
    rank = np.where(rng.random(len(ids)) < shares[ids], 5.0, 200.0)
    return Toy(rank, ids, 0.3 + 0.02 * rng.standard_normal(articles)[ids])


def test_both_p_values_and_the_design_effect_stand_beside_a_difference() -> None:
    arm, base = shaken(0.2, 1), shaken(0.06, 2)
    _, (recall, _) = success_gates(arm, base, CONFIG, seed=0)
    assert recall.sign_flip_p == pytest.approx(recall.p_value, abs=0.01)
    assert recall.adjusted_p == pytest.approx(2 * recall.p_value)
    assert recall.num_tests == 2
    assert 1.5 < recall.design_effect < 8
    assert stage_gate(arm, CONFIG).design_effect == pytest.approx(100, rel=0.1)


def test_one_article_cannot_carry_a_sign_flip_as_it_can_a_mean() -> None:
    """The second opinion is about articles: a single one that gains is half the time a loss."""
    base = toy(0.0, spread=0.0)
    arm = replace(base, rank=np.where((base.articles == 3) & (np.arange(1700) % 2 == 0), 1, 200.0))
    result = gain(arm, base, "r_at_5", CONFIG, 0)
    assert result.sign_flip_p == pytest.approx(0.5)
    assert result.verdict is Verdict.INCONCLUSIVE


def test_an_inconclusive_gate_says_how_many_more_articles_would_settle_it() -> None:
    wide = replace(CONFIG, success_r_at_5=0.11)
    arm, base = shaken(0.2, 1), shaken(0.06, 2)
    result = success_gates(arm, base, wide, 0, split_share=0.2)[1][0]
    assert result.verdict is Verdict.INCONCLUSIVE
    gained = result.estimate
    degrees = result.degrees
    error = (gained.upper - gained.value) / scipy.stats.t.ppf(0.975, degrees)
    want = more_for_a_chance(17, error, degrees, gained.value - 0.11, 0.0125)
    assert result.articles_needed == want.articles
    assert result.articles_range == (want.fewest, want.most)
    assert want.fewest < want.articles < want.most
    said = re.search(r"80 % chance .* really \+0.136: about ([\d,]+) more documents", result.reason)
    assert int(said[1].replace(",", "")) == pytest.approx(5 * want.articles, rel=0.1)
    of_split = success_gates(arm, base, wide, 0)[1][0]
    assert "more articles of this split" in of_split.reason
    assert convert(to_plain(result), GateResult) == result


def test_no_number_of_articles_settles_a_value_on_the_bound() -> None:
    same = gain(toy(0.1), toy(0.1), "r_at_5", CONFIG, 0)
    assert same.articles_needed is None
    assert "no number of articles can decide it" in same.reason


def test_what_is_settled_asks_for_no_articles() -> None:
    _, results = success_gates(toy(0.20), toy(0.02), CONFIG, seed=0)
    assert {r.verdict for r in results} == {Verdict.PASS, Verdict.FAIL}
    assert all(r.articles_needed is None and "chance" not in r.reason for r in results)


def test_arms_judged_together_are_corrected_together() -> None:
    arm, base = toy(0.03, spread=0.06), toy(0.0, spread=0.0)
    alone = gain(arm, base, "r_at_5", CONFIG, 0)
    nothing = [gain(base, base, "mrr", CONFIG, 0)] * 999
    broken = gain(toy(0.1, articles=1), toy(0.1, articles=1), "mrr", CONFIG, 0)
    first, refused, *_ = correct([alone, broken, *nothing], CONFIG)
    assert (first.p_value, first.estimate) == (alone.p_value, alone.estimate)
    assert (alone.verdict, first.verdict) == (Verdict.PASS, Verdict.INCONCLUSIVE)
    assert first.num_tests == 1000
    assert "not after correction for 1000 comparisons" in first.reason
    assert refused is broken  # nothing to correct
    assert correct([first], CONFIG) == [alone]  # judged anew, whatever stood before


def test_what_stands_beside_an_interval_and_an_older_journal() -> None:
    plain = to_plain(gain(shaken(0.2, 1), shaken(0.06, 2), "r_at_5", CONFIG, 0))
    assert 0 < plain["p_value"] == plain["adjusted_p"] < 0.001
    assert plain["num_tests"] == 1
    assert plain["sign_flip_p"] < 0.001
    assert plain["design_effect"] > 1
    old = {key: plain[key] for key in ("gate", "metric", "bound", "estimate", "verdict", "reason")}
    assert convert(old, GateResult).design_effect is None


def test_gains_of_several_seeds_are_paired_seed_by_seed() -> None:
    controls = [toy(0.1, spread=0.02) for _ in range(3)]
    arms = [toy(share, spread=0.02) for share in (0.12, 0.15, 0.18)]
    found = gain_over_seeds(arms, controls, "r_at_5", CONFIG)
    assert found.value == pytest.approx(0.05, abs=0.002)
    assert found.between_seeds == pytest.approx(0.03**2, rel=0.1)
    assert found.lower < 0  # three seeds that differ so much do not show a gain
    assert judge(found, 0.0) is Verdict.INCONCLUSIVE
    with pytest.raises(DataError, match="2 evaluations and 3 of the control"):
        gain_over_seeds(arms[:2], controls, "r_at_5", CONFIG)
    with pytest.raises(DataError, match="different windows"):
        gain_over_seeds([*arms[:2], toy(0.1, each=50)], controls, "r_at_5", CONFIG)
    with pytest.raises(DataError, match=r"at least 2 seeds .* \(got 1\)"):
        gain_over_seeds(arms[:1], controls[:1], "r_at_5", CONFIG)
