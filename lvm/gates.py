"""Gates: a metric, a bound, and a verdict that respects the interval.

    lower limit at or above the bound    PASS
    upper limit below the bound          FAIL
    the interval crosses the bound       INCONCLUSIVE
    nothing to judge                     NOT_EVALUABLE, with the reason

A difference between two arms passes only if its p-value, corrected by Holm for all differences
judged so far, is at most the one-sided level of the interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from lvm.config import GateConfig
from lvm.errors import ConfigError
from lvm.records import Estimate, GateResult, Pool, Verdict
from lvm.statistics import bootstrap_difference, bootstrap_mean, holm


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
    return GateResult(
        gate="stage",
        metric="eval_cosine",
        bound=bound,
        estimate=estimate,
        verdict=judge(estimate, bound),
        reason=reason,
    )


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
    problem = _pair_problem(arm, baseline)
    if problem:
        results = [_not_evaluable("success", m, b, problem) for m, b in bounds.items()]
        return Verdict.NOT_EVALUABLE, results
    found = {m: _difference(arm, baseline, m, b, config, seed) for m, b in bounds.items()}
    p_values = [p for _, p in found.values()]
    corrected = holm([*p_values, *other_p_values])
    num_tests = len(corrected)
    results = [
        _judge_difference("success", m, bounds[m], *found[m], config, adjusted, num_tests)
        for m, adjusted in zip(bounds, corrected[: len(bounds)].tolist(), strict=True)
    ]
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
    problem = _pair_problem(arm, control)
    if metric == "eval_cosine" and arm.space != control.space:
        problem = problem or f"cosines in the {arm.space} and {control.space} space do not compare"
    if problem:
        return _not_evaluable("gain", metric, 0.0, problem)
    estimate, p_value = _difference(arm, control, metric, 0.0, config, seed)
    return _judge_difference("gain", metric, 0.0, estimate, p_value, config, p_value, 1)


def _values(per_query: Measured, metric: str) -> np.ndarray:
    if metric == "eval_cosine":
        return per_query.cosine
    return per_query.reciprocal_rank if metric == "mrr" else per_query.hit(_HITS[metric])


def _difference(
    arm: Measured, other: Measured, metric: str, bound: float, config: GateConfig, seed: int
) -> tuple[Estimate, float]:
    return bootstrap_difference(
        _values(arm, metric),
        _values(other, metric),
        arm.articles,
        confidence=config.confidence,
        resamples=config.resamples,
        seed=seed,
        purpose=metric,
        bound=bound,
    )


def _judge_difference(
    gate: str,
    metric: str,
    bound: float,
    estimate: Estimate,
    p_value: float,
    config: GateConfig,
    adjusted: float,
    num_tests: int,
) -> GateResult:
    level = (1 - config.confidence) / 2
    if adjusted <= level:
        verdict = Verdict.PASS
    else:
        verdict = Verdict.FAIL if estimate.upper < bound else Verdict.INCONCLUSIVE
    reason = (
        f"{estimate.value:+.3f} [{estimate.lower:.3f}, {estimate.upper:.3f}] against a bound of "
        f"{bound:+.3f}, {estimate.num_articles} articles"
    )
    if p_value <= level < adjusted:
        reason += f"; clear of it alone, but not after correction for {num_tests} comparisons"
        reason += f" (p {adjusted:.3f}, allowed {level:.3f})"
    return GateResult(
        gate=gate,
        metric=metric,
        bound=bound,
        estimate=estimate,
        verdict=verdict,
        reason=reason,
        p_value=p_value,
    )


def _problem(per_query: Measured) -> str | None:
    """Return why an evaluation cannot be judged, or None."""
    if len(per_query.articles) == 0:
        return "there are no windows"
    num_articles = len(np.unique(per_query.articles))
    if num_articles < 2:
        return f"an interval needs 2 articles or more, there is {num_articles}"
    bad = int(np.count_nonzero(~np.isfinite(per_query.cosine)))
    return f"{bad} of {len(per_query.cosine)} cosines are not finite" if bad else None


def _pair_problem(arm: Measured, other: Measured) -> str | None:
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
