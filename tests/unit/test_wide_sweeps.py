"""Races of very many arms: the luckiest is no fix, and neither is time without end."""

from __future__ import annotations

from pathlib import Path

import made
import numpy as np
import pytest
import tiny

from lvm.core.config.run import GateConfig, ScheduleConfig
from lvm.core.metrics import METRICS, Metric, Shown
from lvm.core.records import Pool, StopReason, Verdict
from lvm.evaluation.metrics import PerQuery, Ranks
from lvm.triage.arm import ArmSpec
from lvm.triage.events import ArmEnded, Epoch, Rung
from lvm.triage.judge import ArmResult, judge_gains, judge_step
from lvm.triage.race import Lane, Race, Terms
from lvm.triage.rungs import Ending
from lvm.triage.spent import OUT_OF_TIME
from lvm.triage.step import Role

NUM_ARMS = 200
ARTICLES = np.repeat(np.arange(40), 10)
POOL = Pool(id="p", size=500, mask="own contexts")
GATES = GateConfig()


def spec(name: str, role: Role = Role.ARM, **changes) -> ArmSpec:
    return ArmSpec(
        id=name,
        step="tuned",
        name=name,
        role=role,
        recipe=tiny.recipe(**changes),
        folder=Path("unused"),
        gates=GATES,
    )


def results(rng: np.random.Generator, better: float = 1.0) -> PerQuery:
    """Return ranks around one level, alike within an article; `better` scales them."""
    of_article = rng.normal(0, 0.5, size=40)[ARTICLES]
    above = rng.poisson(better * np.exp(2 + of_article)).astype(np.int64)
    ranks = Ranks(above, np.zeros_like(above), np.full_like(above, 500))
    cosine = np.full(len(ARTICLES), 0.2, dtype=np.float32)
    return PerQuery(
        cosine=cosine, masked=ranks, raw=ranks, articles=ARTICLES, space="raw", pool=POOL
    )


def judged(seed: int, better: float = 1.0):
    rng = np.random.default_rng(seed)
    control = results(rng)
    arms = [
        ArmResult(
            lane=Lane(spec(f"arm {i}"), ending=Ending(reason=StopReason.FINISHED, epoch=3)),
            dev=results(rng, better if i == 7 else 1.0),
        )
        for i in range(NUM_ARMS)
    ]
    gains = judge_gains(arms, {a.spec.id: control for a in arms}, GATES, 0, looks=7)
    stages = {a.spec.id: Verdict.FAIL for a in arms}
    return gains, judge_step(arms, stages, gains)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what decides nothing and takes most of the time."""
    monkeypatch.setattr("lvm.evaluation.gates.sign_flip_mean_p", lambda *_, **__: None)
    monkeypatch.setattr("lvm.evaluation.gates.with_outlook", lambda result, *_: result)


@pytest.mark.parametrize("seed", range(3))
def test_the_luckiest_of_two_hundred_arms_is_neither_kept_nor_confirmed(seed) -> None:
    gains, step = judged(seed)
    alone = [g.p_value for found in gains.values() for g in found[:-1]]  # the cosine is constant
    assert min(alone) < 0.025  # each for itself, some would be called better
    assert not [g for found in gains.values() for g in found if g.verdict is Verdict.PASS]
    assert (step.kept, step.candidate, list(step.conflicts)) == (None, None, [])


def test_an_arm_that_is_really_better_is_kept_among_as_many() -> None:
    _, step = judged(0, better=0.3)
    assert step.kept.spec.name == "arm 7"


def test_a_metric_that_falls_keeps_the_lowest_and_is_told_as_measured(monkeypatch) -> None:
    monkeypatch.setattr(METRICS, "_parts", dict(METRICS._parts))
    METRICS.register("strain")(
        Metric(
            name="strain",
            title="strain",
            meaning="less is better",
            higher_is_better=False,
            values=lambda queries: queries.rank,
            shown=frozenset({Shown.DEV}),
        )
    )
    told = []
    race = Race(
        "tuned",
        [spec("low"), spec("high", seed=1)],
        told.append,
        epochs=[1, 3],
        schedule=ScheduleConfig(),
        terms=Terms(metric="strain", ends_at_gate=False),
    )
    for name, value in (("low", 0.25), ("high", 0.75)):
        race.record(made.event(Epoch, arm=name, epoch=1, strain=value, stage="PASS"))
    (rung,) = [event for event in told if isinstance(event, Rung)]
    assert (rung.values, rung.cutoff, rung.pruned) == ({"low": 0.25, "high": 0.75}, 0.25, ["high"])
    assert rung.held == []
    assert not race.stopped("low")


# --- the time limit ------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("lvm.triage.race.time.monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("rule", ["synchronous", "asynchronous"])
def test_after_its_time_no_arm_of_a_race_goes_on(rule, clock) -> None:
    told = []
    specs = [spec("control", Role.CONTROL), *(spec(f"arm {i}", seed=i) for i in range(1, 5))]
    race = Race(
        "tuned",
        specs,
        told.append,
        epochs=[2, 4],
        schedule=ScheduleConfig(rule=rule),
        terms=Terms(metric="mrr", ends_at_gate=False, seconds=60),
    )
    race.start(seconds_spent=20)
    race.failed("arm 4", StopReason.DIVERGED, "the loss is not finite")
    for i, one in enumerate(specs[:3]):
        race.record(made.event(Epoch, arm=one.id, epoch=1, mrr=i / 10, stage="FAIL", seconds=1.0))
    assert not race.over
    clock[0] += 41
    race.record(made.event(Epoch, arm="arm 3", epoch=1, mrr=0.3, stage="FAIL", seconds=1.0))
    assert race.over
    ends = {e.name: (e.reason, e.epoch, e.detail) for e in told if isinstance(e, ArmEnded)}
    assert ends.pop("arm 4") == (StopReason.DIVERGED, 0, "the loss is not finite")
    assert set(ends.values()) == {(StopReason.CANCELLED, 1, OUT_OF_TIME)}
    assert len(ends) == 4


def test_a_race_whose_time_was_over_before_ends_at_once(clock) -> None:
    told = []
    race = Race(
        "tuned",
        [spec("one")],
        told.append,
        epochs=[4],
        schedule=ScheduleConfig(),
        terms=Terms(seconds=60),
    )
    race.start(seconds_spent=61)
    assert race.over
    assert [e.detail for e in told if isinstance(e, ArmEnded)] == [OUT_OF_TIME]
