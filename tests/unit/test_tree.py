"""Every combination of verdicts, checked against the rules of the tree written as properties."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lvm.records import RunVerdict, Verdict
from lvm.triage.actions import (
    COMBINATION,
    MORE_TRAINING,
    Attribution,
    Confirm,
    ConfirmOutcome,
    Phase1Outcome,
    RunPhase1,
    RunStep,
    Settle,
    SettledOutcome,
    StepOutcome,
    Stop,
    TrainedOutcome,
    attribute,
)
from lvm.triage.tree import combination, next_action

PLAN = ["s1", "s2", "s3", "s4", "s5"]
PASS, FAIL = Verdict.PASS, Verdict.FAIL
OPEN, NONE = Verdict.INCONCLUSIVE, Verdict.NOT_EVALUABLE
MAY_HOLD = (PASS, OPEN)
MAX_ACTIONS = 1 + 2 * len(PLAN) + 2  # phase 1, a step and its confirmation each, carried, stop


def walk(
    phase1, stages, confirms, carries, *, final=FAIL, independent=False, control=FAIL, over=PASS
):
    """Answer the tree's questions by step; return [(action, outcome)], the last with outcome None.

    `carries` says per step what beat its control: "no", "best" (the candidate) or "other".
    `control` and `over` are the success gate of the unchanged recipe at the budget of every
    confirmation, and the gain of the arm over it.
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
            outcome = ConfirmOutcome(
                step=action.step, arm=arm, verdict=verdict, control=control, over_control=over
            )
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
                if answer.control is PASS:
                    assert (stop.verdict, stop.cause) == (RunVerdict.FIXED, (MORE_TRAINING,))
                    return
                if answer.verdict is PASS and answer.over_control is PASS:
                    assert stop.verdict is RunVerdict.FIXED
                    before = tuple(step for step, _ in kept)
                    beat = outcome.carried == outcome.candidate
                    assert stop.cause == ((*before, action.step) if beat or not kept else before)
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
        if outcome.control is PASS:
            assert (stop.verdict, stop.cause) == (RunVerdict.FIXED, (MORE_TRAINING,))
            return
        if outcome.verdict is PASS and outcome.over_control is PASS:
            assert stop.verdict is RunVerdict.FIXED
            assert stop.cause == tuple(step for step, _ in kept)
            return
    confirmed = [o for _, o in trace[:-1] if isinstance(o, ConfirmOutcome)]
    success = [trace[0][1].verdict, *(o.verdict for o in confirmed)]
    unsure = any(OPEN in (o.verdict, o.control) or o.verdict is PASS for o in confirmed)
    undecided = OPEN in success or set(success) == {NONE} or unsure
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


@pytest.mark.parametrize("control", [PASS, FAIL, OPEN, NONE])
@pytest.mark.parametrize("over", [PASS, FAIL, OPEN, NONE])
def test_a_step_is_the_cause_only_where_it_beats_a_control_that_does_not_pass(
    control, over
) -> None:
    causes = set()
    for stages in itertools.product((PASS, FAIL, OPEN), repeat=5):
        for carries in (CARRIES[0], CARRIES[1], CARRIES[3]):
            trace = walk(FAIL, stages, (PASS,) * 5, carries, control=control, over=over, final=PASS)
            check(trace)
            causes |= set(trace[-1][0].cause)
    if control is PASS:
        assert causes == {MORE_TRAINING}
    else:
        assert causes == (set(PLAN) if over is PASS else set())


@pytest.mark.parametrize(
    ("arm", "control", "over", "whom"),
    [
        (PASS, FAIL, PASS, Attribution.STEP),
        (PASS, OPEN, PASS, Attribution.STEP),
        (PASS, FAIL, OPEN, Attribution.OPEN),
        (PASS, NONE, NONE, Attribution.OPEN),
        (FAIL, PASS, FAIL, Attribution.MORE_TRAINING),
        (PASS, PASS, PASS, Attribution.MORE_TRAINING),
        (FAIL, OPEN, FAIL, Attribution.OPEN),
        (FAIL, FAIL, PASS, Attribution.NOBODY),
        (NONE, FAIL, NONE, Attribution.NOT_JUDGED),
    ],
)
def test_whom_a_confirmation_speaks_for(arm, control, over, whom) -> None:
    assert attribute(arm, control, over) is whom


