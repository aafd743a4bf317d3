"""The verdict of a run in one sentence."""

from __future__ import annotations

from lvm.core.records import GateResult, RunVerdict
from lvm.core.text import title_of
from lvm.triage.actions import MORE_TRAINING
from lvm.triage.events import Confirmed, Decision
from lvm.triage.state import RunState
from lvm.triage.summary import CombinationShown, PassingArm, Summary
from lvm.triage.unseen import headline_if_unseen
from lvm.triage.worth import worth


def headline(summary: Summary, state: RunState) -> str:
    """Return the verdict in one sentence."""
    arm, cause, judged = summary.arm, summary.cause, summary.judged
    given = f"the predictions in {judged.file}" if judged.stand_in else ""
    front = worth(summary)
    match summary.verdict:
        case RunVerdict.PASSED if given:
            return f"PASSED: {given} hold the success gate{front}; nothing needs fixing."
        case RunVerdict.PASSED:
            return f"PASSED: the base recipe holds the success gate{front}; nothing needs fixing."
        case RunVerdict.FIXED if given and arm:
            return (
                f"FIXED by {cause} on a stand-in: {given} do not hold the success gate, but "
                f"{arm.name} of our network does{front}. Whether it fixes the model behind the "
                "predictions is untested."
            )
        case RunVerdict.FIXED if cause == MORE_TRAINING and arm and arm.recipe:
            epochs = arm.recipe.training.epochs
            return (
                "FIXED by more training: the unchanged recipe holds the success gate on the test "
                f"split when it is trained for {epochs} epochs{front}, so no step is the cause."
            )
        case RunVerdict.FIXED if arm:
            beside = "" if "+" in str(cause) else _beside(summary.combination)
            holds = f"{arm.name} holds the success gate{_gained(arm)}{front}"
            return f"FIXED by {cause}: {holds}{f'; {beside}' if beside else ''}."
        case RunVerdict.NOT_FIXED if given:
            return (
                f"NOT_FIXED: {given} do not hold the success gate, nor does any arm tried on "
                "our network in their place."
            )
        case RunVerdict.NOT_FIXED:
            return "NOT_FIXED: no arm tried holds the success gate."
        case RunVerdict.BLOCKED:
            return f"BLOCKED: {summary.since}; no training was started."
        case RunVerdict.INCONCLUSIVE if conditional := headline_if_unseen(summary):
            return conditional
        case RunVerdict.INCONCLUSIVE:
            lacking = state.stop is not None and state.stop.absent
            nearest = None if lacking else _nearest(state)
            return f"INCONCLUSIVE: {nearest or summary.since}."
        case _:
            return "UNFINISHED: this is partial and shows what the run has measured so far."


def _gained(arm: PassingArm) -> str:
    """Return the gain in R@5 over AR-only in brackets; "" where it was not measured."""
    gates = [g for g in arm.gates if g.gate == "success" and g.metric == "r_at_5"]
    known = [g.estimate.value for g in gates if g.estimate]
    return f" (R@5 {known[0]:+.3f} over AR-only)" if known else ""


def _nearest(state: RunState) -> str | None:
    """Say what is known of the arm whose interval crosses its bound: that it helps, or not even so.

    It helps only if its full training beat the unchanged recipe on the test split, after
    correction; of several such arms the last is named.
    """
    crossing = state.of(Confirmed, verdict="INCONCLUSIVE")
    if not crossing:
        return None
    helping = [e for e in crossing if _verdicts(e, "gain", "PASS")]
    named = (helping or crossing)[-1]
    gains = ", ".join(
        f"{title_of(g.metric)} {g.reason}" for g in _verdicts(named, "success", "INCONCLUSIVE")
    )
    if helping:
        what = f"{_steps(state, named)} helps"
        return f"{what}, but the test split is too small to tell whether it helps enough ({gains})"
    return (
        "no confirmed arm clearly beats its control, and the test split is too small to rule "
        f"out success ({named.arm}: {gains})"
    )


def _verdicts(confirmed: Confirmed, gate: str, verdict: str) -> list[GateResult]:
    """Return the results of one kind of gate with one verdict."""
    return [g for g in confirmed.gates if g.gate == gate and g.verdict == verdict]


def _steps(state: RunState, confirmed: Confirmed) -> str:
    """Name the steps that a confirmed arm is made of: what it started from, and its own."""
    decided = state.last(Decision, action="Confirm", step=confirmed.step)
    before = [step for step, _ in decided.carried] if decided else []
    return " + ".join(dict.fromkeys([*before, confirmed.step]))


def _beside(combination: CombinationShown | None) -> str | None:
    """Say what the combination adds to the best step alone."""
    if combination is None or not combination.adds:
        return None
    steps = ", ".join(combination.steps)
    gains = ", ".join(
        f"{title_of(g.metric)} {g.reason.split(' against ')[0]}"
        for g in combination.adds
        if g.estimate
    )
    verdicts = [g.verdict for g in combination.adds]
    word = "adds to it" if "PASS" in verdicts else "adds nothing clear to it"
    if set(verdicts) == {"FAIL"}:
        word = "does worse than it alone"
    return f"all helpful steps together ({steps}) {word}: {gains}"
