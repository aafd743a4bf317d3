"""Judging arms: the stage gate on dev, gains over the control, and which arm is worth more.

Pure functions of what was measured. Nothing here runs an arm or writes a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lvm.audit.training_log import TrainingLog, log_from_epochs, too_early
from lvm.core.config.run import GateConfig
from lvm.core.metrics import METRICS
from lvm.core.records import ABSENT, Absence, Evaluation, GateResult, StopReason, Verdict
from lvm.evaluation.front import distance_to_front
from lvm.evaluation.gates import correct, gain, stage_gate, success_gates
from lvm.evaluation.metrics import PerQuery, evaluation_of
from lvm.triage.arm import ArmSpec, stage_baseline
from lvm.triage.race import Lane
from lvm.triage.step import Role

REACHED_ITS_END = (StopReason.GATE_HELD, StopReason.FINISHED)


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """An arm as the judge sees it."""

    lane: Lane
    dev: PerQuery | None  # at the epoch that counts; None for an arm that is absent

    @property
    def spec(self) -> ArmSpec:
        """What was run."""
        return self.lane.spec

    @property
    def reason(self) -> StopReason:
        """Why it ended."""
        return self.lane.ending.reason if self.lane.ending else StopReason.CANCELLED

    @property
    def absent(self) -> bool:
        """Whether it ended because of where it ran, and so says nothing about the arm."""
        return self.reason in ABSENT

    @property
    def epoch(self) -> int:
        """The epoch that counts."""
        return self.lane.ending.epoch if self.lane.ending else 0

    @property
    def mrr(self) -> float:
        """Dev MRR, or -1 without results."""
        return -1.0 if self.dev is None else float(self.dev.reciprocal_rank.mean())


@dataclass(frozen=True, kw_only=True)
class StepJudgement:
    """The results of the arms of one step."""

    stage: Verdict  # best verdict of the stage gate; FAIL only where no arm is absent
    candidate: ArmResult | None  # the arm worth a full training
    kept: ArmResult | None  # the arm that beat its control, from which later steps start
    conflicts: Sequence[str]  # arms that fail on cosine and clearly win at R@5


def absent_arms(results: Iterable[ArmResult]) -> tuple[Absence, ...]:
    """Return the arms of one race that are absent."""
    results = list(results)
    num_arms = sum(result.spec.role is Role.ARM for result in results)
    return tuple(
        Absence(
            step=r.spec.step,
            arm=r.spec.name,
            role=r.spec.role,
            reason=r.reason,
            detail=r.lane.detail,
            num_arms=num_arms,
        )
        for r in results
        if r.absent
    )


def not_judged(reason: str) -> GateResult:
    """Return the gate result of an arm that left nothing to judge."""
    return GateResult(
        gate="stage",
        metric="eval_cosine",
        bound=0.0,
        estimate=None,
        verdict=Verdict.NOT_EVALUABLE,
        reason=reason,
    )


def is_copy(result: ArmResult, control: PerQuery | None) -> bool:
    """Whether a trainer of one's own predicted what its control predicts, to the last bit.

    Then it has ignored what the arm changes, and the arm says nothing about that.
    """
    dev = result.dev
    if result.spec.recipe.trainer is None or dev is None or control is None:
        return False
    return np.array_equal(dev.cosine, control.cosine) and np.array_equal(dev.rank, control.rank)


def judge_stage(result: ArmResult, seed: int) -> GateResult:
    """Judge an arm's dev results by the stage gate.

    In the raw space that is the cosine. In a space that was learned a cosine proves nothing (any
    head that shrinks angles scores high), so the gain over AR-only decides there. An arm that fails
    before it has learned anything is NOT_EVALUABLE.
    """
    spec = result.spec
    if result.dev is None:
        return not_judged(result.lane.detail or str(result.reason))
    baseline = stage_baseline(spec)
    if baseline is None:
        gate = stage_gate(result.dev, spec.gates)
    else:
        verdict, both = success_gates(result.dev, PerQuery.load(baseline), spec.gates, seed)
        gate = next((gate for gate in both if gate.verdict is verdict), both[0])
    # A PASS holds however early, and an INCONCLUSIVE arm is trained in full anyway.
    reason = too_early(training_of(result)) if gate.verdict is Verdict.FAIL else None
    if reason is None:
        return gate
    return replace(gate, verdict=Verdict.NOT_EVALUABLE, reason=f"judged too early: {reason}")


def training_of(result: ArmResult) -> TrainingLog:
    """Return an arm's training up to the epoch that counts."""
    records = result.lane.records
    kept = [records[e].record() for e in sorted(records) if result.epoch == 0 or e <= result.epoch]
    return log_from_epochs(result.spec.recipe, kept, str(result.reason))


