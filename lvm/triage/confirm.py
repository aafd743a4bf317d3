"""Full trainings judged on the test split, one by one or all of a run together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lvm.config import GateConfig
from lvm.evaluation.metrics import PerQuery
from lvm.gates import gain
from lvm.records import GateResult, StopReason
from lvm.triage.arm import ArmSpec
from lvm.triage.judge import (
    REACHED_ITS_END,
    SUCCESS_METRICS,
    ArmResult,
    Confirmation,
    judge_confirmation,
)
from lvm.triage.tree import COMBINATION, Attribution


@dataclass(frozen=True, kw_only=True)
class FullTraining:
    """One arm at the full budget, and the unchanged recipe at the same."""

    step: str
    arm: str
    result: ArmResult
    control: ArmSpec
    control_reason: StopReason
    trained_control: bool  # for this confirmation; else it is the model of phase 1

    @property
    def test(self) -> PerQuery | None:
        """The arm's results on the test split, if it reached its end."""
        return _test_results(self.result.spec, self.result.reason)

    @property
    def control_test(self) -> PerQuery | None:
        """Those of the unchanged recipe."""
        return _test_results(self.control, self.control_reason)

    @property
    def mrr(self) -> float:
        """Test MRR, or -1 without results."""
        test = self.test
        return -1.0 if test is None else float(test.reciprocal_rank.mean())


@dataclass(frozen=True, kw_only=True)
class Settlement:
    """All full trainings of a run judged together."""

    judged: Sequence[Confirmation]  # in the order of the trainings
    best: FullTraining | None  # the best step alone: a cause if any is one, else by MRR
    adds: Sequence[GateResult]  # gains of the combination over the best; empty without one
    comparisons: int  # p-values of success gates that were corrected together


def judge_one(
    trained: FullTraining,
    ar_only: PerQuery | None,
    gates: GateConfig,
    seed: int,
    *,
    others: Sequence[float] = (),
    other_gains: Sequence[float] = (),
) -> Confirmation:
    """Judge one full training, corrected for the p-values of `others`."""
    return judge_confirmation(
        trained.test,
        ar_only,
        trained.control_test,
        gates,
        seed,
        others=others,
        other_gains=other_gains,
        control_diverged=trained.control_reason is StopReason.DIVERGED,
    )


def settle(
    trainings: Sequence[FullTraining], ar_only: PerQuery | None, gates: GateConfig, seed: int
) -> Settlement:
    """Judge all trainings by Holm over their success gates, and over their gains likewise."""
    alone = [judge_one(trained, ar_only, gates, seed) for trained in trainings]
    success = [_p_values(judged.gates, "success") for judged in alone]
    gains = [_p_values(judged.gates, "gain") for judged in alone]
    controls = {
        trained.control.id: _p_values(judged.control_gates, "success")
        for trained, judged in zip(trainings, alone, strict=True)
        if trained.trained_control
    }
    extra = [p for found in controls.values() for p in found]
    judged = [
        judge_one(
            trained, ar_only, gates, seed,
            others=[*_without(success, i), *extra], other_gains=_without(gains, i),
        )
        for i, trained in enumerate(trainings)
    ]  # fmt: skip
    best = _best(trainings, judged)
    together = next((t for t in trainings if t.step == COMBINATION), None)
    adds: list[GateResult] = []
    if best is not None and together is not None:
        pair = together.test, best.test
        if pair[0] is not None and pair[1] is not None:
            adds = [gain(pair[0], pair[1], metric, gates, seed) for metric in SUCCESS_METRICS]
    return Settlement(
        judged=judged, best=best, adds=adds, comparisons=sum(map(len, success)) + len(extra)
    )


def _best(trainings: Sequence[FullTraining], judged: Sequence[Confirmation]) -> FullTraining | None:
    alone = [(t, j) for t, j in zip(trainings, judged, strict=True) if t.step != COMBINATION]
    causes = [(t, j) for t, j in alone if j.attribution is Attribution.STEP]
    return max((t for t, _ in causes or alone), key=lambda t: t.mrr, default=None)


def _p_values(gates: Sequence[GateResult], kind: str) -> list[float]:
    return [g.p_value for g in gates if g.gate == kind and g.p_value is not None]


def _without(found: Sequence[Sequence[float]], index: int) -> list[float]:
    return [p for i, values in enumerate(found) if i != index for p in values]


def _test_results(spec: ArmSpec, reason: StopReason) -> PerQuery | None:
    path = spec.folder / "test.npz"
    return PerQuery.load(path) if reason in REACHED_ITS_END and path.exists() else None
