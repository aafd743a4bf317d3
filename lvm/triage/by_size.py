"""The steps of a run ranked by what they gain over their control: the largest cause comes first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lvm.core.metrics import FINEST_FIRST
from lvm.core.records import GateResult
from lvm.triage.events import ArmJudged, Confirmed
from lvm.triage.state import RunState
from lvm.triage.step import Role
from lvm.triage.summary import StepGain


def steps_by_gain(state: RunState) -> list[StepGain]:
    """Return every step that was measured, the largest gain in MRR over its control first.

    A step that was trained in full counts by its gain over the unchanged recipe on test, any other
    step by its best arm on dev.
    """
    steps = [started.step for started in state.steps if not started.extended]
    measured = [found for step in steps if (found := _measured(state, step))]
    return sorted(measured, key=lambda found: -_size(found.gains))


def _measured(state: RunState, step: str) -> StepGain | None:
    confirmed = state.last(Confirmed, step=step)
    if confirmed is not None and (gains := _gains(confirmed.gates)):
        return StepGain(step=step, arm=confirmed.arm, split="test", gains=gains)
    arms = state.of(ArmJudged, step=step, role=Role.ARM)
    known = [(e.name, gains) for e in arms if (gains := _gains(e.gains))]
    if not known:
        return None
    name, gains = max(known, key=lambda arm: _size(arm[1]))
    return StepGain(step=step, arm=name, split="dev", gains=gains)


def _gains(gates: Iterable[GateResult]) -> dict[str, GateResult]:
    """Return the gains over the control that have an estimate, by metric."""
    kept = [g for g in gates if g.gate == "gain" and g.metric in FINEST_FIRST and g.estimate]
    return {g.metric: g for g in kept}


def _size(gains: Mapping[str, GateResult]) -> float:
    sizes = [gate.estimate.value for m in FINEST_FIRST if (gate := gains.get(m)) and gate.estimate]
    return sizes[0] if sizes else float("-inf")
