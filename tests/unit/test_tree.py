"""Every combination of verdicts, checked against the rules of the tree written as properties."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lvm.core.records import ABSENT, Absence, RunVerdict, StopReason, Verdict
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
GONE = "absent"  # in place of a verdict: the arm that would have given it is not there
MAX_ACTIONS = 1 + 2 * len(PLAN) + 2  # phase 1, a step and its confirmation each, carried, stop


def gone(step, arm="arm", role="arm", *, reason=StopReason.CRASHED, num_arms=1):
    return Absence(
        step=step,
        arm=arm,
        role=role,
        reason=reason,
        detail="CUDA out of memory",
        num_arms=num_arms,
    )


def judged_or_gone(verdict, step, role="arm"):
    """Return the verdict of what can be told, and what is absent where that is asked for."""
    return (NONE, (gone(step, role=role),)) if verdict is GONE else (verdict, ())


def walk(
    phase1, stages, confirms, carries, *, final=FAIL, independent=False, control=FAIL, over=PASS
):
    """Answer the tree's questions by step; return [(action, outcome)], the last with outcome None.

    `carries` says per step what beat its control: "no", "best" (the candidate) or "other".
    `control` and `over` are the success gate of the unchanged recipe at the budget of every
    confirmation, and the gain of the arm over it. Any of them but `carries` may be GONE.
    """
    history, trace = [], []
    for _ in range(MAX_ACTIONS + 1):
        action = next_action(PLAN, history, independent=independent)
        if isinstance(action, Stop):
            return [*trace, (action, None)]
        if isinstance(action, RunPhase1):
            verdict, absent = judged_or_gone(phase1, "phase_1", "phase 1")
            outcome = Phase1Outcome(verdict=verdict, absent=absent)
        elif isinstance(action, RunStep):
            place = PLAN.index(action.step)
            stage, absent = judged_or_gone(stages[place], action.step)
            best = f"{action.step}-best" if stage in MAY_HOLD else None
            kept = {"no": None, "best": best, "other": f"{action.step}-other"}[carries[place]]
            outcome = StepOutcome(
                step=action.step, stage=stage, candidate=best, carried=kept, absent=absent
            )
        else:
            step = f"confirm_{action.step}"
            verdict = confirms[PLAN.index(action.step)] if action.arm else final
            arm = action.arm or dict(action.carried)[action.step]
            verdict, lost = judged_or_gone(verdict, step, "confirm")
            unchanged, also = judged_or_gone(control, step, "control")
            outcome = ConfirmOutcome(
                step=action.step,
                arm=arm,
                verdict=verdict,
                control=unchanged,
                over_control=over,
                absent=(*lost, *also),
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
                    assert stop.by == (action.step, outcome.candidate)
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
    absent = tuple(one for _, o in trace[:-1] for one in o.absent)
    assert stop.absent == absent
    undecided = OPEN in success or set(success) == {NONE} or unsure or bool(absent)
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
        stages = [(PASS, FAIL, OPEN, NONE, GONE)[i] for i in rng.integers(5, size=5)]
        drawn = rng.choice(5, 5, p=[0.4, 0.2, 0.2, 0.1, 0.1])
        confirms = [(FAIL, OPEN, NONE, PASS, GONE)[i] for i in drawn]
        carries = [("no", "best", "other")[i] for i in rng.integers(3, size=5)]
        phase1 = (FAIL, OPEN, NONE)[rng.integers(3)]
        final = (FAIL, OPEN, NONE, PASS)[rng.integers(4)]
        independent = bool(rng.integers(2))
        control = (FAIL, OPEN, NONE, PASS)[rng.choice(4, p=[0.6, 0.2, 0.1, 0.1])]
        over = (PASS, FAIL, OPEN, NONE)[rng.integers(4)]
        trace = walk(
            phase1,
            stages,
            confirms,
            carries,
            final=final,
            independent=independent,
            control=control,
            over=over,
        )
        check(trace, independent=independent)
        ends.add(trace[-1][0].verdict)
    assert ends == {RunVerdict.FIXED, RunVerdict.NOT_FIXED, RunVerdict.INCONCLUSIVE}


# --- absence -------------------------------------------------------------------------------------


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("phase1", [FAIL, GONE])
@pytest.mark.parametrize("confirm", [PASS, FAIL, OPEN, NONE, GONE])
def test_no_combination_with_an_absent_arm_is_not_fixed(confirm, phase1, independent) -> None:
    """Four ways a step can go, in five steps, with each way its confirmation can."""
    ends = set()
    for stages in itertools.product((PASS, FAIL, OPEN, GONE), repeat=5):
        carries = ["no" if stage is GONE else "other" for stage in stages]
        trace = walk(
            phase1, stages, (confirm,) * 5, carries, final=confirm, independent=independent
        )
        check(trace, independent=independent)
        stop, lacks = trace[-1][0], any(o.absent for _, o in trace[:-1])
        assert stop.verdict is not RunVerdict.NOT_FIXED or not lacks
        assert stop.verdict is not RunVerdict.FIXED or confirm is PASS
        ends.add((stop.verdict, lacks))
    assert (RunVerdict.INCONCLUSIVE, True) in ends
    assert ((RunVerdict.FIXED, True) in ends) == (confirm is PASS)  # real evidence still counts


@pytest.mark.parametrize("control", [PASS, FAIL, OPEN, NONE, GONE])
@pytest.mark.parametrize("confirm", [PASS, FAIL, OPEN, NONE, GONE])
def test_a_confirmation_without_its_control_or_its_arm_is_no_evidence(confirm, control) -> None:
    stages = (PASS, FAIL, FAIL, FAIL, FAIL)
    over = PASS if confirm is not GONE and control is not GONE else NONE  # nothing to compare
    trace = walk(FAIL, stages, (confirm,) * 5, CARRIES[0], control=control, over=over)
    check(trace)
    stop = trace[-1][0]
    if control is PASS:  # the unchanged recipe is there, and passes whatever became of the arm
        assert (stop.verdict, stop.cause) == (RunVerdict.FIXED, (MORE_TRAINING,))
    elif GONE in (confirm, control):
        assert stop.verdict is RunVerdict.INCONCLUSIVE
        role = "confirm" if confirm is GONE else "control"
        assert (stop.absent[0].step, stop.absent[0].role) == ("confirm_s1", role)
        assert stop.since.endswith(
            "crashed: CUDA out of memory" if confirm is not control else "1 more like this"
        )
    else:
        assert stop.absent == ()


@pytest.mark.parametrize("reason", ABSENT)
def test_one_absent_arm_of_four_is_enough_whatever_took_it_away(reason) -> None:
    one = gone("s3", reason=reason, num_arms=4)
    history = [Phase1Outcome(verdict=FAIL)]
    for step in PLAN:
        absent = (one,) if step == "s3" else ()
        stage = NONE if absent else FAIL
        history.append(
            StepOutcome(step=step, stage=stage, candidate=None, carried=None, absent=absent)
        )
    for all_steps in (False, True):
        stop = next_action(PLAN, history, all_steps=all_steps)
        assert (stop.verdict, stop.absent) == (RunVerdict.INCONCLUSIVE, (one,))
        assert stop.since.startswith("1 of 4 arms of s3 ")


def test_a_run_without_ar_only_stops_whatever_was_asked_for() -> None:
    one = gone("phase_1", "AR-only", "phase 1")
    for absent in ((one,), ()):  # crashed, or diverged: nothing can be compared either way
        lost = Phase1Outcome(verdict=NONE, absent=absent, no_baseline="AR-only is gone")
        for all_steps, independent in itertools.product((False, True), repeat=2):
            stop = next_action(
                PLAN,
                [lost],
                all_steps=all_steps,
                independent=independent,
                extended=["x1"],
                more_seeds=[1],
            )
            assert isinstance(stop, Stop)
            assert (stop.verdict, stop.absent) == (RunVerdict.INCONCLUSIVE, absent)
            assert stop.since.startswith("AR-only is gone")


def test_a_base_recipe_that_is_absent_leaves_the_steps_to_be_asked() -> None:
    stages = (FAIL, PASS, FAIL, FAIL, FAIL)
    found = walk(GONE, stages, (PASS,) * 5, CARRIES[0])
    assert (found[-1][0].verdict, found[-1][0].cause) == (RunVerdict.FIXED, ("s2",))
    assert "crashed" in found[1][0].since  # and not that a gate was judged
    assert walk(GONE, (FAIL,) * 5, (FAIL,) * 5, CARRIES[0])[-1][0].verdict is (
        RunVerdict.INCONCLUSIVE
    )


def test_a_cause_holds_what_no_control_could_rule_out() -> None:
    """s1 is carried; what s3 adds to it was not measured, because the control of s3 is absent."""
    history = [
        Phase1Outcome(verdict=FAIL),
        StepOutcome(step="s1", stage=FAIL, candidate=None, carried="s1-other"),
        StepOutcome(
            step="s3",
            stage=PASS,
            candidate="s3-best",
            carried=None,
            absent=(gone("s3", "control", "control"),),
        ),
        ConfirmOutcome(step="s3", arm="s3-best", verdict=PASS, control=FAIL, over_control=PASS),
    ]
    stop = next_action(["s1", "s3"], history)
    assert (stop.verdict, stop.cause) == (RunVerdict.FIXED, ("s1", "s3"))


def test_an_open_question_or_a_seed_that_is_absent_changes_no_verdict() -> None:
    history = [
        Phase1Outcome(verdict=FAIL),
        StepOutcome(step="s1", stage=FAIL, candidate=None, carried=None),
        StepOutcome(step="x1", stage=NONE, candidate=None, carried=None, absent=(gone("x1"),)),
    ]
    stop = next_action(["s1"], history, extended=["x1"])
    assert (stop.verdict, stop.absent) == (RunVerdict.NOT_FIXED, ())


# --- what the tree does not ask ------------------------------------------------------------------


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


# --- a fix that predictions without training beat ------------------------------------------------


def after(*outcomes, **asked):
    return next_action(PLAN, [Phase1Outcome(verdict=FAIL), *outcomes], **asked)


def fixed(step, *, gain=0.1, dominated=False, **verdicts):
    verdicts = {"verdict": PASS, "control": FAIL, "over_control": PASS, **verdicts}
    return ConfirmOutcome(step=step, arm=f"{step}-best", gain=gain, dominated=dominated, **verdicts)


def helped(step, *, gain=0.1, stage=PASS):
    best = f"{step}-best"
    return StepOutcome(
        step=step, stage=stage, candidate=best if stage is PASS else None, carried=best, gain=gain
    )


def failed(step):
    return StepOutcome(step=step, stage=FAIL, candidate=None, carried=None)


def test_a_dominated_fix_leaves_the_next_question_open() -> None:
    first = (helped("s1"), fixed("s1", dominated=True))
    action = after(*first)
    assert (type(action), action.step) == (RunStep, "s2")
    assert action.carried == (("s1", "s1-best"),)
    assert isinstance(after(helped("s1"), fixed("s1")), Stop)


def test_a_dominated_fix_stands_where_no_other_is_found() -> None:
    others = [failed(step) for step in PLAN[1:]]
    stop = after(helped("s1"), fixed("s1", dominated=True), *others)
    assert (stop.verdict, stop.cause, stop.by) == (RunVerdict.FIXED, ("s1",), ("s1", "s1-best"))


def test_of_dominated_fixes_the_largest_gain_is_named() -> None:
    history = [helped("s1"), fixed("s1", gain=0.3, dominated=True)]
    history += [helped("s2"), fixed("s2", gain=0.1, dominated=True)]
    stop = after(*history, *(failed(step) for step in PLAN[2:]))
    assert (stop.cause, stop.by) == (("s1",), ("s1", "s1-best"))


def test_a_fix_that_is_worth_more_than_the_front_ends_the_run() -> None:
    history = [helped("s1", gain=0.1), fixed("s1", dominated=True), helped("s2", gain=0.2)]
    stop = after(*history, fixed("s2"))
    assert stop.by == ("s2", "s2-best")
    assert stop.cause == ("s2", "s1"), "the larger gain over its control first"


def test_a_cause_of_several_steps_begins_with_the_largest_gain() -> None:
    history = [helped("s1", gain=0.02, stage=FAIL), helped("s2", gain=0.05, stage=FAIL)]
    stop = after(*history, helped("s3", gain=0.03), fixed("s3"))
    assert stop.cause == ("s2", "s3", "s1")


def test_a_dominated_fix_is_no_pass_of_the_unchanged_recipe() -> None:
    stop = after(helped("s1"), fixed("s1", dominated=True, control=PASS))
    assert stop.cause == (MORE_TRAINING,)


# --- every step ----------------------------------------------------------------------------------


def walk_all(stages, carries, verdicts, *, together=FAIL, control=FAIL, over=PASS, values=None):
    """Walk with `all_steps`; `verdicts` are the success gates of the steps, settled at the end.

    Stages and verdicts may be GONE.
    """
    history, trace = [Phase1Outcome(verdict=FAIL)], []
    values = values or dict.fromkeys(PLAN, 0.0)
    while True:
        action = next_action(PLAN, history, all_steps=True)
        trace.append(action)
        if isinstance(action, Stop):
            return trace, history
        if isinstance(action, RunStep):
            place = PLAN.index(action.step)
            stage, absent = judged_or_gone(stages[place], action.step)
            best = f"{action.step}-best" if stage in MAY_HOLD else None
            kept = {"no": None, "best": best, "other": f"{action.step}-other"}[carries[place]]
            outcome = StepOutcome(
                step=action.step,
                stage=stage,
                candidate=best,
                carried=kept,
                gain=place / 10,
                changes=frozenset([action.step]),
                absent=absent,
            )
        elif isinstance(action, Confirm):
            outcome = TrainedOutcome(step=action.step, arm=action.arm or "all")
        else:
            assert isinstance(action, Settle)
            success = dict(zip(PLAN, verdicts, strict=True))
            confirmed = []
            for trained in (o for o in history if isinstance(o, TrainedOutcome)):
                verdict, absent = judged_or_gone(
                    success.get(trained.step, together), f"confirm_{trained.step}", "confirm"
                )
                confirmed.append(
                    ConfirmOutcome(
                        step=trained.step,
                        arm=trained.arm,
                        control=control,
                        over_control=over,
                        verdict=verdict,
                        gain=values.get(trained.step, 0.9),
                        absent=absent,
                    )
                )
            outcome = SettledOutcome(confirmed=tuple(confirmed))
        history.append(outcome)


@pytest.mark.parametrize("verdict", [PASS, FAIL, OPEN, NONE, GONE])
def test_all_steps_with_absent_arms_is_never_not_fixed(verdict) -> None:
    ends = set()
    for stages in itertools.product((PASS, FAIL, GONE), repeat=5):
        trace, history = walk_all(stages, CARRIES[0], (verdict,) * 5)
        confirmed = [c for o in history if isinstance(o, SettledOutcome) for c in o.confirmed]
        steps = [o for o in history if isinstance(o, StepOutcome)]
        lacking = tuple(one for o in (*steps, *confirmed) for one in o.absent)
        stop = trace[-1]
        if stop.verdict is RunVerdict.FIXED:
            assert verdict is PASS
            assert PASS in stages
        else:
            assert stop.absent == lacking
            assert stop.verdict is not RunVerdict.NOT_FIXED or not lacking
            assert stop.verdict is RunVerdict.INCONCLUSIVE or not lacking
        ends.add((stop.verdict, bool(lacking)))
    assert (RunVerdict.INCONCLUSIVE, True) in ends


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
            worth = [
                s
                for s, g, c in zip(PLAN, stages, carries, strict=True)
                if g in MAY_HOLD or (c == "other")
            ]
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
    assert (trace[-1].verdict, trace[-1].cause) == (RunVerdict.FIXED, ("s3", "s1"))


def test_all_steps_blames_no_step_when_the_control_passes() -> None:
    trace, _ = walk_all((PASS,) * 5, ("best",) * 5, (PASS,) * 5, control=PASS)
    assert (trace[-1].verdict, trace[-1].cause) == (RunVerdict.FIXED, (MORE_TRAINING,))


def test_of_two_arms_that_change_one_key_the_better_is_in_the_combination() -> None:
    def step(name, gain, *changes):
        return StepOutcome(
            step=name,
            stage=FAIL,
            candidate=None,
            carried=f"{name}-arm",
            gain=gain,
            changes=frozenset(changes),
        )

    history = [step("s1", 0.1, "a", "b"), step("s2", 0.3, "b"), step("s3", 0.2, "c")]
    assert combination(history) == (("s2", "s2-arm"), ("s3", "s3-arm"))


# --- open questions ------------------------------------------------------------------------------


@pytest.mark.parametrize("all_steps", [False, True])
@pytest.mark.parametrize("phase1", [PASS, FAIL])
def test_extended_steps_come_last_from_the_base_and_change_no_verdict(phase1, all_steps) -> None:
    history, asked = [], []
    for _ in range(20):
        action = next_action(["s1", "s2"], history, all_steps=all_steps, extended=["x1", "x2"])
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
                    step=action.step,
                    stage=PASS if held else FAIL,
                    candidate=arm if held else None,
                    carried=arm if held else None,
                )
            )
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
