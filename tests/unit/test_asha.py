"""ASHA's asynchronous rule: who goes on, by what, and that a step always comes to an end."""

from __future__ import annotations

import numpy as np
import pytest

from lvm.core.records import StopReason
from lvm.triage.asha import AsyncRungs
from lvm.triage.rungs import rung_epochs

PRUNED, FINISHED, HELD = StopReason.PRUNED, StopReason.FINISHED, StopReason.GATE_HELD
CANCELLED, DIVERGED = StopReason.CANCELLED, StopReason.DIVERGED


def rungs_of(count: int, *, epochs=(2, 4, 8), factor: int = 2, control: bool = False) -> AsyncRungs:
    arms = [f"a{i}" for i in range(count)]
    exempt = ["control"] if control else []
    return AsyncRungs([*exempt, *arms], exempt=exempt, epochs=list(epochs), factor=factor)


def test_an_arm_goes_on_as_soon_as_it_is_among_the_best_half_so_far() -> None:
    rungs = rungs_of(4)
    assert [rungs.limit(f"a{i}") for i in range(4)] == [2, 2, 2, 2]
    (first,) = rungs.report("a0", 2, 0.5, holds=False)
    assert (rungs.limit("a0"), first.cutoff, first.seen, first.arrived) == (2, None, 1, "a0")
    (second,) = rungs.report("a1", 2, 0.7, holds=False)
    assert (rungs.limit("a0"), rungs.limit("a1")) == (2, 4)
    assert (second.cutoff, second.values, second.pruned) == (0.7, {"a1": 0.7}, ())
    rungs.report("a2", 2, 0.1, holds=False)
    third, closed = rungs.report("a3", 2, 0.6, holds=False)
    assert third.cutoff == 0.6  # of four, two go on
    assert (sorted(closed.pruned), closed.arrived) == (["a0", "a2"], None)
    assert rungs.endings["a0"].epoch == 2
    assert [rungs.limit(f"a{i}") for i in range(4)] == [0, 4, 0, 4]


def test_a_late_arrival_can_lift_an_arm_that_waited() -> None:
    rungs = rungs_of(6)
    for arm, value in (("a0", 0.9), ("a1", 0.8)):
        rungs.report(arm, 2, value, holds=False)
    assert (rungs.limit("a0"), rungs.limit("a1")) == (4, 2)
    rungs.report("a2", 2, 0.1, holds=False)
    (decision,) = rungs.report("a3", 2, 0.2, holds=False)
    assert rungs.limit("a1") == 4
    assert decision.values == {"a3": 0.2, "a1": 0.8}


def test_the_last_arm_of_a_rung_goes_on_alone() -> None:
    rungs = rungs_of(2)
    rungs.report("a0", 2, 0.5, holds=False)
    rungs.report("a1", 2, 0.4, holds=False)
    assert rungs.endings["a1"].reason is PRUNED
    rungs.report("a0", 4, 0.6, holds=False)
    assert rungs.limit("a0") == 8
    rungs.report("a0", 8, 0.7, holds=False)
    assert rungs.endings["a0"].reason is FINISHED


def test_an_arm_that_holds_the_gate_ends_the_step_once_the_control_has_come_as_far() -> None:
    rungs = rungs_of(3, control=True)
    assert rungs.limit("control") == 8
    assert rungs.report("a0", 2, 0.9, holds=True) == []
    assert [rungs.limit(a) for a in ("a0", "a1", "control")] == [0, 0, 2]
    rungs.report("a1", 1, 0.1, holds=False)  # it was under way
    (decision,) = rungs.report("control", 2, 0.3, holds=True)
    assert decision.held == ["a0"]
    reasons = {arm: (e.reason, e.epoch) for arm, e in rungs.endings.items()}
    assert reasons == {
        "a0": (HELD, 2),
        "a1": (CANCELLED, 1),
        "a2": (CANCELLED, 0),
        "control": (CANCELLED, 2),
    }


def test_a_control_that_is_lost_holds_nobody_up() -> None:
    rungs = rungs_of(1, control=True)
    rungs.report("a0", 2, 0.9, holds=True)
    (decision,) = rungs.end("control", StopReason.LOST)
    assert decision.held == ["a0"]
    assert rungs.endings["control"].reason is StopReason.LOST


def test_where_the_best_broke_the_next_goes_on() -> None:
    rungs = rungs_of(2)
    rungs.report("a0", 2, 0.9, holds=False)
    rungs.end("a0", DIVERGED)
    rungs.report("a1", 2, 0.1, holds=False)
    assert rungs.limit("a1") == 4


@pytest.mark.parametrize("seed", range(100))
def test_every_step_ends_whatever_the_order_and_whoever_breaks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, factor = int(rng.integers(1, 12)), int(rng.integers(2, 4))
    budget = int(rng.integers(1, 10))
    epochs = rung_epochs(int(rng.integers(1, budget + 1)), budget, factor)
    rungs = rungs_of(count, epochs=epochs, factor=factor, control=bool(rng.random() < 0.5))
    done = dict.fromkeys(rungs._arms, 0)
    breaks = {arm for arm in done if rng.random() < 0.15}
    while len(rungs.endings) < len(done):
        ready = [a for a, epoch in done.items() if epoch < rungs.limit(a)]
        assert ready, "nobody may train, and the step has not ended"
        arm = ready[int(rng.integers(len(ready)))]
        if arm in breaks and rng.random() < 0.4:
            rungs.end(arm, DIVERGED)
            continue
        done[arm] += 1
        rungs.report(arm, done[arm], float(rng.integers(5)), holds=bool(rng.random() < 0.02))
    judged = [a for a in done if a != "control"]
    reasons = {rungs.endings[a].reason for a in judged}
    if not reasons & {HELD, DIVERGED}:
        assert FINISHED in reasons
    for arm, ending in rungs.endings.items():
        assert ending.epoch <= max(done.values())
        if ending.reason is PRUNED:
            assert ending.epoch in epochs
            assert done[arm] == ending.epoch


def test_the_same_arrivals_give_the_same_decisions() -> None:
    """A resumed run replays its journal, whose order decides."""
    rng = np.random.default_rng(1)
    arrivals = [(f"a{i}", float(v)) for i, v in enumerate(rng.random(9))]
    first, second = rungs_of(9), rungs_of(9)
    decided = [d for arm, v in arrivals for d in first.report(arm, 2, v, holds=False)]
    again = [d for arm, v in arrivals for d in second.report(arm, 2, v, holds=False)]
    assert decided == again
    assert any(d.pruned for d in decided)
