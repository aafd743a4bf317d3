"""Gates: a metric, a bound, and a verdict that respects the interval.

    lower limit at or above the bound    PASS
    upper limit below the bound          FAIL
    the interval crosses the bound       INCONCLUSIVE
    nothing to judge                     NOT_EVALUABLE, with the reason

A difference between two arms passes only if its p-value, corrected by Holm for all differences
judged so far, is at most the one-sided level of the interval. The report says why that p-value and
not the sign-flip one beside it, and which looks at the data are corrected and which avoided.
FAIL claims no fix, so it is read off the interval without a correction.

An INCONCLUSIVE result says about how many more articles would settle it at its value, half-widths
falling as 1 / sqrt(articles), or that the value lies on the bound, where no number would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
from scipy.special import stdtrit  # type: ignore[import-untyped]  # scipy has no stubs

from lvm.config import GateConfig
from lvm.errors import ConfigError, DataError
from lvm.records import Estimate, GateResult, Pool, SeededEstimate, Verdict
from lvm.statistics import (
    NEAREST_DISTANCE,
    bootstrap_difference,
    bootstrap_mean,
    design_effect,
    holm,
    mean_over_seeds,
    more_articles,
    sign_flip_mean_p,
)


@runtime_checkable  # the tests check annotations when functions are called
class Measured(Protocol):
    """What a gate reads of an evaluation, one entry per window; own contexts are masked."""

    @property
    def cosine(self) -> np.ndarray:
        """Prediction to target in the space of the search, [M]."""

    @property
    def articles(self) -> np.ndarray:
        """Article of the window, [M]."""

    @property
    def space(self) -> str:
        """Space of the search."""

    @property
    def pool(self) -> Pool:
        """Rows that may be retrieved."""

    @property
    def reciprocal_rank(self) -> np.ndarray:
        """Reciprocal rank of the target, [M]."""

    def hit(self, k: int) -> np.ndarray:
        """Probability that the target is among the first k, [M]."""


_HITS = {"r_at_1": 1, "r_at_5": 5, "r_at_10": 10, "contain_at_50": 50}
_METRICS = ("eval_cosine", "mrr", *_HITS)


def judge(estimate: Estimate, bound: float) -> Verdict:
    """Return the verdict of an estimate against a bound."""
    if not (math.isfinite(estimate.lower) and math.isfinite(estimate.upper)):
        return Verdict.NOT_EVALUABLE
    if estimate.lower >= bound:
        return Verdict.PASS
    return Verdict.FAIL if estimate.upper < bound else Verdict.INCONCLUSIVE


def stage_gate(per_query: Measured, config: GateConfig, seed: int) -> GateResult:
    """Judge the mean cosine against the stage gate."""
    bound = config.stage_eval_cosine
    problem = _problem(per_query)
    if problem:
        return _not_evaluable("stage", "eval_cosine", bound, problem)
    estimate = bootstrap_mean(
        per_query.cosine,
        per_query.articles,
        confidence=config.confidence,
        resamples=config.resamples,
        seed=seed,
        purpose="eval_cosine",
    )
    reason = (
        f"{estimate.value:.3f} [{estimate.lower:.3f}, {estimate.upper:.3f}] against a bound of "
        f"{bound:.3f}, {estimate.num_articles} articles"
    )
    result = GateResult(
        gate="stage",
        metric="eval_cosine",
        bound=bound,
        estimate=estimate,
        verdict=judge(estimate, bound),
        reason=reason,
        design_effect=design_effect(per_query.cosine, per_query.articles),
    )
    return _with_outlook(result, estimate, 1.0)


def success_gates(
    arm: Measured,
    baseline: Measured,
    config: GateConfig,
    seed: int,
    other_p_values: Sequence[float] = (),
) -> tuple[Verdict, list[GateResult]]:
    """Judge the gains of `arm` over the AR-only baseline in R@5 and MRR; one PASS is enough.

    Both p-values are corrected together with `other_p_values`, those of the arms confirmed earlier.
    The whole is FAIL only if both intervals lie below their bounds. The results carry uncorrected
    p-values, to be handed to the next confirmation.
    """
    bounds = {"r_at_5": config.success_r_at_5, "mrr": config.success_mrr}
    problem = pair_problem(arm, baseline)
    if problem:
        results = [_not_evaluable("success", m, b, problem) for m, b in bounds.items()]
        return Verdict.NOT_EVALUABLE, results
    found = [_difference("success", arm, baseline, m, b, config, seed) for m, b in bounds.items()]
    results = correct(found, config, other_p_values)
    verdicts = {result.verdict for result in results}
    if Verdict.PASS in verdicts:
        return Verdict.PASS, results
    return (Verdict.FAIL if verdicts == {Verdict.FAIL} else Verdict.INCONCLUSIVE), results


def gain(
    arm: Measured, control: Measured, metric: str, config: GateConfig, seed: int
) -> GateResult:
    """Judge whether `arm` beats its control in `metric` at all: PASS needs an interval above 0.

    Raises ConfigError for a metric that is no mean over windows.
    """
    if metric not in _METRICS:
        raise ConfigError(f"the metric is {metric!r}, allowed is one of {', '.join(_METRICS)}.")
    problem = pair_problem(arm, control)
    if metric == "eval_cosine" and arm.space != control.space:
        problem = problem or f"cosines in the {arm.space} and {control.space} space do not compare"
    if problem:
        return _not_evaluable("gain", metric, 0.0, problem)
    return correct([_difference("gain", arm, control, metric, 0.0, config, seed)], config)[0]


def correct(
    results: Sequence[GateResult], config: GateConfig, other_p_values: Sequence[float] = ()
) -> list[GateResult]:
    """Judge differences together: Holm over all of them and `other_p_values`, judged earlier.

    Results without a p-value stay as they are; the others keep what was measured, whatever they
    were judged with before. `p_value` stays uncorrected, to be handed on.
    """
    p_values = [r.p_value for r in results if r.p_value is not None]
    adjusted = iter(holm([*p_values, *other_p_values]).tolist())
    num_tests = len(p_values) + len(other_p_values)
    return [
        result
        if result.p_value is None or result.estimate is None
        else _judge_difference(
            result, result.estimate, result.p_value, next(adjusted), num_tests, config
        )
        for result in results
    ]


def gain_over_seeds(
    arms: Sequence[Measured], controls: Sequence[Measured], metric: str, config: GateConfig
) -> SeededEstimate:
    """Return the gain of an arm over its control, both trained with the same several seeds.

    The interval holds what a seed changes as well as what the articles do. Raises DataError when
    the evaluations cannot be paired, or are of fewer than two seeds.
    """
    if len(arms) != len(controls):
        raise DataError(
            f"there are {len(arms)} evaluations and {len(controls)} of the control, allowed is one "
            "of each per seed; evaluate what is missing."
        )
    for arm, control in zip(arms, controls, strict=True):
        problem = pair_problem(arm, control) or pair_problem(arm, arms[0])
        if problem:
            raise DataError(f"{problem}; allowed are the same windows for every seed.")
    values = np.array(
        [_values(a, metric) - _values(c, metric) for a, c in zip(arms, controls, strict=True)]
    )
    articles = arms[0].articles if arms else np.empty(0, dtype=np.int64)
    return mean_over_seeds(values, articles, confidence=config.confidence)


def level_over_seeds(
    evaluations: Sequence[Measured], metric: str, config: GateConfig
) -> SeededEstimate:
    """Return the mean of a metric over models of several seeds, with an interval as above.

    Raises DataError when the evaluations are not of the same windows, or of fewer than two seeds.
    """
    problems = [pair_problem(each, evaluations[0]) for each in evaluations]
    for problem in filter(None, problems):
        raise DataError(f"{problem}; allowed are the same windows for every seed.")
    values = np.array([_values(each, metric) for each in evaluations])
    articles = evaluations[0].articles if evaluations else np.empty(0, dtype=np.int64)
    return mean_over_seeds(values, articles, confidence=config.confidence)


def _values(per_query: Measured, metric: str) -> np.ndarray:
    if metric == "eval_cosine":
        return per_query.cosine
    return per_query.reciprocal_rank if metric == "mrr" else per_query.hit(_HITS[metric])


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
    ours, theirs = _values(arm, metric), _values(other, metric)
    estimate, p_value = bootstrap_difference(
        ours,
        theirs,
        arm.articles,
        confidence=config.confidence,
        resamples=config.resamples,
        seed=seed,
        purpose=metric,
        bound=bound,
    )
    difference = np.asarray(ours, dtype=np.float64) - theirs
    return GateResult(
        gate=gate,
        metric=metric,
        bound=bound,
        estimate=estimate,
        verdict=Verdict.INCONCLUSIVE,
        reason="",
        p_value=p_value,
        sign_flip_p=sign_flip_mean_p(difference, arm.articles, bound=bound, seed=seed),
        design_effect=design_effect(difference, arm.articles),
    )


def _judge_difference(
    result: GateResult,
    estimate: Estimate,
    p_value: float,
    adjusted: float,
    num_tests: int,
    config: GateConfig,
) -> GateResult:
    level = (1 - config.confidence) / 2
    if adjusted <= level:
        verdict = Verdict.PASS
    else:
        verdict = Verdict.FAIL if estimate.upper < result.bound else Verdict.INCONCLUSIVE
    reason = (
        f"{estimate.value:+.3f} [{estimate.lower:.3f}, {estimate.upper:.3f}] against a bound of "
        f"{result.bound:+.3f}, {estimate.num_articles} articles"
    )
    if p_value <= level < adjusted:
        reason += f"; clear of it alone, but not after correction for {num_tests} comparisons"
        reason += f" (p {adjusted:.3f}, allowed {level:.3f})"
    judged = replace(
        result, verdict=verdict, reason=reason, adjusted_p=adjusted, num_tests=num_tests,
        articles_needed=None,
    )  # fmt: skip
    lowest = 1 / (config.resamples + 1)
    if verdict is Verdict.INCONCLUSIVE and p_value == lowest and num_tests * lowest > level:
        words = f"{config.resamples} resamples tell no p-value below {lowest:.4f}"
        return replace(judged, reason=f"{reason}; {words}, raise gates.resamples")
    degrees = estimate.num_articles - 1
    widening = float(stdtrit(degrees, 1 - level / num_tests) / stdtrit(degrees, 1 - level))
    return _with_outlook(judged, estimate, widening)


def _with_outlook(result: GateResult, estimate: Estimate, widening: float) -> GateResult:
    """Add to an INCONCLUSIVE result how many more articles would settle it at its value.

    `widening` is by how much a correction widens the side of the interval that decides a PASS.
    """
    if result.verdict is not Verdict.INCONCLUSIVE:
        return result
    distance = estimate.value - result.bound
    if abs(distance) < NEAREST_DISTANCE:
        words = "the value lies on the bound, and no number of articles settles that"
        return replace(result, reason=f"{result.reason}; {words}")
    above = (estimate.value - estimate.lower) * widening
    half_width = above if distance > 0 else estimate.upper - estimate.value
    more = more_articles(estimate.num_articles, half_width, abs(distance))
    digits = 10 ** max(0, len(str(more)) - 2)  # two figures: it is an extrapolation
    more = -(-more // digits) * digits
    words = f"about {more:,} more {'article' if more == 1 else 'articles'} would settle it"
    return replace(result, articles_needed=more, reason=f"{result.reason}; {words} at this value")


def _problem(per_query: Measured) -> str | None:
    """Return why an evaluation cannot be judged, or None."""
    if len(per_query.articles) == 0:
        return "there are no windows"
    num_articles = len(np.unique(per_query.articles))
    if num_articles < 2:
        return f"an interval needs 2 articles or more, there is {num_articles}"
    bad = int(np.count_nonzero(~np.isfinite(per_query.cosine)))
    return f"{bad} of {len(per_query.cosine)} cosines are not finite" if bad else None


def pair_problem(arm: Measured, other: Measured) -> str | None:
    """Return why two evaluations cannot be compared, or None."""
    if not np.array_equal(arm.articles, other.articles):
        return (
            f"the two evaluations hold different windows ({len(arm.articles)} and "
            f"{len(other.articles)}), or the same in another order"
        )
    if arm.pool != other.pool:
        return f"the pools differ ({_pool(arm)} and {_pool(other)})"
    return _problem(arm) or _problem(other)


def _pool(per_query: Measured) -> str:
    pool = per_query.pool
    return f"{pool.id}, {pool.size} rows, mask {pool.mask}, ties {pool.ties}"


def _not_evaluable(gate: str, metric: str, bound: float, reason: str) -> GateResult:
    return GateResult(
        gate=gate,
        metric=metric,
        bound=bound,
        estimate=None,
        verdict=Verdict.NOT_EVALUABLE,
        reason=reason,
    )
