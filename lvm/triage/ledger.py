"""The hypothesis ledger: what the steps suppose, and what this run says of it.

Each step states its predictions, before any run. Their status comes from the journal alone:

    confirmed     an arm beats its control in R@5 or MRR: the interval, corrected by Holm over the
                  arms of its step, lies above zero. Where the arm was trained in full, the gain
                  over the unchanged recipe on the test split decides, because no arm was chosen by
                  that split.
    refuted       an arm reached its budget and had learned, and no interval of any arm lies above
                  zero even uncorrected, or reaches what the success gate asks for: that is too
                  little to explain the failure; no arm that tests it is absent
    inconclusive  anything between
    untested      no arm was judged, and why

Intervals are not corrected over the entries of the ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

from lvm.core.few import foremost
from lvm.core.records import ABSENT, GateResult, RunVerdict, StopReason, Verdict
from lvm.core.text import title_of
from lvm.triage.events import ArmJudged, Confirmed, StepStarted
from lvm.triage.events.parts import Arm
from lvm.triage.own_steps import own_steps
from lvm.triage.state import RunState
from lvm.triage.step import Hypothesis, Step, hypotheses
from lvm.triage.summary import GainShown, LedgerEntry, TestingArm

AT_ITS_END = (StopReason.GATE_HELD, StopReason.FINISHED)
NUM_SAID = 12  # arms of one entry that are named in words


class Status(StrEnum):
    """What a run says of a hypothesis."""

    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    INCONCLUSIVE = "inconclusive"
    UNTESTED = "untested"


def ledger(state: RunState) -> list[LedgerEntry]:
    """Return every entry with its status; no journal is too short."""
    started = state.started
    # What the steps of the recipe tried is in the journal.
    own = own_steps(started.config) if started is not None else []
    return [_entry(state, hypothesis, steps) for hypothesis, steps in hypotheses(own)]


def _entry(state: RunState, hypothesis: Hypothesis, steps: Sequence[Step]) -> LedgerEntry:
    arms = _evidence(state, hypothesis, [step.name for step in steps])
    judged = [arm for arm in arms if arm.gains]
    complete = all(arm.reason not in ABSENT for arm in arms)
    status = _status(judged, complete=complete) if judged else Status.UNTESTED
    result = _all_in_words(judged) or _why_untested(state, hypothesis, steps, arms)
    if judged and not complete:
        gone = [f"{a.arm} {a.reason}" for a in arms if a.reason in ABSENT]
        result += f"; not judged: {', '.join(gone)}"
    return LedgerEntry(
        id=hypothesis.id,
        kind=hypothesis.kind.value,
        claim=hypothesis.claim,
        predicts=hypothesis.predicts,
        statistic=hypothesis.statistic,
        status=status.value,
        result=result,
        arms=arms,
    )


def _evidence(state: RunState, hypothesis: Hypothesis, steps: Sequence[str]) -> list[TestingArm]:
    """Return the result of each arm that tests the hypothesis; of one arm twice, the longer run."""
    found: dict[str, TestingArm] = {}
    for step in steps:
        started = state.last(StepStarted, step=step)
        if started is None:
            continue
        recipes = {spec.role: spec.recipe for spec in started.arms}
        for spec in started.arms:
            control = recipes.get("control", spec.recipe)
            if spec.role != "arm" or not hypothesis.tests(spec.changes, control):
                continue
            arm = _arm(state, started, spec)
            if spec.id not in found or arm.epoch >= found[spec.id].epoch:
                found[spec.id] = arm
    return list(found.values())


def _arm(state: RunState, started: StepStarted, spec: Arm) -> TestingArm:
    """Return the gains of one arm: on test over the unchanged recipe if confirmed, else on dev."""
    step = started.step
    judged = state.last(ArmJudged, step=step, arm=spec.id)
    confirmed = state.last(Confirmed, step=step, arm=spec.name)
    test = _gains(confirmed.gates if confirmed else (), spec)
    on_test = bool(test) and not started.carried
    evaluation = judged.evaluation if judged else None
    behind = evaluation is not None and evaluation.space == "projected"
    return TestingArm(
        arm=spec.name,
        step=step,
        split="test" if on_test else "dev",
        epoch=judged.epoch if judged else 0,
        reason=judged.reason if judged else None,
        detail=judged.detail if judged else "",
        learned=judged is None or judged.stage.verdict != Verdict.NOT_EVALUABLE,
        projected_cosine=evaluation.masked["eval_cosine"] if evaluation and behind else None,
        gains=test if on_test else _gains(judged.gains if judged else (), spec),
    )


def _gains(gates: Iterable[GateResult], spec: Arm) -> list[GainShown]:
    """Return the gains over the control that were estimated and have a success bound."""
    bounds = spec.gates.success_bounds
    return [
        GainShown(
            metric=gate.metric,
            value=gate.estimate.value,
            lower=gate.estimate.lower,
            upper=gate.estimate.upper,
            verdict=gate.verdict,
            success_bound=bounds[gate.metric],
        )
        for gate in gates
        if gate.gate == "gain" and gate.estimate and gate.metric in bounds
    ]


def _status(judged: Sequence[TestingArm], *, complete: bool) -> Status:
    """Return the status; not refuted unless every arm that tests the claim is there."""
    gains = [gain for arm in judged for gain in arm.gains]
    if any(gain.verdict == Verdict.PASS for gain in gains):
        return Status.CONFIRMED
    ended = any(arm.reason in AT_ITS_END and arm.learned for arm in judged)
    none_helps = all(g.lower <= 0 and g.upper < g.success_bound for g in gains)
    return Status.REFUTED if complete and ended and none_helps else Status.INCONCLUSIVE


def _all_in_words(judged: Sequence[TestingArm]) -> str:
    """Return a clause on each arm; of very many, on those with the clearest gains."""
    best = foremost(judged, NUM_SAID, lambda arm: max(gain.lower for gain in arm.gains))
    return _joined([_in_words(arm) for arm in best], len(judged))


def _joined(clauses: Sequence[str], num_arms: int) -> str:
    more = [f"and {num_arms - NUM_SAID:,} more arms"] if num_arms > NUM_SAID else []
    return "; ".join([*clauses, *more])


def _in_words(arm: TestingArm) -> str:
    """Return one clause on one arm."""
    gains = ", ".join(
        f"{title_of(g.metric)} {g.value:+.3f} [{g.lower:+.3f}, {g.upper:+.3f}]" for g in arm.gains
    )
    notes = [] if arm.split == "dev" else ["test split, over the unchanged recipe"]
    if arm.reason not in AT_ITS_END:
        notes.append(f"{arm.reason} at epoch {arm.epoch}")
    elif not arm.learned:
        notes.append("judged before it had trained enough")
    if arm.projected_cosine is not None:
        notes.append(f"cosine behind the head {arm.projected_cosine:.3f}")
    return f"{arm.arm}: {gains}" + (f" ({'; '.join(notes)})" if notes else "")


def _why_untested(
    state: RunState,
    hypothesis: Hypothesis,
    steps: Sequence[Step],
    arms: Sequence[TestingArm],
) -> str:
    if arms:
        ends = [f"{a.arm}: {a.detail or _without_gain(a)}" for a in arms[:NUM_SAID]]
        return _joined(ends, len(arms))
    started = [e for s in steps if (e := state.last(StepStarted, step=s.name))]
    left_out = [f"{n}: {why}" for event in started for n, why in event.left_out.items()]
    if left_out:
        return "; ".join(left_out)
    if started:
        return "the recipe leaves no arm to test it"
    stop = state.stop
    if stop is None:
        return "the run has not reached it yet"
    if stop.verdict == RunVerdict.BLOCKED:
        return "the audit stopped the run before any training"
    if state.arguments.steps:
        return "--steps left out every step that tests it"
    flag = next(step.flag for step in steps if hypothesis in step.hypotheses)
    return f"the run ended {stop.verdict} before; {flag} tests it"


def _without_gain(arm: TestingArm) -> str:
    if arm.reason is None:
        return "has not been judged yet"
    lacks = "" if arm.reason in ABSENT else ", with no control to compare with"
    return f"{arm.reason}{lacks}"
