from __future__ import annotations

import numpy as np
import pytest

from lvm.core.records import StopReason
from lvm.triage.rungs import Ending, Rungs, rung_epochs

PRUNED, FINISHED = StopReason.PRUNED, StopReason.FINISHED
HELD, CANCELLED, DIVERGED = StopReason.GATE_HELD, StopReason.CANCELLED, StopReason.DIVERGED


@pytest.mark.parametrize(
    ("first", "budget", "factor", "want"),
    [
        (2, 10, 2, [2, 4, 8, 10]),
        (2, 5, 2, [2, 4, 5]),
        (2, 8, 2, [2, 4, 8]),
        (1, 9, 3, [1, 3, 9]),
        (4, 4, 2, [4]),
        (7, 5, 2, [5]),
    ],
)
def test_rung_epochs(first, budget, factor, want) -> None:
    assert rung_epochs(first, budget, factor) == want


def expected(arms, exempt, epochs, factor, values, holds, gone):
    """The rule on a whole step seen at once: arm -> (reason, epoch).

    `values[arm]` lists its dev values by epoch; an arm in `gone` ends itself after its list.
    """
    ends, live = {}, list(arms)
    for epoch in epochs:
        for arm in [a for a in live if len(values[a]) < epoch]:
            ends[arm] = (gone[arm], len(values[arm]))
            live.remove(arm)
        judged = [a for a in live if a not in exempt]
        held = [a for a in judged if holds[a][epoch - 1]]
        others = FINISHED if epoch == epochs[-1] else CANCELLED
        if held or others is FINISHED:
            return ends | {a: (HELD if a in held else others, epoch) for a in live}
        keep = max(1, len(judged) // factor)
        best = sorted(judged, key=lambda a: (-values[a][epoch - 1], arms.index(a)))[:keep]
        for arm in judged:
            if arm not in best:
                ends[arm] = (PRUNED, epoch)
                live.remove(arm)
    return ends


def feed(arms, exempt, epochs, factor, values, holds, gone, order, *, stop_ended):
    """Send every report in an order of arms; with `stop_ended` a decided arm goes no further."""
    rungs = Rungs(arms, exempt=exempt, epochs=epochs, factor=factor)
    sent, decisions = dict.fromkeys(arms, 0), []
    for arm in order:
        if stop_ended and arm in rungs.endings:
            continue
        epoch = sent[arm] = sent[arm] + 1
        if epoch <= len(values[arm]):
            value, held = values[arm][epoch - 1], holds[arm][epoch - 1]
            decisions += rungs.report(arm, epoch, value, holds=held)
        elif arm in gone:
            decisions += rungs.end(arm, gone[arm])
    return rungs, decisions


@pytest.mark.parametrize("seed", range(150))
def test_any_order_of_arrival_gives_the_same_decisions(seed) -> None:
    rng = np.random.default_rng(seed)
    arms = [f"a{i}" for i in range(int(rng.integers(1, 7)))]
    exempt = ["a0"] if rng.random() < 0.7 else []
    budget, factor = int(rng.integers(1, 9)), int(rng.integers(2, 4))
    epochs = rung_epochs(int(rng.integers(1, budget + 1)), budget, factor)
    # Few distinct values make ties common.
    values = {a: (rng.integers(4, size=budget) / 4).tolist() for a in arms}
    likely = rng.choice([0.0, 0.05, 0.3])
    holds = {a: (rng.random(budget) < likely).tolist() for a in arms}
    gone = {a: DIVERGED for a in arms if rng.random() < 0.25}
    for arm in gone:
        values[arm] = values[arm][: int(rng.integers(budget))]
    want = expected(arms, exempt, epochs, factor, values, holds, gone)
    seen = []
    for _ in range(12):
        order = rng.permutation(np.repeat(arms, budget + 1)).tolist()
        for stop_ended in (False, True):
            rungs, decisions = feed(
                arms, exempt, epochs, factor, values, holds, gone, order, stop_ended=stop_ended
            )
            assert rungs.over
            assert {a: (e.reason, e.epoch) for a, e in rungs.endings.items()} == want
            seen.append(decisions)
    assert all(decisions == seen[0] for decisions in seen)


def two_arms_and_a_control(**options):
    settings = {"exempt": ["control"], "epochs": [2, 4], "factor": 2, **options}
    return Rungs(["control", "x", "y"], **settings)


def test_nothing_is_pruned_before_every_arm_has_passed_the_first_rung() -> None:
    rungs = two_arms_and_a_control()
    for epoch in range(1, 5):  # x runs to its budget while the others wait for a slot
        assert rungs.report("x", epoch, 0.0, holds=False) == []
    for epoch in (1, 2):
        assert rungs.report("y", epoch, 0.9, holds=False) == []
    assert rungs.endings == {}
    assert rungs.report("control", 1, 0.5, holds=False) == []
    (decision,) = rungs.report("control", 2, 0.5, holds=False)
    assert (decision.epoch, decision.pruned, decision.cutoff) == (2, ["x"], 0.9)
    assert rungs.endings == {"x": Ending(reason=PRUNED, epoch=2)}


def test_the_control_is_never_pruned_and_never_ends_a_step() -> None:
    rungs = two_arms_and_a_control()
    for arm, value in (("control", -1.0), ("x", 0.5), ("y", 0.4)):
        for epoch in (1, 2, 3, 4):
            rungs.report(arm, epoch, value, holds=arm == "control")
    assert rungs.endings["control"] == Ending(reason=FINISHED, epoch=4)
    assert rungs.endings["x"] == Ending(reason=FINISHED, epoch=4)
    assert rungs.endings["y"] == Ending(reason=PRUNED, epoch=2)


def test_a_tie_goes_to_the_arm_listed_first() -> None:
    for order in (("x", "y"), ("y", "x")):
        rungs = two_arms_and_a_control(exempt=[], epochs=[1, 2])
        rungs.report("control", 1, 0.0, holds=False)
        for arm in order:
            rungs.report(arm, 1, 0.5, holds=False)
        assert set(rungs.endings) == {"control", "y"}


def test_a_gate_that_is_held_at_a_rung_ends_the_step() -> None:
    rungs = two_arms_and_a_control()
    for arm in ("control", "x", "y"):
        rungs.report(arm, 1, 0.1, holds=True)  # before the rung it counts for nothing
    assert rungs.endings == {}
    for arm in ("control", "x"):
        rungs.report(arm, 2, 0.1, holds=False)
    (decision,) = rungs.report("y", 2, 0.0, holds=True)
    assert (decision.held, decision.pruned, decision.cutoff) == (["y"], [], None)
    assert {a: e.reason for a, e in rungs.endings.items()} == {
        "control": CANCELLED,
        "x": CANCELLED,
        "y": HELD,
    }


def test_an_arm_that_ran_ahead_is_judged_by_its_value_at_the_rung() -> None:
    rungs = two_arms_and_a_control()
    for epoch, value in ((1, 0.0), (2, 0.1), (3, 0.99)):
        rungs.report("x", epoch, value, holds=epoch == 3)
    for arm, value in (("y", 0.2), ("control", 0.0)):
        for epoch in (1, 2):
            rungs.report(arm, epoch, value, holds=False)
    assert rungs.endings == {"x": Ending(reason=PRUNED, epoch=2)}


def test_an_arm_that_ran_ahead_and_broke_still_counts_at_the_rung_it_passed() -> None:
    """Whether its end or the last report of the rung arrives first is chance on a cluster."""
    for broke_first in (True, False):
        rungs = two_arms_and_a_control()
        rungs.report("x", 2, 0.9, holds=False)
        rungs.report("control", 2, 0.0, holds=False)
        if broke_first:
            rungs.end("x", DIVERGED)
        rungs.report("y", 2, 0.1, holds=False)
        rungs.end("x", DIVERGED)
        assert rungs.endings == {
            "x": Ending(reason=DIVERGED, epoch=2),
            "y": Ending(reason=PRUNED, epoch=2),
        }


def test_arms_that_end_by_themselves_do_not_hold_up_the_others() -> None:
    rungs = two_arms_and_a_control()
    rungs.report("x", 2, 0.1, holds=False)
    rungs.report("control", 2, 0.1, holds=False)
    (decision,) = rungs.end("y", DIVERGED)
    assert (decision.values, decision.pruned) == ({"control": 0.1, "x": 0.1}, [])
    rungs.end("x", StopReason.CRASHED)
    rungs.end("control", StopReason.CRASHED)
    assert rungs.over
    assert rungs.endings["y"] == Ending(reason=DIVERGED, epoch=0)
    assert rungs.endings["x"] == Ending(reason=StopReason.CRASHED, epoch=2)
