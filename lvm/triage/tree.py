"""The tree as a pure function: from what has happened to what is done next.

    phase 1 --PASS--> PASSED
       |
    step 1 --an arm holds (or may hold) the stage gate--> confirm --PASS--> FIXED
       |                                                     |
    step 2 ...  (a step that beat its control is carried: later steps start from it)
       |
    after the last step: the carried recipe is confirmed if no confirmation has tried it,
    because a false stop costs more than one training; then NOT_FIXED or INCONCLUSIVE

A fix that predictions without training beat (`dominated`) is one, but does not end the run while
steps are left to be asked: one of them may be worth more. Of several fixes, and of several steps
that make one, the largest gain over its control is named first.

A confirmation names its step as the cause only if the arm beats the unchanged recipe at the same
budget. Where the unchanged recipe passes as well, the cause is more training.

Absence is no evidence. An arm that crashed, got stuck, found no room or was lost may have been the
fix, so a run that lacks one ends FIXED or INCONCLUSIVE, never NOT_FIXED. Without AR-only no success
gate can be judged, and the run stops after phase 1.

With `all_steps` every step starts from the base recipe, and none ends the run: what may hold or
beats its control is trained in full, then all that beat their controls together; Holm over all of
these is settled at the end. The steps in `extended` ask the open questions: they are measured on
dev after the verdict of the others stands, and change nothing in it. So do repeated seeds, which
train the models behind the verdict once more.

No cluster, file or clock is touched here, so every combination of verdicts is tested.
"""

from __future__ import annotations

from collections.abc import Sequence

from lvm.core.records import Absence, RunVerdict, Verdict
from lvm.triage.absence import in_short
from lvm.triage.actions import (
    COMBINATION,
    MORE_TRAINING,
    Action,
    Attribution,
    Confirm,
    ConfirmOutcome,
    Outcome,
    Phase1Outcome,
    Repeat,
    RepeatedOutcome,
    RunPhase1,
    RunStep,
    Settle,
    SettledOutcome,
    StepOutcome,
    Stop,
    TrainedOutcome,
    if_unseen,
)
from lvm.triage.reasons import why, why_go_on


def next_action(
    plan: Sequence[str],
    history: Sequence[Outcome],
    *,
    independent: bool = False,
    all_steps: bool = False,
    extended: Sequence[str] = (),
    more_seeds: Sequence[int] = (),
) -> Action:
    """Return what to do after `history` when the steps in `plan` are asked in order.

    `independent` starts every step from the base recipe, as the failure report literally says.
    """
    if not history:
        return RunPhase1(since="no model has been judged yet")
    tree = [o for o in history if not _after_the_verdict(o, extended)]
    if isinstance(tree[0], Phase1Outcome) and tree[0].no_baseline:
        return _without_baseline(tree[0])
    if isinstance(tree[0], Phase1Outcome) and tree[0].verdict is Verdict.PASS:
        since = "the base recipe holds the success gate"
        passed = Stop(verdict=RunVerdict.PASSED, cause=(), since=since)
        action: Action = if_unseen(passed, tree[0].unread)
    elif all_steps:
        action = _next_of_all(plan, tree)
    else:
        action = _next_in_order(plan, tree, independent=independent)
    return (
        _next_after(action, history, extended, more_seeds) if isinstance(action, Stop) else action
    )


def _without_baseline(phase1: Phase1Outcome) -> Stop:
    since = f"{phase1.no_baseline}, so no success gate can be judged"
    return Stop(verdict=RunVerdict.INCONCLUSIVE, cause=(), since=since, absent=phase1.absent)


def _after_the_verdict(outcome: Outcome, extended: Sequence[str]) -> bool:
    if isinstance(outcome, RepeatedOutcome):
        return True
    return isinstance(outcome, StepOutcome) and outcome.step in extended


def _next_after(
    stop: Stop, history: Sequence[Outcome], extended: Sequence[str], more_seeds: Sequence[int]
) -> Action:
    """Return the requested extra work that is not done yet, or the end."""
    repeated = {o.seed for o in history if isinstance(o, RepeatedOutcome)}
    for seed in (s for s in more_seeds if s not in repeated):
        return Repeat(seed=seed, since=f"{stop.verdict} stands, but so far on one seed")
    asked = {o.step for o in history if isinstance(o, StepOutcome)}
    for step in (s for s in extended if s not in asked):
        since = f"{stop.verdict} stands, but an open question is left"
        return RunStep(step=step, carried=(), since=since)
    return stop


