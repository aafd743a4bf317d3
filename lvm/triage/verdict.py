"""The verdict of a run, computed from its journal and nothing else."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from lvm.core.records import GateResult
from lvm.triage.absence import absences
from lvm.triage.actions import COMBINATION, MORE_TRAINING
from lvm.triage.by_size import steps_by_gain
from lvm.triage.cautions import of_the_absent, of_the_audit, of_the_ladder, of_the_seeds
from lvm.triage.events import (
    ArmJudged,
    Audited,
    BelowLadder,
    Compared,
    Confirmed,
    Decision,
    Event,
    Inspected,
    Ladder,
    Phase1Judged,
    Repeated,
    Settled,
    StepEnded,
    StepStarted,
    TestJudged,
)
from lvm.triage.events.parts import Arm, ControlTold
from lvm.triage.headline import headline
from lvm.triage.ledger import ledger
from lvm.triage.spent import compute, time_said
from lvm.triage.state import RunState, indexed
from lvm.triage.step import Role
from lvm.triage.subject import subject
from lvm.triage.summary import (
    ArmShown,
    CombinationShown,
    ConfirmationShown,
    ModelShown,
    PassingArm,
    Phase1Shown,
    SeedsShown,
    StepShown,
    Summary,
)
from lvm.triage.unseen import lineage_part, of_the_lineage
from lvm.triage.worth import beats_ladder


def build_verdict(events: Iterable[Event], *, resume: str) -> Summary:
    """Return the result of a run; an unfinished run has the verdict None."""
    state = indexed(events)
    stop, audited = state.stop, state.last(Audited)
    ladder, compared = state.last(Ladder, split="test"), state.last(Compared)
    absent = absences(state)
    measured = Summary(
        verdict=stop.verdict if stop else None,
        judged=subject(state),
        lineage=lineage_part(state),
        cause="+".join(state.causes) or None,
        arm=_passing(state),
        codes=_codes(state),
        phase1=_phase1(state),
        steps=[_step(state, started) for started in state.steps],
        by_gain=steps_by_gain(state),
        absent=absent,
        ladder=ladder.rows if ladder else {},
        front=compared.front if compared else {},
        models=[_model(e) for e in state.of(TestJudged) if e.role != Role.REPEAT],
        combination=_combination(state),
        seeds=_seeds(state),
        hypotheses=ledger(state),
        compute=compute(state),
        forecast=time_said(state),
        since=stop.since if stop else None,
        resume=resume,
    )
    measured = replace(measured, beats_ladder=beats_ladder(measured))
    said = replace(measured, headline=headline(measured, state))
    warnings = [
        *of_the_lineage(said),
        *of_the_absent(absent, said),
        *(of_the_audit(audited.audit, said) if audited else ()),
        *of_the_ladder(said),
        *of_the_seeds(said),
    ]
    return replace(said, warnings=warnings)


def _codes(state: RunState) -> list[str]:
    """Return the codes of all findings: the audit's, then those that models have shown."""
    audited, inspected, below = (state.last(kind) for kind in (Audited, Inspected, BelowLadder))
    found = [
        *(audited.audit.findings if isinstance(audited, Audited) else ()),
        *(inspected.findings if isinstance(inspected, Inspected) else ()),
        *(below.findings if isinstance(below, BelowLadder) else ()),
    ]
    return list(dict.fromkeys(finding.code for finding in found))


# --- what passes ----------------------------------------------------------------------------------


def _passing(state: RunState) -> PassingArm | None:
    """Return the model that passes: the confirmed arm, or the control that needed no step."""
    confirmed = _cause(state)
    if confirmed is None:
        return None
    if state.causes[0] == MORE_TRAINING and confirmed.control is not None:
        return _control(state, confirmed, confirmed.control)
    return _arm(state, confirmed, confirmed.spec, confirmed.arm, confirmed.gates)


def _cause(state: RunState) -> Confirmed | None:
    """Return the confirmation that a cause rests on: the one that the end names."""
    causes, stop = state.causes, state.stop
    if not causes or stop is None:
        return None
    if causes[0] == MORE_TRAINING:
        return state.last(Confirmed, attribution="more training")
    if stop.by is not None:
        return state.last(Confirmed, step=stop.by[0], arm=stop.by[1])
    # A run of an earlier version does not say which.
    step = causes[-1] if len(causes) == 1 else COMBINATION
    passed = state.of(Confirmed, verdict="PASS")
    named = [e for e in passed if e.step == step] or passed
    return named[-1] if named else None


