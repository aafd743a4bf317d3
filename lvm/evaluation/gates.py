"""Gates: a metric, a bound, and a verdict that respects the interval.

    lower limit at or above the bound    PASS
    upper limit below the bound          FAIL
    the interval crosses the bound       INCONCLUSIVE
    fewer than MIN_ARTICLES articles     INCONCLUSIVE: so few leave no interval to trust
    nothing to judge                     NOT_EVALUABLE, with the reason

A difference between two models passes only if its p-value, corrected for everything that its
family compares, is at most the one-sided level of the interval. A family that is judged in several
looks has a known maximum of them: every look spends an equal part of the level (Bonferroni), and
Holm divides that part among the differences of the look. Nothing is judged again when a later look
comes, so the level holds for the family as a whole. FAIL claims no fix, so it is read off the
interval without a correction.

Where the articles' gains are skewed, few articles say little about the upper limit: below
FAIL_ARTICLES, gains whose skew is SKEWED or more FAIL only if twice the half-width still lies below
the bound. Upper-limit misses of exponential gains fell from 4.2-5.5 to 1.7-2.5 % by it (nominal
2.5), of gains that every fourth article has from 9-14 to 2-7 %; gains of one article in eight stay
beyond any rule (7-24 %). Skew .5 without doubling costs as many true FAILs as 30 % of symmetric
samples; skew 1 leaves 3.3-3.4 and 2-8 %.

An INCONCLUSIVE difference says how many more articles would settle it with an 80 % chance if the
gain is really what was seen (`lvm.core.outlook`), or that it lies on the bound, where no number
would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lvm.core.config.run import GateConfig
from lvm.core.metrics import METRICS
from lvm.core.outlook import with_outlook
from lvm.core.records import Estimate, GateResult, Verdict
from lvm.core.statistics import ArticleMean, article_mean, design_effect, holm, mean_difference
from lvm.core.text import title_of
from lvm.evaluation.measured import Measured, improvement, pair_problem, problem_of
from lvm.evaluation.sign_flip import sign_flip_mean_p

MIN_ARTICLES = 6  # no PASS and no FAIL on fewer
FAIL_ARTICLES = 40  # from here on the upper limit needs no care for skewed gains
SKEWED = 0.5  # skewness of the articles' mean gains


def judge(estimate: Estimate, bound: float) -> Verdict:
    """Return the verdict of an estimate against a bound."""
    if not (math.isfinite(estimate.lower) and math.isfinite(estimate.upper)):
        return Verdict.NOT_EVALUABLE
    if estimate.lower >= bound:
        return Verdict.PASS
    return Verdict.FAIL if estimate.upper < bound else Verdict.INCONCLUSIVE


def stage_gate(per_query: Measured, config: GateConfig) -> GateResult:
    """Judge the mean cosine against the stage gate."""
    bound = config.stage_eval_cosine
    problem = problem_of(per_query)
    if problem:
        return _not_evaluable("stage", "eval_cosine", bound, problem)
    mean = article_mean(per_query.cosine, per_query.articles)
    estimate = mean.estimate(config.confidence)
    verdict, reason = judge(estimate, bound), _against(estimate, f"{bound:.3f}", sign="")
    result = GateResult(
        gate="stage",
        metric="eval_cosine",
        bound=bound,
        estimate=estimate,
        verdict=verdict,
        reason=reason,
        design_effect=design_effect(per_query.cosine, per_query.articles),
    )
    result = _on_articles(result, mean)
    if estimate.num_articles < MIN_ARTICLES and verdict is not Verdict.NOT_EVALUABLE:
        return _too_few(result)
    return with_outlook(result, estimate, (1 - config.confidence) / 2, None)


def success_gates(
    arm: Measured,
    baseline: Measured,
    config: GateConfig,
    seed: int,
    other_p_values: Sequence[float] = (),
    *,
    looks: int = 1,
    split_share: float | None = None,
) -> tuple[Verdict, list[GateResult]]:
    """Judge the gains of `arm` over the AR-only baseline in R@5 and MRR; one PASS is enough.

    So are the gains in any other metric that declares a success bound. `other_p_values` are judged
    together with these, `looks` and `split_share` are as in `correct`. The whole is FAIL only if
    all intervals lie below their bounds. The results carry uncorrected p-values, to be handed to
    `correct` again.
    """
    bounds = config.success_bounds
    problem = pair_problem(arm, baseline)
    if problem:
        results = [_not_evaluable("success", m, b, problem) for m, b in bounds.items()]
        return Verdict.NOT_EVALUABLE, results
    found = [_difference("success", arm, baseline, m, b, config, seed) for m, b in bounds.items()]
    results = correct(found, config, other_p_values, looks=looks, split_share=split_share)
    verdicts = {result.verdict for result in results}
    if Verdict.PASS in verdicts:
        return Verdict.PASS, results
    return (Verdict.FAIL if verdicts == {Verdict.FAIL} else Verdict.INCONCLUSIVE), results


def gain(
    arm: Measured, control: Measured, metric: str, config: GateConfig, seed: int
) -> GateResult:
    """Judge whether `arm` beats its control in `metric` at all: PASS needs an interval above 0.

    A gain is an improvement: a fall where lower is better. Raises ConfigError for a metric that is
    no mean over windows.
    """
    problem = pair_problem(arm, control)
    if not METRICS.get(metric).across_spaces and arm.space != control.space:
        spaces = f"the {arm.space} and {control.space} space"
        problem = problem or f"{title_of(metric)}s in {spaces} are not comparable"
    if problem:
        return _not_evaluable("gain", metric, 0.0, problem)
    return correct([_difference("gain", arm, control, metric, 0.0, config, seed)], config)[0]


def correct(
    results: Sequence[GateResult],
    config: GateConfig,
    other_p_values: Sequence[float] = (),
    *,
    looks: int = 1,
    split_share: float | None = None,
) -> list[GateResult]:
    """Judge differences together: Holm over all of them and `other_p_values`, times `looks`.

    `looks` is the known maximum of times that this family is judged, this one among them.
    `split_share` is the share of the corpus's articles that the windows come from; with it, the
    outlook counts articles of the corpus. Results without a p-value stay as they are; the others
    keep what was measured, whatever they were judged with before.
    """
    p_values = [r.p_value for r in results if r.p_value is not None]
    adjusted = iter(np.minimum(looks * holm([*p_values, *other_p_values]), 1.0).tolist())
    num_tests = looks * (len(p_values) + len(other_p_values))
    return [
        result
        if result.p_value is None or result.estimate is None
        else _judge_difference(
            result, result.estimate, next(adjusted), num_tests, config, split_share
        )
        for result in results
    ]


def _difference(
    gate: str,
    arm: Measured,
    other: Measured,
    metric: str,
    bound: float,
    config: GateConfig,
    seed: int,
) -> GateResult:
    """Measure a difference; `correct` judges it."""
    ours, theirs = improvement(arm, other, metric)
    mean = mean_difference(ours, theirs, arm.articles)
    difference = np.asarray(ours, dtype=np.float64) - theirs
    result = GateResult(
        gate=gate,
        metric=metric,
        bound=bound,
        estimate=mean.estimate(config.confidence),
        verdict=Verdict.INCONCLUSIVE,
        reason="",
        p_value=mean.p_value(bound),
        sign_flip_p=sign_flip_mean_p(difference, arm.articles, bound=bound, seed=seed),
        design_effect=design_effect(difference, arm.articles),
    )
    return _on_articles(result, mean)


def _on_articles(result: GateResult, mean: ArticleMean) -> GateResult:
    """Add what the interval is based on."""
    return replace(
        result,
        degrees=mean.degrees,
        effective_articles=mean.effective_articles,
        size_correlation=mean.size_correlation,
        skew=mean.skew,
    )


def _judge_difference(
    result: GateResult,
    estimate: Estimate,
    adjusted: float,
    num_tests: int,
    config: GateConfig,
    split_share: float | None,
) -> GateResult:
    level = (1 - config.confidence) / 2
    judged = replace(
        result,
        verdict=Verdict.INCONCLUSIVE,
        adjusted_p=adjusted,
        num_tests=num_tests,
        reason=_against(estimate, f"{result.bound:+.3f}", sign="+"),
        articles_needed=None,
        articles_range=None,
    )
    if estimate.num_articles < MIN_ARTICLES:
        return _too_few(judged)
    if adjusted <= level:
        return replace(judged, verdict=Verdict.PASS)
    if estimate.upper < result.bound:
        if not _too_skewed(result, estimate):
            return replace(judged, verdict=Verdict.FAIL)
        words = (
            f"a FAIL on fewer than {FAIL_ARTICLES} articles whose gains are skewed "
            f"({result.skew:.1f}) needs twice the half-width"
        )
        return replace(judged, reason=f"{judged.reason}; {words}")
    if result.p_value is not None and result.p_value <= level:
        words = (
            f"significant alone, but not after correction for {num_tests} comparisons "
            f"(p {adjusted:.3f}, must be at most {level:.3f})"
        )
        judged = replace(judged, reason=f"{judged.reason}; {words}")
    return with_outlook(judged, estimate, level / num_tests, split_share)


def _too_skewed(result: GateResult, estimate: Estimate) -> bool:
    """Whether a FAIL stands on gains so skewed that the upper limit is not to be trusted."""
    few = estimate.num_articles < FAIL_ARTICLES
    doubled = 2 * estimate.upper - estimate.value
    return few and (result.skew or 0.0) >= SKEWED and doubled >= result.bound


def _too_few(result: GateResult) -> GateResult:
    words = f"a verdict needs at least {MIN_ARTICLES} articles"
    return replace(result, verdict=Verdict.INCONCLUSIVE, reason=f"{result.reason}; {words}")


def _against(estimate: Estimate, bound: str, *, sign: str) -> str:
    return (
        f"{estimate.value:{sign}.3f} [{estimate.lower:.3f}, {estimate.upper:.3f}] against a bound "
        f"of {bound}, {estimate.num_articles} articles"
    )


def _not_evaluable(gate: str, metric: str, bound: float, reason: str) -> GateResult:
    return GateResult(
        gate=gate,
        metric=metric,
        bound=bound,
        estimate=None,
        verdict=Verdict.NOT_EVALUABLE,
        reason=reason,
    )
