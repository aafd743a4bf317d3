"""Every combination of verdicts, checked against the rules of the tree written as properties."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lvm.records import RunVerdict, Verdict
from lvm.triage.tree import (
    Confirm,
    ConfirmOutcome,
    Phase1Outcome,
    RunPhase1,
    RunStep,
    StepOutcome,
    Stop,
    next_action,
)

PLAN = ["s1", "s2", "s3", "s4", "s5"]
PASS, FAIL = Verdict.PASS, Verdict.FAIL
OPEN, NONE = Verdict.INCONCLUSIVE, Verdict.NOT_EVALUABLE
MAY_HOLD = (PASS, OPEN)
MAX_ACTIONS = 1 + 2 * len(PLAN) + 2  # phase 1, a step and its confirmation each, carried, stop


def walk(phase1, stages, confirms, carries, *, final=FAIL, independent=False):
    """Answer the tree's questions by step; return [(action, outcome)], the last with outcome None.

    `carries` says per step what beat its control: "no", "best" (the candidate) or "other".
    """
    history, trace = [], []
    for _ in range(MAX_ACTIONS + 1):
        action = next_action(PLAN, history, independent=independent)
        if isinstance(action, Stop):
            return [*trace, (action, None)]
        if isinstance(action, RunPhase1):
            outcome = Phase1Outcome(verdict=phase1)
        elif isinstance(action, RunStep):
            place = PLAN.index(action.step)
            best = f"{action.step}-best" if stages[place] in MAY_HOLD else None
            kept = {"no": None, "best": best, "other": f"{action.step}-other"}[carries[place]]
            outcome = StepOutcome(
                step=action.step, stage=stages[place], candidate=best, carried=kept
            )
        else:
            verdict = confirms[PLAN.index(action.step)] if action.arm else final
            arm = action.arm or dict(action.carried)[action.step]
            outcome = ConfirmOutcome(step=action.step, arm=arm, verdict=verdict)
        trace.append((action, outcome))
        history.append(outcome)
    raise AssertionError(f"the tree does not end: {trace}")


def check(trace, *, independent=False) -> None:
    """State the rules of the tree on a finished walk."""
    actions = [action for action, _ in trace]
    stop, last = actions[-1], trace[-2][1]
    assert isinstance(actions[0], RunPhase1)
    assert not any(isinstance(a, RunPhase1 | Stop) for a in actions[1:-1])
    assert all(a.since for a in actions)
    if trace[0][1].verdict is PASS:
        assert (stop.verdict, stop.cause, len(trace)) == (RunVerdict.PASSED, (), 2)
        return

    steps = [a.step for a in actions if isinstance(a, RunStep)]
    assert steps == PLAN[: len(steps)]  # in order, none twice, none left out

    kept = []  # what later steps start from
    for (action, outcome), (following, answer) in itertools.pairwise(trace):
        if isinstance(action, RunStep):
            assert action.carried == tuple(kept)
            confirmed = isinstance(following, Confirm) and following.arm is not None
            assert confirmed == (outcome.stage in MAY_HOLD)
            if confirmed:
                assert (following.step, following.arm) == (action.step, outcome.candidate)
                assert following.carried == tuple(kept)
                if answer.verdict is PASS:
                    assert stop.verdict is RunVerdict.FIXED
                    assert stop.cause == (*(step for step, _ in kept), action.step)
                    assert len(actions) == actions.index(following) + 2  # nothing after it
                    return
            if outcome.carried and not independent:
                kept.append((action.step, outcome.carried))
        elif isinstance(action, Confirm) and action.arm is not None:
            assert isinstance(trace[trace.index((action, outcome)) - 1][0], RunStep)

    assert steps == PLAN  # nothing passed, so every question was asked
    tried = {(o.step, o.arm) for a, o in trace[:-1] if isinstance(a, Confirm) and a.arm}
    extra = [(a, o) for a, o in trace[:-1] if isinstance(a, Confirm) and a.arm is None]
    assert len(extra) == int(bool(kept) and kept[-1] not in tried)
    if extra:
        action, outcome = extra[0]
        assert (action, outcome) == trace[-2]
        assert action.carried == tuple(kept)
        if outcome.verdict is PASS:
            assert stop.verdict is RunVerdict.FIXED
            assert stop.cause == tuple(step for step, _ in kept)
            return
    success = [o.verdict for _, o in trace[:-1] if isinstance(o, Phase1Outcome | ConfirmOutcome)]
    undecided = OPEN in success or set(success) == {NONE}
    assert stop.verdict is (RunVerdict.INCONCLUSIVE if undecided else RunVerdict.NOT_FIXED)
    assert stop.cause == ()
    assert last is not None


CARRIES = [("no",) * 5, ("best",) * 5, ("other",) * 5] + [
    tuple("other" if i == kept else "no" for i in range(5)) for kept in range(5)
]


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("confirm", [PASS, FAIL, OPEN, NONE])
def test_all_243_combinations_of_stage_verdicts(confirm, independent) -> None:
    walks = 0
    for stages in itertools.product((PASS, FAIL, OPEN), repeat=5):
        for carries in CARRIES:
            trace = walk(FAIL, stages, (confirm,) * 5, carries, independent=independent)
            check(trace, independent=independent)
            walks += 1
    assert walks == 243 * len(CARRIES)


def test_mixed_verdicts_at_random() -> None:
    rng = np.random.default_rng(0)
    ends = set()
    for _ in range(3000):
        stages = [(PASS, FAIL, OPEN, NONE)[i] for i in rng.integers(4, size=5)]
        confirms = [(FAIL, OPEN, NONE, PASS)[i] for i in rng.choice(4, 5, p=[0.5, 0.2, 0.2, 0.1])]
        carries = [("no", "best", "other")[i] for i in rng.integers(3, size=5)]
        phase1 = (FAIL, OPEN, NONE)[rng.integers(3)]
        final = (FAIL, OPEN, NONE, PASS)[rng.integers(4)]
        independent = bool(rng.integers(2))
        trace = walk(phase1, stages, confirms, carries, final=final, independent=independent)
        check(trace, independent=independent)
        ends.add(trace[-1][0].verdict)
    assert ends == {RunVerdict.FIXED, RunVerdict.NOT_FIXED, RunVerdict.INCONCLUSIVE}


def test_a_passing_phase_1_asks_nothing_more() -> None:
    trace = walk(PASS, (PASS,) * 5, (PASS,) * 5, CARRIES[0])
    check(trace)
    assert len(trace) == 2


def test_two_carried_steps_that_pass_together_are_both_the_cause() -> None:
    stages, carries = (FAIL, FAIL, PASS, FAIL, FAIL), ("other", "no", "best", "no", "no")
    stop = walk(FAIL, stages, (PASS,) * 5, carries)[-1][0]
    assert (stop.verdict, stop.cause) == (RunVerdict.FIXED, ("s1", "s3"))


def test_no_success_gate_that_could_be_judged_is_not_a_failure() -> None:
    stop = walk(NONE, (NONE,) * 5, (NONE,) * 5, CARRIES[0])[-1][0]
    assert stop.verdict is RunVerdict.INCONCLUSIVE


def test_an_inconclusive_phase_1_is_not_forgotten_at_the_end() -> None:
    stop = walk(OPEN, (FAIL,) * 5, (FAIL,) * 5, CARRIES[0])[-1][0]
    assert stop.verdict is RunVerdict.INCONCLUSIVE


def test_an_empty_plan_ends_after_phase_1() -> None:
    assert isinstance(next_action([], [Phase1Outcome(verdict=FAIL)]), Stop)
