"""What a report shows of a step with very many arms: the most important ones; it counts the rest.

verdict.json holds them all. A step of no more than ARMS arms is shown whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from lvm.core.few import foremost, tally
from lvm.core.records import StopReason
from lvm.core.text import counted
from lvm.triage.events import ArmJudged
from lvm.triage.events.parts import Arm
from lvm.triage.summary import ArmShown, StepShown
from lvm.views.report import Run

ARMS = 30  # rows of a table about one step, and leaves of its node in the tree
CURVES = 12  # lines of a plot
NAMES = 12  # arms that one sentence names


def shown_arms(run: Run, step: StepShown, room: int = ARMS) -> list[ArmShown]:
    """Return the arms of a step to show: its control and the chosen arms, then the best by MRR.

    Arms that pass the stage gate, or fail it but clearly win at R@5, come before the best.
    """
    chosen, conflicts = {step.candidate, step.kept}, set(step.conflicts)

    def rank(arm: ArmShown) -> tuple[bool, bool, bool, float]:
        first, held = arm.role != "arm", arm.reason == StopReason.GATE_HELD
        return first or arm.name in chosen, held, arm.name in conflicts, _mrr(run, arm)

    return foremost(step.arms, room, rank)


def _mrr(run: Run, arm: ArmShown) -> float:
    found = measured(run, arm.id, arm, "mrr")
    return -1.0 if found is None else found


def measured(run: Run, arm: str, judged: ArmShown | ArmJudged | None, metric: str) -> float | None:
    """Return a dev metric of an arm at the epoch that counts, or at its latest one."""
    if judged is not None and judged.reason is not None:
        return judged.evaluation.masked.get(metric) if judged.evaluation else None
    curve = run.curve(arm)
    return curve[max(curve)].measured(metric) if curve else None


def ends(arms: Sequence[ArmShown]) -> list[str]:
    """Return how each arm ended, in a word or two."""
    return [arm.reason or "not ended" for arm in arms]


def left_out(step: StepShown, shown: Sequence[ArmShown]) -> str:
    """Count the arms of a step that are not shown; "" when all are."""
    rest = tally(ends(step.arms), ends(shown))
    num_left = len(step.arms) - len(shown)
    return f"{counted(num_left, 'more arm')} ({rest})" if rest else ""


def named(names: Sequence[str]) -> str:
    """Join names with commas, and count those beyond the first few."""
    listed = ", ".join(names[:NAMES])
    return listed if len(names) <= NAMES else f"{listed} and {len(names) - NAMES:,} more"


def specs_by_id(run: Run, step: str) -> dict[str, Arm]:
    """Return the arms that a step started with, by their id."""
    return {spec.id: spec for spec in run.specs(step)}
