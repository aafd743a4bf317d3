"""Whether AR-only is worse than a fixed mix of its context: then the network is what fails first.

AR-only is trained for cosine alone, and a network that lets its context through can do as well as
the mix. One that stays below it tells nothing about contrastive losses, whatever its arms reach.
"""

from __future__ import annotations

from lvm.audit.finding import Finding, Severity
from lvm.audit.training_log import too_early
from lvm.core.records import GateResult
from lvm.evaluation.gates import gain
from lvm.evaluation.metrics import PerQuery
from lvm.triage.against_ladder import rung_file
from lvm.triage.events import BelowLadder, event_of
from lvm.triage.judge import ArmResult, training_of
from lvm.triage.runner import AR_ONLY, Runner
from lvm.triage.step import steps_in_order

CODE = "BELOW_LADDER"
MIX = "weighted_mix"  # the best fixed mix in cosine: what a network is compared with
COPIES = ("copy_last", "mean_context", MIX)


def ask_whether_below(runner: Runner, ar_only: ArmResult) -> None:
    """Compare AR-only with copies of its context on dev, and note what that says."""
    gains = {name: _gain(runner, ar_only, name) for name in COPIES}
    measured = {name: found for name, found in gains.items() if found is not None}
    finding, reason = _judged(measured, ar_only)
    event = event_of(
        BelowLadder,
        arm=ar_only.spec.id,
        name=AR_ONLY,
        gains=measured,
        findings=[] if finding is None else [finding],
        reason=reason,
    )
    runner.once(event)


def asked_first(runner: Runner, plan: list[str]) -> list[str]:
    """Return the steps of a plan that the finding points to, where it was made."""
    noted = runner.journal.events.last(BelowLadder)
    below = noted is not None and noted.findings
    return [name for name in _pointed_to() if name in plan] if below else []


def _pointed_to() -> list[str]:
    return [step.name for step in steps_in_order() if CODE in step.first_on]


def _gain(runner: Runner, ar_only: ArmResult, name: str) -> GateResult | None:
    path = rung_file(runner.request.out, name, "dev")
    if ar_only.dev is None or not path.exists():
        return None
    return gain(ar_only.dev, PerQuery.load(path), "eval_cosine", runner.gates, runner.base.seed)


def _judged(gains: dict[str, GateResult], ar_only: ArmResult) -> tuple[Finding | None, str]:
    """Return the finding, or None and why there is none."""
    against = gains.get(MIX)
    if against is None or against.estimate is None:
        return None, against.reason if against else "AR-only or the ladder was not measured on dev"
    learned = too_early(training_of(ar_only))
    if learned is not None:
        return None, f"AR-only was judged too early: {learned}"
    if against.estimate.upper >= 0:
        return None, f"AR-only is not clearly below {MIX} in cosine ({against.reason})"
    below = [n for n, g in gains.items() if g.estimate is not None and g.estimate.upper < 0]
    return _finding(against, below, ar_only), ""


def _finding(against: GateResult, below: list[str], ar_only: ArmResult) -> Finding:
    estimate = against.estimate
    assert estimate is not None  # the finding rests on it
    assert ar_only.dev is not None
    reached = float(ar_only.dev.cosine.mean())
    interval = f"{estimate.value:+.3f} [{estimate.lower:.3f}, {estimate.upper:.3f}]"
    others = [name for name in below if name != MIX]
    *most, last = _pointed_to()
    asked = f"steps {', '.join(most)} and {last} are" if most else f"step {last} is"
    also = f"; {' and '.join(others)} do better as well" if others else ""
    return Finding(
        code=CODE,
        severity=Severity.WARN,
        seen=f"AR-only reaches a cosine of {reached:.3f} on dev, {interval} against {MIX}, a fixed "
        f"mix of its context{also}",
        allowed=f"at least the cosine of {MIX} (an interval that reaches 0)",
        where={"input": "training"},
        meaning="The network loses its context, so it fails before the contrastive loss matters.",
        next=f"the {asked} asked first",
        values={"cosine": reached, "difference": estimate.value, "upper": estimate.upper},
    )