# --- step after step ------------------------------------------------------------------------------


def _next_in_order(plan: Sequence[str], history: Sequence[Outcome], *, independent: bool) -> Action:
    last = history[-1]
    carried = () if independent else _carried(history)
    if isinstance(last, StepOutcome) and last.candidate is not None:
        before = () if independent else _carried(history[:-1])
        return Confirm(step=last.step, arm=last.candidate, carried=before, since=why(last))
    if isinstance(last, ConfirmOutcome):
        if last.attribution is Attribution.MORE_TRAINING:
            return _more_training(last)
        if last.attribution is Attribution.STEP and not last.dominated:
            return _fixed(last, _cause(last, history, independent=independent))
    step = _first_left(plan, history)
    if step is not None:
        return RunStep(step=step, carried=carried, since=why_go_on(last))
    fixes = [o for o in _confirmations(history) if o.attribution is Attribution.STEP]
    if fixes:  # each of them below what needs no training
        best = max(fixes, key=lambda o: o.gain)
        return _fixed(best, _cause(best, history, independent=independent))
    unconfirmed = _unconfirmed(history)
    if carried and unconfirmed is not None:
        return Confirm(
            step=unconfirmed[0],
            arm=None,
            carried=carried,
            since="it beat its control and has not had a full training",
        )
    return _end(history)


def _more_training(by: ConfirmOutcome) -> Stop:
    since = "the unchanged recipe holds the success gate when trained as long"
    stop = Stop(verdict=RunVerdict.FIXED, cause=(MORE_TRAINING,), since=since)
    return if_unseen(stop, by.unread)


def _fixed(by: ConfirmOutcome, cause: tuple[str, ...]) -> Stop:
    since = f"{by.arm} holds the success gate on the test split"
    stop = Stop(verdict=RunVerdict.FIXED, cause=cause, since=since, by=(by.step, by.arm))
    return if_unseen(stop, by.unread)


def _cause(by: ConfirmOutcome, history: Sequence[Outcome], *, independent: bool) -> tuple[str, ...]:
    """Return the steps that a confirmed arm is made of, the largest gain over its control first.

    These are the steps carried until then, and its own if the arm beat its own control as well.
    Without carried steps, its control at the full budget is what the confirmation compared with.
    Where the step's own control is absent, nothing says that the last step has no part in it.
    """
    until = history[: history.index(by)]
    steps = [o for o in until if isinstance(o, StepOutcome)]
    before = [] if independent else [o for o in steps if o.carried and o.step != by.step]
    own = [o for o in steps if o.step == by.step]
    beat = any(o.carried == by.arm or o.lacks_control for o in own)
    parts = [*before, *own] if beat or not before else before
    return tuple(o.step for o in sorted(parts, key=lambda o: -o.gain)) or (by.step,)


def _first_left(plan: Sequence[str], history: Sequence[Outcome]) -> str | None:
    done = {o.step for o in history if isinstance(o, StepOutcome)}
    return next((step for step in plan if step not in done), None)


def _carried(history: Sequence[Outcome]) -> tuple[tuple[str, str], ...]:
    return tuple((o.step, o.carried) for o in history if isinstance(o, StepOutcome) and o.carried)


def _unconfirmed(history: Sequence[Outcome]) -> tuple[str, str] | None:
    """Return the last carried (step, arm) unless a confirmation has tried exactly that."""
    carried = _carried(history)
    if not carried:
        return None
    tried = {(o.step, o.arm) for o in history if isinstance(o, ConfirmOutcome)}
    return None if carried[-1] in tried else carried[-1]


