"""Judging a full training on the test split: the success gate, and the gain over its control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from lvm.core.config.run import GateConfig
from lvm.core.metrics import METRICS
from lvm.core.records import GateResult, Verdict
from lvm.evaluation.gates import correct, gain, success_gates
from lvm.evaluation.metrics import PerQuery
from lvm.triage.actions import Attribution, attribute
from lvm.triage.judge import not_judged


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """A full training judged on test, against the unchanged recipe at the same budget."""

    success: Verdict  # of the arm over AR-only
    gates: Sequence[GateResult]  # success gates, then gains over the control
    control: Verdict  # success of the unchanged recipe over AR-only
    control_gates: Sequence[GateResult]
    over_control: Verdict  # whether the arm beats the unchanged recipe

    @property
    def attribution(self) -> Attribution:
        """Which cause the confirmation supports."""
        return attribute(self.success, self.control, self.over_control)

    @property
    def gain(self) -> float:
        """Test MRR over that of the unchanged recipe; 0 where nobody measured it."""
        found = [g.estimate for g in self.gates if (g.gate, g.metric) == ("gain", "mrr")]
        return next((estimate.value for estimate in found if estimate is not None), 0.0)

    @property
    def verdict(self) -> Verdict:
        """The success gate, held only where the step is the cause."""
        if self.success is Verdict.PASS and self.attribution is not Attribution.STEP:
            return Verdict.INCONCLUSIVE
        return self.success


def judge_confirmation(
    judged: PerQuery | None,
    baseline: PerQuery | None,
    unchanged: PerQuery | None,
    gates: GateConfig,
    seed: int,
    *,
    others: Sequence[float] = (),
    other_gains: Sequence[float] = (),
    looks: int = 1,
    split_share: float | None = None,
    control_diverged: bool = False,
) -> Confirmation:
    """Judge a full training: the success gate, and the gain over the unchanged recipe.

    Both come from the test split, and are a family each. Judged one by one, each confirmation is
    one of `looks`; judged all together, `others` are the p-values of the other success gates and
    `other_gains` those of the other gains over the control (Holm over all). A control that diverged
    left no model to compare with, and any model beats that.
    """
    judge_success = partial(
        _success,
        baseline=baseline,
        gates=gates,
        seed=seed,
        others=others,
        looks=looks,
        split_share=split_share,
    )
    success, results = judge_success(judged)
    control, control_gates = judge_success(unchanged)
    over: list[GateResult] = []
    if judged is not None and unchanged is not None:
        over = [gain(judged, unchanged, metric, gates, seed) for metric in METRICS.judged]
        over = correct(over, gates, other_gains, looks=looks, split_share=split_share)
    wins = control_diverged or any(g.verdict is Verdict.PASS for g in over)
    return Confirmation(
        success=success,
        gates=[*results, *over],
        control=control,
        control_gates=control_gates,
        over_control=Verdict.PASS if wins else _best([g.verdict for g in over]),
    )


def _success(
    judged: PerQuery | None,
    baseline: PerQuery | None,
    gates: GateConfig,
    seed: int,
    others: Sequence[float],
    looks: int,
    split_share: float | None,
) -> tuple[Verdict, list[GateResult]]:
    if judged is None or baseline is None:
        which = "the arm" if judged is None else "AR-only"
        return Verdict.NOT_EVALUABLE, [not_judged(f"{which} has no results on the test split")]
    return success_gates(
        judged, baseline, gates, seed, others, looks=looks, split_share=split_share
    )


def _best(verdicts: Sequence[Verdict]) -> Verdict:
    order = (Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL)
    return next((v for v in order if v in verdicts), Verdict.NOT_EVALUABLE)
