"""Full trainings judged on the test split, one by one or all of a run together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lvm.core.config.run import GateConfig
from lvm.core.metrics import METRICS
from lvm.core.records import GateResult, Position, StopReason
from lvm.evaluation.gates import gain
from lvm.evaluation.metrics import PerQuery
from lvm.triage.actions import (
    COMBINATION,
    Attribution,
    Confirm,
    ConfirmOutcome,
    SettledOutcome,
    TrainedOutcome,
)
from lvm.triage.against_ladder import position_of, rungs_on
from lvm.triage.arm import ArmSpec
from lvm.triage.events import Confirmed, Settled
from lvm.triage.events.parts import ControlTold
from lvm.triage.full_training import FullTraining, train_in_full
from lvm.triage.judge_confirmation import Confirmation, judge_confirmation
from lvm.triage.runner import AR_ONLY, Runner


class Confirmations:
    """Carries out the confirmations of one run: judged one by one, or all together at its end."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._trained: list[FullTraining] = []
        self.judged: list[tuple[FullTraining, Confirmation]] = []

    def confirm(self, action: Confirm) -> ConfirmOutcome | TrainedOutcome:
        """Train an arm in full, and judge it unless all are judged together."""
        trained = train_in_full(self._runner, action)
        self._trained.append(trained)
        if self._runner.request.all_steps:
            return TrainedOutcome(step=trained.step, arm=trained.arm)
        judged = judge_one(
            trained,
            self._ar_only(),
            self._runner.gates,
            self._runner.base.seed,
            looks=self._runner.looks,
            split_share=self._runner.split_share("test"),
        )
        return self._note(trained, judged)

    def settle(self) -> SettledOutcome:
        """Judge all full trainings together, and what the combination adds to the best of them."""
        settled = settle(
            self._trained,
            self._ar_only(),
            self._runner.gates,
            self._runner.base.seed,
            split_share=self._runner.split_share("test"),
        )
        outcomes = [
            self._note(trained, judged)
            for trained, judged in zip(self._trained, settled.judged, strict=True)
        ]
        best = settled.best
        event = Settled(
            best=None if best is None else (best.step, best.arm),
            comparisons=settled.comparisons,
            adds=list(settled.adds),
        )
        self._runner.once(event)
        return SettledOutcome(confirmed=tuple(outcomes))

    def _ar_only(self) -> PerQuery | None:
        return self._runner.test_results(self._runner.phase1[AR_ONLY])

    def _note(self, trained: FullTraining, judged: Confirmation) -> ConfirmOutcome:
        self.judged.append((trained, judged))
        spec = trained.result.spec
        event = Confirmed(
            step=trained.step,
            arm=trained.arm,
            spec=spec.id,
            verdict=judged.verdict,
            gates=list(judged.gates),
            run_as=spec.step,
            success=judged.success,
            attribution=judged.attribution,
            over_control=judged.over_control,
            control=ControlTold(
                spec=trained.control.id,
                name=trained.control.name,
                reason=trained.control_reason,
                verdict=judged.control,
                gates=list(judged.control_gates),
            ),
        )
        self._runner.once(event, "step", "spec")
        return ConfirmOutcome(
            step=trained.step,
            arm=trained.arm,
            verdict=judged.success,
            control=judged.control,
            over_control=judged.over_control,
            gain=judged.gain,
            dominated=self._dominated(spec),
            absent=trained.absent,
            unread=self._runner.unread if spec.source is not None else "",
        )

    def _dominated(self, spec: ArmSpec) -> bool:
        """Whether what needs no training does better; the report's own tree does not ask."""
        runner = self._runner
        if runner.request.reported_only:
            return False
        found = position_of(runner, spec.id, rungs_on(runner, "test"))
        return found is not None and found.position is Position.BELOW


@dataclass(frozen=True, kw_only=True)
class Settlement:
    """All full trainings of a run judged together."""

    judged: Sequence[Confirmation]  # in the order of the trainings
    best: FullTraining | None  # the best step alone: a cause if any is one, by its gain
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
    looks: int = 1,
    split_share: float | None = None,
) -> Confirmation:
    """Judge one full training: one of `looks`, or together with the p-values of `others`."""
    return judge_confirmation(
        trained.test,
        ar_only,
        trained.control_test,
        gates,
        seed,
        others=others,
        other_gains=other_gains,
        looks=looks,
        split_share=split_share,
        control_diverged=trained.control_reason is StopReason.DIVERGED,
    )


def settle(
    trainings: Sequence[FullTraining],
    ar_only: PerQuery | None,
    gates: GateConfig,
    seed: int,
    *,
    split_share: float | None = None,
) -> Settlement:
    """Judge all trainings by Holm, over their success gates and over their gains."""
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
            trained,
            ar_only,
            gates,
            seed,
            others=[*_without(success, i), *extra],
            other_gains=_without(gains, i),
            split_share=split_share,
        )
        for i, trained in enumerate(trainings)
    ]
    best = _best(trainings, judged)
    together = next((t for t in trainings if t.step == COMBINATION), None)
    adds: list[GateResult] = []
    if best is not None and together is not None:
        pair = together.test, best.test
        if pair[0] is not None and pair[1] is not None:
            adds = [gain(pair[0], pair[1], metric, gates, seed) for metric in METRICS.judged]
    return Settlement(
        judged=judged, best=best, adds=adds, comparisons=sum(map(len, success)) + len(extra)
    )


def _best(trainings: Sequence[FullTraining], judged: Sequence[Confirmation]) -> FullTraining | None:
    alone = [(t, j) for t, j in zip(trainings, judged, strict=True) if t.step != COMBINATION]
    causes = [(t, j) for t, j in alone if j.attribution is Attribution.STEP]
    best = max(causes or alone, key=lambda pair: (pair[1].gain, pair[0].mrr), default=None)
    return None if best is None else best[0]


def _p_values(gates: Sequence[GateResult], kind: str) -> list[float]:
    return [g.p_value for g in gates if g.gate == kind and g.p_value is not None]


def _without(found: Sequence[Sequence[float]], index: int) -> list[float]:
    return [p for i, values in enumerate(found) if i != index for p in values]