def test_a_last_step_that_did_not_beat_its_own_control_is_no_part_of_the_cause() -> None:
    """The recipe passes with s1 carried; what s3 adds to it was never shown."""
    stages, carries = (FAIL, FAIL, PASS, FAIL, FAIL), ("other", "no", "no", "no", "no")
    stop = walk(FAIL, stages, (PASS,) * 5, carries)[-1][0]
    assert (stop.verdict, stop.cause) == (RunVerdict.FIXED, ("s1",))


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
        control = (FAIL, OPEN, NONE, PASS)[rng.choice(4, p=[0.6, 0.2, 0.1, 0.1])]
        over = (PASS, FAIL, OPEN, NONE)[rng.integers(4)]
        trace = walk(
            phase1, stages, confirms, carries, final=final, independent=independent,
            control=control, over=over,
        )  # fmt: skip
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


# --- every step ----------------------------------------------------------------------------------


def walk_all(stages, carries, verdicts, *, together=FAIL, control=FAIL, over=PASS, values=None):
    """Walk with `all_steps`; `verdicts` are the success gates of the steps, settled at the end."""
    history, trace = [Phase1Outcome(verdict=FAIL)], []
    values = values or dict.fromkeys(PLAN, 0.0)
    while True:
        action = next_action(PLAN, history, all_steps=True)
        trace.append(action)
        if isinstance(action, Stop):
            return trace, history
        if isinstance(action, RunStep):
            place = PLAN.index(action.step)
            best = f"{action.step}-best" if stages[place] in MAY_HOLD else None
            kept = {"no": None, "best": best, "other": f"{action.step}-other"}[carries[place]]
            outcome = StepOutcome(
                step=action.step, stage=stages[place], candidate=best, carried=kept,
                gain=place / 10, changes=frozenset([action.step]),
            )  # fmt: skip
        elif isinstance(action, Confirm):
            outcome = TrainedOutcome(step=action.step, arm=action.arm or "all")
        else:
            assert isinstance(action, Settle)
            trained = [o for o in history if isinstance(o, TrainedOutcome)]
            outcome = SettledOutcome(
                confirmed=tuple(
                    ConfirmOutcome(
                        step=o.step, arm=o.arm, control=control, over_control=over,
                        verdict=dict(zip(PLAN, verdicts, strict=True)).get(o.step, together),
                        value=values.get(o.step, 0.9),
                    )
                    for o in trained
                )
            )  # fmt: skip
        history.append(outcome)


@pytest.mark.parametrize("verdict", [PASS, FAIL, OPEN, NONE])
def test_all_steps_asks_every_step_from_the_base_and_tries_all_that_helped(verdict) -> None:
    for stages in itertools.product((PASS, FAIL, OPEN), repeat=5):
        for carries in CARRIES:
            trace, history = walk_all(stages, carries, (verdict,) * 5)
            assert [a.step for a in trace if isinstance(a, RunStep)] == PLAN
            assert all(a.carried == () for a in trace if isinstance(a, RunStep))
            helped = tuple(
                (o.step, o.carried) for o in history if isinstance(o, StepOutcome) and o.carried
            )
            full = [a for a in trace if isinstance(a, Confirm)]
            worth = [s for s, g, c in zip(PLAN, stages, carries, strict=True)
                     if g in MAY_HOLD or (c == "other")]  # fmt: skip
            assert [a.step for a in full if a.step != COMBINATION] == worth
            together = [a for a in full if a.step == COMBINATION]
            assert [a.carried for a in together] == ([helped] if len(helped) > 1 else [])
            assert sum(isinstance(a, Settle) for a in trace) == (1 if full else 0)
            stop = trace[-1]
            if verdict is PASS and worth:
                assert (stop.verdict, len(stop.cause)) == (RunVerdict.FIXED, 1)
            elif full:
                assert stop.cause == ()
                wanted = RunVerdict.INCONCLUSIVE if verdict is OPEN else RunVerdict.NOT_FIXED
                assert stop.verdict is wanted


