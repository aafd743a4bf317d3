"""When the arms of one step are compared, and which go on: successive halving at shared rungs.

The rule is ASHA's (Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning",
Algorithm 2): at rung r keep the best 1/eta. A rung is decided once every arm of the step has
reached it or ended, so the same seed prunes the same arms whatever arrives first. Until then an arm
that has reached it waits, and its slot serves another. `lvm.triage.asha` holds the paper's own
asynchronous rule, for steps so wide that waiting for the last arm would cost too much.

The control is never pruned: without it at the same budget no arm could be said to have helped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from lvm.core.records import StopReason


def rung_epochs(first: int, budget: int, factor: int) -> list[int]:
    """Return the epochs of the rungs: first, first * factor, ..., and the budget last."""
    epochs, epoch = [], first
    while epoch < budget:
        epochs.append(epoch)
        epoch *= factor
    return [*epochs, budget]


@dataclass(frozen=True, kw_only=True)
class RungDecision:
    """What was decided at one rung, with the numbers it was decided on."""

    epoch: int
    values: Mapping[str, float]  # arm id -> its value at the rung, of the arms decided on
    cutoff: float | None  # lowest value that goes on; None when nothing was compared
    pruned: Sequence[str]
    held: Sequence[str]  # arms that hold the stage gate here; one is enough to end the step
    seen: int  # arms with a value at the rung when it was decided
    arrived: str | None = None  # the arm whose arrival decided this; None: the whole rung


@dataclass(frozen=True, kw_only=True)
class Ending:
    """Why and at which epoch an arm counts as ended."""

    reason: StopReason
    epoch: int


class Rule(Protocol):
    """Which arms of a step go on, from what they report."""

    endings: dict[str, Ending]

    def report(self, arm: str, epoch: int, value: float, *, holds: bool) -> list[RungDecision]:
        """Take the value of one arm at one epoch; return what this decided."""

    def end(self, arm: str, reason: StopReason) -> list[RungDecision]:
        """Take note that an arm ended by itself; return what this decided."""

    def limit(self, arm: str) -> int:
        """Return the last epoch that an arm may train before something is decided."""


class Rungs:
    """The rungs of one step, fed with reports in any order."""

    def __init__(
        self, arms: Sequence[str], *, exempt: Sequence[str], epochs: Sequence[int], factor: int
    ) -> None:
        self._arms, self._exempt = list(arms), set(exempt)
        self._epochs, self._factor = list(epochs), factor
        self._values: dict[str, dict[int, tuple[float, bool]]] = {arm: {} for arm in arms}
        self._gone: dict[str, Ending] = {}  # arms that ended by themselves, undecided rungs or not
        self._next = 0  # index of the next undecided rung
        self.endings: dict[str, Ending] = {}

    @property
    def budget(self) -> int:
        """Epochs of an arm that nothing stops."""
        return self._epochs[-1]

    @property
    def over(self) -> bool:
        """Whether every arm has ended."""
        return len(self.endings) == len(self._arms)

    def report(self, arm: str, epoch: int, value: float, *, holds: bool) -> list[RungDecision]:
        """Take the dev value of one arm at one epoch; return the rungs this decided."""
        self._values[arm][epoch] = (value, holds)
        return self._decide()

    def end(self, arm: str, reason: StopReason) -> list[RungDecision]:
        """Take note that an arm ended by itself (diverged, crashed); return the rungs this decided.

        Its values still count at the rungs that it passed, or else arrival would decide.
        """
        epoch = max(self._values[arm], default=0)
        self._gone.setdefault(arm, Ending(reason=reason, epoch=epoch))
        return self._decide()

    def limit(self, arm: str) -> int:
        """Return the epoch of the next undecided rung; 0 for an arm that has ended."""
        if arm in self.endings or self._next == len(self._epochs):
            return 0
        return self._epochs[self._next]

    def _decide(self) -> list[RungDecision]:
        decisions: list[RungDecision] = []
        while self._next < len(self._epochs):
            epoch = self._epochs[self._next]
            for arm, ending in self._gone.items():
                if epoch not in self._values[arm]:
                    self.endings.setdefault(arm, ending)
            live = [arm for arm in self._arms if arm not in self.endings]
            if not live or any(epoch not in self._values[arm] for arm in live):
                break
            decisions.append(self._decide_rung(epoch, live))
            self._next += 1
        return decisions

    def _decide_rung(self, epoch: int, live: list[str]) -> RungDecision:
        values = {arm: self._values[arm][epoch][0] for arm in live}
        judged = [arm for arm in live if arm not in self._exempt]
        held = [arm for arm in judged if self._values[arm][epoch][1]]
        pruned: list[str] = []
        cutoff = None
        last = epoch == self.budget
        if held or last:
            for arm in live:
                reason = StopReason.GATE_HELD if arm in held else StopReason.CANCELLED
                if last and arm not in held:
                    reason = StopReason.FINISHED
                self.endings[arm] = Ending(reason=reason, epoch=epoch)
        elif len(judged) > 1:
            # Ties go to the arm listed first, so that the cut never depends on arrival.
            ranked = sorted(judged, key=lambda arm: (-values[arm], self._arms.index(arm)))
            keep = max(1, len(judged) // self._factor)
            cutoff, pruned = values[ranked[keep - 1]], ranked[keep:]
            for arm in pruned:
                self.endings[arm] = Ending(reason=StopReason.PRUNED, epoch=epoch)
        return RungDecision(
            epoch=epoch, values=values, cutoff=cutoff, pruned=pruned, held=held, seen=len(live)
        )
