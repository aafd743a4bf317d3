"""The gates tried before anything is trained: what passes them, and what pool they search in."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from lvm.audit.check import About, check
from lvm.audit.coherence import coherence
from lvm.audit.finding import NotEvaluable, Seen, Severity
from lvm.audit.material import Material, or_none, where_found
from lvm.audit.selftest import BLIND, TRIVIAL, Bench, GateUnderTest, bench
from lvm.core.records import GateResult, Verdict
from lvm.evaluation.gates import MIN_ARTICLES

OWN_FIRST_SHARE = 0.05  # of queries whose rank 1 may be one of their own contexts
FULL_SCORE_TOLERANCE = 0.02  # of the oracle, for rounding and equal rows
QUERIES = ("predictions", "copy_last", "mean_context")  # whose rank 1 is looked at
OTHERS = 0.5  # of as many other articles as the train side has


@check(
    "GATE_INVALID",
    "does the oracle pass every gate, and do blind predictors fail?",
    About(blocks=True, cause=130, thorough=True),
)
def gate_invalid(material: Material) -> Iterator[Seen]:
    """Report gates that an oracle fails, or that random rows or shuffled pairs pass."""
    tried = bench(material)
    for gate in tried.gates():
        yield from invalid(tried, gate)


@check("GATE_BELOW_TRIVIAL", "does an untrained predictor pass a gate?", About(thorough=True))
def gate_below_trivial(material: Material) -> Iterator[Seen]:
    """Report gates that lie below the ladder."""
    tried = bench(material)
    for gate in tried.gates():
        yield from below_trivial(tried, gate)


@check("POOL", "does the pool hold the query's own contexts?", About(thorough=True))
def pool(material: Material) -> Iterator[Seen]:
    """Report a pool of few articles, and own contexts at rank 1 where the run has no mask."""
    yield from easy_pool(material)
    tried = bench(material)
    if tried.mask != "none":  # own contexts and their copies do not count
        return
    names = [name for name in QUERIES if name in tried.ranked]
    shares = {name: float(tried.ranked[name][1].context_first.mean()) for name in names}
    worst = max(shares, key=lambda name: shares[name])
    if shares[worst] <= OWN_FIRST_SHARE:
        return
    first = tried.ranked[worst][1].context_first
    yield Seen(
        seen="rank 1 is one of their own contexts for "
        + ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
        + f" of {len(first)} queries (pool {tried.pool.id}, {tried.pool.size} rows, mask "
        f"{tried.pool.mask})",
        allowed=f"at most {OWN_FIRST_SHARE:.0%}",
        where=where_found("gate", count=first.sum(), of=len(first), rows=tried.test.places[first])
        | stated_pool(tried),
        meaning="The rows nearest to a good prediction are the query's own contexts, so they "
        "take the first ranks and R@1 collapses, however good the model is.",
        next='mask the own contexts of each query out of its pool (mask "own contexts")',
        values={
            **{f"share_{name}": share for name, share in shares.items()},
            "pool_size": float(tried.pool.size),
            **{f"chance_at_{k}": tried.pool.chance(k) for k in (1, 5, 10)},
        },
    )


# --- an oracle, blind predictors, the ladder ------------------------------------------------------


def invalid(tried: Bench, gate: GateUnderTest) -> Iterator[Seen]:
    """Report what makes a gate useless: it refuses the answer itself, or lets blindness through."""
    oracle = _judge(tried, gate, "oracle")
    if _verdict(oracle) == Verdict.NOT_EVALUABLE:
        raise NotEvaluable(
            f"the {gate.name} gate cannot judge the oracle: {oracle[0].reason}",
            "give eval windows from more articles",
        )
    if not _holds(oracle) or _mismeasured(gate, oracle):
        yield _gate_finding(
            tried,
            gate,
            {"oracle": oracle},
            seen=f"the {gate.name} gate rates the oracle {_verdict(oracle)}: {_why(oracle)}",
            allowed="the oracle, which predicts every target exactly, passes with "
            + ", ".join(f"{metric} {value:.3f}" for metric, value in gate.perfect.items()),
            meaning="A gate that rejects exact answers compares them with the wrong targets, "
            "or demands more than is possible.",
            next=f"fix the {gate.name} gate: compare each prediction with the target of the "
            "same window, and set a bound that a perfect answer can reach (now "
            f"{gate.bound:g})",
        )
    blind = {name: _judge(tried, gate, name) for name in BLIND}
    passed = {name: results for name, results in blind.items() if _holds(results)}
    if passed:
        yield _gate_finding(
            tried,
            gate,
            passed,
            seen=f"the {gate.name} gate is passed by "
            + "; ".join(f"{name} pairs {_why(results)}" for name, results in passed.items()),
            allowed="predictions made without their window fail",
            meaning="Any two texts in this space are as similar as the gate demands, so "
            "passing it says nothing about a model. Data and encoder may be sound, but "
            "the bound is not.",
            next=_raise_bound(gate, _trivial(tried, gate)),
        )


def _holds(results: Sequence[GateResult]) -> bool:
    """Whether a gate lets these through; on too few articles for a verdict, whether it would."""
    return _verdict(results) == Verdict.PASS or any(
        r.estimate.num_articles < MIN_ARTICLES and r.estimate.lower >= r.bound
        for r in results
        if r.estimate is not None
    )


def below_trivial(tried: Bench, gate: GateUnderTest) -> Iterator[Seen]:
    """Report a gate that predictors without a model attain, those that take least effort first."""
    trivial = _trivial(tried, gate)
    attained = {name: r for name, r in trivial.items() if _upper(r) >= r.bound}
    if not attained:
        return
    over = f" over {gate.against}, because no AR-only model exists yet" if gate.against else ""
    yield _gate_finding(
        tried,
        gate,
        {name: [result] for name, result in attained.items()},
        severity=Severity.INFO if gate.against else Severity.WARN,
        seen=f"the {gate.name} gate ({gate.bounds}{over}) {_attained_by(attained)}",
        allowed="no untrained predictor",
        meaning="A gain means no more than its baseline: against a weak one, copying the "
        "context passes."
        if gate.against
        else "An untrained predictor reaches the gate, or may reach it, so passing it alone "
        "proves nothing.",
        next="compare R@5 and MRR with the ladder next to the verdict"
        if gate.against
        else _raise_bound(gate, trivial),
    )


def _attained_by(attained: Mapping[str, GateResult]) -> str:
    """Say who attains a gate for sure, and whose interval holds the bound, which tells nothing."""
    sure = {n: r for n, r in attained.items() if r.estimate and r.estimate.lower >= r.bound}
    groups = {
        "is reached by": sure,
        "is not separable from": {n: r for n, r in attained.items() if n not in sure},
    }
    return " and ".join(
        f"{words} {', '.join(f'{name} ({_interval(result)})' for name, result in found.items())}"
        for words, found in groups.items()
        if found
    )


def _judge(tried: Bench, gate: GateUnderTest, name: str) -> Sequence[GateResult]:
    sample = tried.sample(gate.split)
    return gate.judge(sample.predictions[name], sample.windows)


def _trivial(tried: Bench, gate: GateUnderTest) -> dict[str, GateResult]:
    """Return for each trivial predictor the metric of the gate that it does best in."""
    found = {}
    for name in TRIVIAL:
        results = [r for r in _judge(tried, gate, name) if r.estimate is not None]
        if name != gate.against and results:
            found[name] = max(results, key=lambda r: _upper(r) - r.bound)
    return found


def _verdict(results: Sequence[GateResult]) -> Verdict:
    verdicts = {result.verdict for result in results}
    if Verdict.PASS in verdicts:
        return Verdict.PASS
    return verdicts.pop() if len(verdicts) == 1 else Verdict.INCONCLUSIVE


def _mismeasured(gate: GateUnderTest, oracle: Sequence[GateResult]) -> bool:
    """Whether the oracle gets less than its due: one row off, neighbours may still pass a bound."""
    return any(
        result.estimate.value < gate.perfect.get(result.metric, -math.inf) - FULL_SCORE_TOLERANCE
        for result in oracle
        if result.estimate is not None
    )


def _why(results: Sequence[GateResult]) -> str:
    return ", ".join(f"{result.metric} {result.reason}" for result in results)


def _interval(result: GateResult) -> str:
    found = result.estimate
    if found is None:
        return result.reason
    return f"{result.metric} {found.value:.3f} [{found.lower:.3f}, {found.upper:.3f}]"


def _upper(result: GateResult) -> float:
    return result.estimate.upper if result.estimate is not None else -math.inf


def _raise_bound(gate: GateUnderTest, trivial: Mapping[str, GateResult]) -> str:
    best = max((_upper(result) for result in trivial.values()), default=math.inf)
    bound = math.ceil(100 * best + 1e-9) / 100
    if gate.name != "stage" or bound >= 1:
        return "judge by R@5 and MRR against the ladder instead"
    return (
        f"set gates.stage_eval_cosine to {bound:.2f} in the recipe, above every trivial predictor"
    )


def _gate_finding(
    tried: Bench,
    gate: GateUnderTest,
    judged: Mapping[str, Sequence[GateResult]],
    severity: Severity | None = None,
    **words: str,
) -> Seen:
    values = {"bound": gate.bound}
    for name, results in judged.items():
        values |= {f"{name}_{r.metric}": r.estimate.value for r in results if r.estimate}
    where = (
        where_found("gate", of=len(tried.sample(gate.split).windows))
        | {"gate": gate.name, "metric": gate.metric}
        | stated_pool(tried)
    )
    return Seen(severity=severity, where=where, values=values, **words)


def stated_pool(tried: Bench) -> dict[str, object]:
    """Return the pool as a finding states it: id, size, mask, tie rule and chance."""
    return {"pool": {**dataclasses.asdict(tried.pool), "chance_at_5": tried.pool.chance(5)}}


def easy_pool(material: Material) -> Iterator[Seen]:
    """Report a pool of eval articles alone: a search among few is easier than among all."""
    bank, train = material.bank, material.train
    if bank is None or train is None or train.file is None or material.eval is None:
        return
    eval_, other = (or_none(coherence, material, name) for name in ("eval", "train"))
    if eval_ is None or other is None or not eval_.by_article or eval_.located is None:
        return
    mine = np.unique(material.eval.keys[:, 0]) if material.eval.keys is not None else None
    mine = np.unique(eval_.clusters) if mine is None else np.union1d(mine, eval_.clusters)
    size = len(bank.pool_rows)
    outside = ~np.isin(bank.articles[:size], mine)
    there = len(np.unique(bank.articles[:size][outside]))
    trained = len(np.unique(other.clusters if train.keys is None else train.keys[:, 0]))
    if there >= OTHERS * trained:
        return
    yield Seen(
        seen=f"the pool holds {size} rows, {int(outside.sum())} of them of articles ({there}) "
        f"outside the eval side; the train side has {trained} articles",
        allowed=f"{OTHERS:.0%} of as many other articles as are trained on",
        where=where_found("bank", bank.source, count=size - int(outside.sum()), of=size),
        meaning="The target is searched only among the eval articles, which is easier than in "
        "the whole collection: recall here overstates recall there.",
        next="add the chunks of the train articles to the payload, or state the size of the pool "
        "with every number",
        values={
            "pool_size": float(size),
            "other_articles": float(there),
            "train_articles": float(trained),
        },
    )