def _control(state: RunState, confirmed: Confirmed, control: ControlTold) -> PassingArm:
    return _arm(state, confirmed, control.spec, "the unchanged recipe", control.gates)


def _arm(
    state: RunState, confirmed: Confirmed, arm: str, name: str, gates: list[GateResult]
) -> PassingArm:
    started = state.of(StepStarted, step=confirmed.run_as)
    specs = [spec for event in started for spec in event.arms if spec.id == arm]
    spec = specs[-1] if specs else None
    return PassingArm(
        id=arm,
        name=name,
        step=confirmed.step,
        recipe=spec.recipe if spec else None,
        checkpoint=(spec.source or f"{spec.folder}/{_trained_in(spec)}") if spec else "",
        gates=gates,
    )


def _trained_in(spec: Arm) -> str:
    """Return the folder in an arm's folder that holds its model."""
    return "checkpoint" if spec.recipe.trainer is None else "own"


# --- parts of the run -----------------------------------------------------------------------------


def _phase1(state: RunState) -> Phase1Shown:
    judged = state.last(Phase1Judged)
    return Phase1Shown(
        verdict=judged.verdict if judged else None,
        gates=judged.gates if judged else [],
        arms=[_model(e) for e in state.of(TestJudged, role="phase 1")],
    )


def _step(state: RunState, started: StepStarted) -> StepShown:
    ended = state.last(StepEnded, step=started.step)
    arms = {e.arm: e for e in state.of(ArmJudged, step=started.step)}
    return StepShown(
        step=started.step,
        number=started.number or 0,
        title=started.title,
        question=started.question,
        hypothesis=started.hypothesis,
        rules_out=started.rules_out,
        epochs=started.epochs,
        carried=started.carried,
        left_out=started.left_out,
        reported=started.reported,
        extended=started.extended,
        arms=[_step_arm(spec, arms.get(spec.id)) for spec in started.arms],
        stage=ended.stage if ended else None,
        candidate=ended.candidate if ended else None,
        kept=ended.kept if ended else None,
        conflicts=ended.conflicts if ended else [],
        confirmation=_confirmation(state.last(Confirmed, step=started.step)),
    )


def _step_arm(spec: Arm, judged: ArmJudged | None) -> ArmShown:
    shown = ArmShown(
        id=spec.id, name=spec.name, role=spec.role, why=spec.why, changes=dict(spec.changes)
    )
    if judged is None:
        return shown
    return replace(
        shown,
        reason=judged.reason,
        detail=judged.detail,
        epoch=judged.epoch,
        epochs_run=judged.epochs_run,
        train_seconds=judged.train_seconds,
        evaluation=judged.evaluation,
        stage=judged.stage,
        gains=judged.gains,
        findings=judged.findings,
    )


def _confirmation(confirmed: Confirmed | None) -> ConfirmationShown | None:
    if confirmed is None:
        return None
    return ConfirmationShown(arm=confirmed.arm, verdict=confirmed.verdict, gates=confirmed.gates)


def _combination(state: RunState) -> CombinationShown | None:
    """Return what all steps that helped reach together, and what that adds to the best alone."""
    confirmed, settled = state.last(Confirmed, step=COMBINATION), state.last(Settled)
    tried = state.last(Decision, action="Confirm", step=COMBINATION)
    if confirmed is None or settled is None or tried is None:
        return None
    return CombinationShown(
        steps=[step for step, _ in tried.carried],
        arms=[arm for _, arm in tried.carried],
        verdict=confirmed.verdict,
        gates=confirmed.gates,
        best_alone=settled.best,
        adds=settled.adds,
        comparisons=settled.comparisons,
    )


def _model(event: TestJudged) -> ModelShown:
    evaluation = event.evaluation
    return ModelShown(
        name=event.name,
        arm=event.arm,
        role=event.role,
        space=evaluation.space,
        pool=evaluation.pool,
        num_windows=evaluation.num_windows,
        num_articles=evaluation.num_articles,
        masked=evaluation.masked,
        raw=evaluation.raw,
        latency=evaluation.latency,
        ann=event.ann,
        epochs=event.epochs,
    )


def _seeds(state: RunState) -> SeedsShown | None:
    """Return the models behind the verdict seed by seed, and their gains over all seeds."""
    repeated, started = state.last(Repeated), state.started
    if repeated is None:
        return None
    first = started.config.recipe.seed if started else 0
    return SeedsShown(
        seeds=[first, *(event.seed for event in state.of(Repeated))],
        models=repeated.models,
        comparisons=repeated.comparisons,
    )