def judge_gains(
    arms: Sequence[ArmResult],
    controls: Mapping[str, PerQuery | None],
    gates: GateConfig,
    seed: int,
    *,
    looks: int = 1,
    split_share: float | None = None,
) -> dict[str, list[GateResult]]:
    """Return each arm's gains over its control; PASS is above zero after Holm over all of them.

    `looks` and `split_share` are as in `lvm.evaluation.gates.correct`: a run judges the gains of
    each of its steps once. The gain in cosine is shown with them and decides nothing, for a cosine
    is no retrieval.
    """
    found: dict[str, list[GateResult]] = {}
    shown: dict[str, list[GateResult]] = {}
    for result in arms:
        control, arm = controls[result.spec.id], result.spec.id
        if result.dev is not None and control is not None:
            found[arm] = [gain(result.dev, control, m, gates, seed) for m in METRICS.judged]
            shown[arm] = [gain(result.dev, control, "eval_cosine", gates, seed)]
    together = [g for gains in found.values() for g in gains]
    corrected = iter(correct(together, gates, looks=looks, split_share=split_share))
    return {arm: [*(next(corrected) for _ in found[arm]), *shown[arm]] for arm in found}


def decisive(gains: Sequence[GateResult]) -> list[GateResult]:
    """Return the gains that decide; the others are only shown."""
    return [g for g in gains if g.metric in METRICS.judged]


def judge_step(
    arms: Sequence[ArmResult],
    stages: Mapping[str, Verdict],
    gains: Mapping[str, Sequence[GateResult]],
    rungs: Mapping[str, PerQuery] | None = None,
) -> StepJudgement:
    """Choose the arm to confirm and the arm to keep; name the gate conflicts.

    `rungs` are the untrained baselines on dev, where they were measured.
    """
    stage, candidate = _candidate(arms, stages, rungs or {})
    beats = [
        r
        for r in arms
        if any(g.verdict is Verdict.PASS for g in decisive(gains.get(r.spec.id, ())))
    ]
    conflicts = [
        r.spec.name
        for r in beats
        if stages[r.spec.id] is Verdict.FAIL
        and any(g.metric == "r_at_5" and g.verdict is Verdict.PASS for g in gains[r.spec.id])
    ]
    best = max(beats, key=lambda r: r.mrr, default=None)
    kept = candidate if candidate in beats else best
    return StepJudgement(stage=stage, candidate=candidate, kept=kept, conflicts=conflicts)


def dev_evaluation(per_query: PerQuery | None) -> Evaluation | None:
    """Return the dev metrics of results per query."""
    return None if per_query is None else evaluation_of(per_query, "dev")


def _worth_most(arms: Sequence[ArmResult], rungs: Mapping[str, PerQuery]) -> ArmResult:
    """Return the arm that lies farthest above the front of what needs no training, on dev.

    An arm that retrieves as well at half the cosine is worth less. Cosines of a learned space do
    not compare with others: where an arm has one, or no front was measured, MRR decides.
    """
    found = {
        r.spec.id: place
        for r in arms
        if r.dev is not None and (place := distance_to_front(r.dev, rungs)) is not None
    }
    return max(arms, key=lambda r: found[r.spec.id] if len(found) == len(arms) else r.mrr)


def _candidate(
    arms: Sequence[ArmResult], stages: Mapping[str, Verdict], rungs: Mapping[str, PerQuery]
) -> tuple[Verdict, ArmResult | None]:
    """Return the best stage verdict, and among the arms with it the one that is worth most."""
    complete = [r for r in arms if r.reason in REACHED_ITS_END and r.dev is not None]
    for verdict in (Verdict.PASS, Verdict.INCONCLUSIVE):
        ready = [r for r in complete if stages[r.spec.id] is verdict]
        if ready:
            return verdict, _worth_most(ready, rungs)
    if any(r.absent for r in arms):  # what it would have done nobody knows
        return Verdict.NOT_EVALUABLE, None
    judged = [v for v in stages.values() if v is not Verdict.NOT_EVALUABLE]
    return (Verdict.FAIL if judged else Verdict.NOT_EVALUABLE), None