def test_all_steps_names_the_best_single_cause() -> None:
    values = {"s1": 0.2, "s2": 0.5, "s3": 0.3}
    verdicts = (PASS, PASS, PASS, FAIL, FAIL)
    trace, _ = walk_all((PASS,) * 5, ("best",) * 5, verdicts, together=PASS, values=values)
    assert (trace[-1].verdict, trace[-1].cause) == (RunVerdict.FIXED, ("s2",))


def test_all_steps_names_the_combination_where_no_step_passes_alone() -> None:
    carries = ("best", "no", "best", "no", "no")
    trace, _ = walk_all((PASS,) * 5, carries, (OPEN,) * 5, together=PASS)
    assert (trace[-1].verdict, trace[-1].cause) == (RunVerdict.FIXED, ("s1", "s3"))


def test_all_steps_blames_no_step_when_the_control_passes() -> None:
    trace, _ = walk_all((PASS,) * 5, ("best",) * 5, (PASS,) * 5, control=PASS)
    assert (trace[-1].verdict, trace[-1].cause) == (RunVerdict.FIXED, (MORE_TRAINING,))


def test_of_two_arms_that_change_one_key_the_better_is_in_the_combination() -> None:
    def step(name, gain, *changes):
        return StepOutcome(
            step=name, stage=FAIL, candidate=None, carried=f"{name}-arm", gain=gain,
            changes=frozenset(changes),
        )  # fmt: skip

    history = [step("s1", 0.1, "a", "b"), step("s2", 0.3, "b"), step("s3", 0.2, "c")]
    assert combination(history) == (("s2", "s2-arm"), ("s3", "s3-arm"))


# --- open questions ------------------------------------------------------------------------------


@pytest.mark.parametrize("all_steps", [False, True])
@pytest.mark.parametrize("phase1", [PASS, FAIL])
def test_extended_steps_come_last_from_the_base_and_change_no_verdict(phase1, all_steps) -> None:
    history, asked = [], []
    for _ in range(20):
        action = next_action(
            ["s1", "s2"], history, all_steps=all_steps, extended=["x1", "x2"]
        )  # fmt: skip
        if isinstance(action, Stop):
            break
        if isinstance(action, RunPhase1):
            history.append(Phase1Outcome(verdict=phase1))
        elif isinstance(action, RunStep):
            asked.append(action.step)
            from_s1 = action.step == "s2" and not all_steps  # the questions start from the base
            assert action.carried == ((("s1", "s1-arm"),) if from_s1 else ())
            held = action.step in ("s1", "x1")  # x1 would be confirmed were it one of the five
            arm = f"{action.step}-arm"
            history.append(
                StepOutcome(
                    step=action.step, stage=PASS if held else FAIL, candidate=arm if held else None,
                    carried=arm if held else None,
                )
            )  # fmt: skip
        elif isinstance(action, Confirm):
            assert action.step == "s1"
            outcome = ConfirmOutcome(
                step="s1", arm="s1-arm", verdict=PASS, control=FAIL, over_control=PASS
            )
            history.append(TrainedOutcome(step="s1", arm="s1-arm") if all_steps else outcome)
        else:
            outcome = ConfirmOutcome(
                step="s1", arm="s1-arm", verdict=PASS, control=FAIL, over_control=PASS
            )
            history.append(SettledOutcome(confirmed=(outcome,)))
    five = [] if phase1 is PASS else ["s1", "s2"] if all_steps else ["s1"]
    assert asked == [*five, "x1", "x2"]
    expected = (RunVerdict.PASSED, ()) if phase1 is PASS else (RunVerdict.FIXED, ("s1",))
    assert (action.verdict, action.cause) == expected