def _end(history: Sequence[Outcome]) -> Stop:
    """Return the end of a run in which no confirmation named a cause."""
    absent = _absent(history)
    if absent:
        return Stop(
            verdict=RunVerdict.INCONCLUSIVE, cause=(), since=in_short(absent), absent=absent
        )
    first, confirmed = history[0], _confirmations(history)
    phase1 = [first.verdict] if isinstance(first, Phase1Outcome) else []
    seen = [o.attribution for o in confirmed]
    if Verdict.INCONCLUSIVE in phase1 or Attribution.OPEN in seen:
        since = "no arm holds the success gate, but one interval crosses the bound"
        if any(o.verdict is Verdict.PASS for o in confirmed):
            since = "an arm holds the success gate, but its cause is open: it does not clearly beat"
            since += " the unchanged recipe at the same budget"
        return Stop(verdict=RunVerdict.INCONCLUSIVE, cause=(), since=since)
    unjudged = all(a is Attribution.NOT_JUDGED for a in seen)
    if unjudged and all(v is Verdict.NOT_EVALUABLE for v in phase1):
        since = "no success gate could be judged"
        return Stop(verdict=RunVerdict.INCONCLUSIVE, cause=(), since=since)
    stages = [o.stage for o in history if isinstance(o, StepOutcome)]
    if unjudged and stages and all(stage is Verdict.NOT_EVALUABLE for stage in stages):
        since = "no arm of any step could be judged"
        return Stop(verdict=RunVerdict.INCONCLUSIVE, cause=(), since=since)
    return Stop(
        verdict=RunVerdict.NOT_FIXED, cause=(), since="no arm of any step holds the success gate"
    )


def _absent(history: Sequence[Outcome]) -> tuple[Absence, ...]:
    """Return the arms that are absent from phase 1, the steps and the confirmations, in order."""
    found: list[Absence] = []
    for outcome in history:
        if isinstance(outcome, Phase1Outcome | StepOutcome | ConfirmOutcome):
            found += outcome.absent
        elif isinstance(outcome, SettledOutcome):
            found += [one for confirmed in outcome.confirmed for one in confirmed.absent]
    return tuple(found)


def _confirmations(history: Sequence[Outcome]) -> list[ConfirmOutcome]:
    found = [o for o in history if isinstance(o, ConfirmOutcome)]
    return found + [c for o in history if isinstance(o, SettledOutcome) for c in o.confirmed]


# --- every step -----------------------------------------------------------------------------------


def _next_of_all(plan: Sequence[str], history: Sequence[Outcome]) -> Action:
    last = history[-1]
    if isinstance(last, SettledOutcome):
        return _settled_end(last, history)
    if isinstance(last, StepOutcome) and (last.candidate or last.carried):
        arm = last.candidate or last.carried
        return Confirm(step=last.step, arm=arm, carried=(), since=why(last))
    step = _first_left(plan, history)
    if step is not None:
        return RunStep(step=step, carried=(), since=why_go_on(last))
    trained = {o.step for o in history if isinstance(o, TrainedOutcome)}
    together = combination(history)
    if len(together) > 1 and COMBINATION not in trained:
        since = "each of them beats its control"
        return Confirm(step=COMBINATION, arm=None, carried=together, since=since)
    if trained:
        return Settle(since="every step is measured")
    return _end(history)


def combination(history: Sequence[Outcome]) -> tuple[tuple[str, str], ...]:
    """Return the arms that beat their controls and can stand together, in the order of the run.

    Of two arms that change one key of the recipe, the one with the larger gain is in.
    """
    kept = [o for o in history if isinstance(o, StepOutcome) and o.carried]
    chosen: list[StepOutcome] = []
    for outcome in sorted(kept, key=lambda o: -o.gain):
        if all(outcome.changes.isdisjoint(other.changes) for other in chosen):
            chosen.append(outcome)
    return tuple((o.step, o.carried) for o in kept if o in chosen and o.carried)


def _settled_end(settled: SettledOutcome, history: Sequence[Outcome]) -> Stop:
    """Name the best single cause, of known lineage first; a combination only where none is one."""
    shared = [o for o in settled.confirmed if o.attribution is Attribution.MORE_TRAINING]
    if shared:
        return _more_training(min(shared, key=lambda o: bool(o.unread)))
    causes = [o for o in settled.confirmed if o.attribution is Attribution.STEP]
    alone = [o for o in causes if o.step != COMBINATION]
    if alone:
        best = max(alone, key=lambda o: (not o.unread, not o.dominated, o.gain))
        return _fixed(best, (best.step,))
    if causes:
        steps = {o.step: o.gain for o in history if isinstance(o, StepOutcome)}
        together = (step for step, _ in combination(history))
        return _fixed(causes[0], tuple(sorted(together, key=lambda step: -steps[step])))
    return _end(history)
