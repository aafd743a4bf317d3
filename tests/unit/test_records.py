from __future__ import annotations

import json
import math

import numpy as np
import pytest
from msgspec import convert

from lvm.core.metrics import METRICS
from lvm.core.records import (
    Estimate,
    Evaluation,
    GateResult,
    Pool,
    RunVerdict,
    StopReason,
    Verdict,
    flatten,
    to_plain,
)

ESTIMATE = Estimate(
    value=0.5, lower=0.4, upper=0.6, confidence=0.95, num_windows=100, num_articles=10
)
EVALUATION = Evaluation(
    split="test",
    space="raw",
    num_windows=100,
    num_articles=10,
    pool=Pool(id="abc", size=1000, mask="own contexts"),
    masked={"eval_cosine": 0.5, "r_at_5": 0.1, "mrr": 0.1, "eff_at_5": None},
    raw={"eval_cosine": 0.5, "eff_at_5": None},
    latency={"p95_ms": 1.5},
)


def through_json(value):
    return json.loads(json.dumps(to_plain(value), allow_nan=False))


@pytest.mark.parametrize("estimate", [ESTIMATE, None])
@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_gate_survives_json(verdict, estimate) -> None:
    gate = GateResult(
        gate="success",
        metric="mrr",
        bound=0.05,
        estimate=estimate,
        verdict=verdict,
        reason="why",
        p_value=0.01,
    )
    assert convert(through_json(gate), GateResult) == gate
    assert type(convert(through_json(gate), GateResult).verdict) is Verdict


def test_an_evaluation_survives_json() -> None:
    assert convert(through_json(EVALUATION), Evaluation) == EVALUATION


def test_to_plain_reaches_into_everything() -> None:
    value = {1: [StopReason.PRUNED, (math.nan, math.inf, 2.5)], "gate": ESTIMATE, "none": None}
    assert through_json(value) == {
        "1": ["pruned", [None, None, 2.5]],
        "gate": vars(ESTIMATE),
        "none": None,
    }


@pytest.mark.parametrize(
    ("verdict", "status"),
    [("PASSED", 0), ("FIXED", 0), ("NOT_FIXED", 1), ("INCONCLUSIVE", 1), ("BLOCKED", 3)],
)
def test_exit_statuses(verdict, status) -> None:
    assert RunVerdict(verdict).exit_status == status
    assert len(RunVerdict) == 5


def test_chance_is_that_of_a_random_ranking() -> None:
    assert Pool(id="p", size=1000, mask="none").chance(5) == pytest.approx(0.005)
    assert Pool(id="p", size=3, mask="none").chance(5) == 1


def test_only_a_cosine_is_bound_to_its_space() -> None:
    apart = [metric.name for metric in METRICS if not metric.compares("projected")]
    assert apart == ["eval_cosine"]
    assert all(metric.compares("raw") for metric in METRICS)


def test_metrics_are_declared_under_their_own_names() -> None:
    for metric in METRICS:
        assert METRICS.get(metric.name) is metric
        assert metric.title
        assert metric.meaning
        assert metric.lowest < metric.highest
        assert metric.higher_is_better == (metric.unit != "ms")
    assert {
        "eval_cosine",
        "r_at_1",
        "r_at_5",
        "r_at_10",
        "mrr",
        "contain_at_50",
        "eff_at_5",
        "p95_ms",
    } <= set(METRICS.names())


def test_nested_values_are_named_by_dotted_keys_in_order() -> None:
    values = {"b": 1, "a": {"c": [2], "d": {"e": None}}, "f": {}}
    assert list(flatten(values)) == [("b", 1), ("a.c", [2]), ("a.d.e", None)]


def test_a_number_of_numpy_becomes_a_plain_one() -> None:
    assert [type(v) for v in to_plain([np.float64(0.5), np.float64("nan")])] == [float, type(None)]
