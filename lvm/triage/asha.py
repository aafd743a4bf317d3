"""ASHA's asynchronous rule, for steps of many arms: nobody waits for the slowest.

Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning", Algorithm 2, in the form
that promotes: an arm stops at every rung and goes on as soon as it is among the best 1/eta of those
that have reached the rung so far. Which arms go on therefore depends on the order of arrival; the
journal keeps that order and the cutoff of each decision, and a resumed run takes both from it.

A rung is closed once nobody can reach it any more. Then at least one arm goes on, so that a step
always trains one to its budget, and the others are pruned.
"""

from __future__ import annotations

from collections.abc import Sequence

from lvm.core.records import StopReason
from lvm.triage.rungs import Ending, RungDecision


class AsyncRungs:
    """The rungs of one step, decided arm by arm."""

    def __init__(
        self, arms: Sequence[str], *, exempt: Sequence[str], epochs: Sequence[int], factor: int
    ) -> None:
        self._arms, self._exempt = list(arms), set(exempt)
        self._epochs, self._factor = list(epochs), factor
        self._values: dict[str, dict[int, float]] = {arm: {} for arm in arms}
        self._rung = dict.fromkeys(arms, 0)  # arm -> index of the rung that it trains towards
        self._closed = [False] * len(self._epochs)
        self._held: dict[str, int] = {}  # arm -> epoch of the rung where it holds the stage gate
        self.endings: dict[str, Ending] = {}

    def limit(self, arm: str) -> int:
        """Return the epoch of the rung that an arm trains towards; 0 for one that has ended.

        Once an arm holds the gate the others stop, and the control trains as far as that arm has.
        """
        if arm in self.endings:
            return 0
        if self._held:
            return max(self._held.values()) if arm in self._exempt else 0
        return self._epochs[-1] if arm in self._exempt else self._epochs[self._rung[arm]]

    def report(self, arm: str, epoch: int, value: float, *, holds: bool) -> list[RungDecision]:
        """Take the value of one arm at one epoch; return what this decided."""
        self._values[arm][epoch] = value
        if arm in self.endings or (arm not in self._exempt and epoch not in self._epochs):
            return []
        if arm not in self._exempt and holds:
            self._held[arm] = epoch
        if self._held:
            return self._end_where_held()
        if epoch == self._epochs[-1]:
            self.endings[arm] = Ending(reason=StopReason.FINISHED, epoch=epoch)
        if arm in self._exempt:
            return []
        return [*self._decide(self._epochs.index(epoch), arm), *self._close()]

    def end(self, arm: str, reason: StopReason) -> list[RungDecision]:
        """Take note that an arm ended by itself; its values still count where it got to."""
        epoch = max(self._values[arm], default=0)
        self.endings.setdefault(arm, Ending(reason=reason, epoch=epoch))
        return self._end_where_held() if self._held else self._close()

    def _end_where_held(self) -> list[RungDecision]:
        """End the step once the control can be compared with the arm that holds the gate."""
        needed = max(self._held.values())
        waiting = [a for a in self._exempt if a not in self.endings]
        if any(needed not in self._values[arm] for arm in waiting):
            return []
        held = list(self._held)
        for arm in self._arms:
            reason = StopReason.GATE_HELD if arm in self._held else StopReason.CANCELLED
            epoch = self._held.get(arm, max(self._values[arm], default=0))
            if arm in self._exempt:
                epoch = needed
            self.endings.setdefault(arm, Ending(reason=reason, epoch=epoch))
        return [self._decision(needed, held, cutoff=None, pruned=(), held=held)]

    def _decide(self, rung: int, arrived: str) -> list[RungDecision]:
        """Let go on whoever is among the best so far; a new arrival may lift somebody else."""
        if rung == len(self._epochs) - 1:
            return []
        ranked = self._ranked(rung)
        best = ranked[: len(ranked) // self._factor]
        risen = [arm for arm in best if arm not in self.endings and self._rung[arm] == rung]
        for arm in risen:
            self._rung[arm] = rung + 1
        cutoff = self._values[best[-1]][self._epochs[rung]] if best else None
        about = list(dict.fromkeys([arrived, *risen]))
        epoch = self._epochs[rung]
        return [self._decision(epoch, about, cutoff=cutoff, pruned=(), held=(), arrived=arrived)]

    def _close(self) -> list[RungDecision]:
        """Decide, from the first, every rung that nobody can reach any more."""
        decisions = []
        for rung, epoch in enumerate(self._epochs[:-1]):
            if self._closed[rung]:
                continue
            waiting = [a for a in self._judged() if self._rung[a] <= rung]
            if any(epoch not in self._values[arm] for arm in waiting):
                break
            self._closed[rung] = True
            keep = self._kept(rung, waiting)
            pruned = [arm for arm in waiting if arm not in keep]
            for arm in waiting:
                if arm in keep:
                    self._rung[arm] = rung + 1
            for arm in pruned:
                self.endings[arm] = Ending(reason=StopReason.PRUNED, epoch=epoch)
            if waiting:
                cutoff = self._values[keep[-1]][epoch]
                decisions.append(
                    self._decision(epoch, waiting, cutoff=cutoff, pruned=pruned, held=())
                )
        return decisions

    def _kept(self, rung: int, waiting: Sequence[str]) -> list[str]:
        """Return the best of a closed rung: at least one that can still go on, or already has."""
        ranked = self._ranked(rung)
        keep = ranked[: max(1, len(ranked) // self._factor)]
        beyond = any(self._rung[arm] > rung for arm in self._judged())
        if waiting and not beyond and not set(keep) & set(waiting):
            keep.append(next(arm for arm in ranked if arm in waiting))
        return keep

    def _judged(self) -> list[str]:
        return [a for a in self._arms if a not in self._exempt and a not in self.endings]

    def _ranked(self, rung: int) -> list[str]:
        """Return the arms with a value at a rung, the best first; ties go to the arm listed first.

        Arms that diverged or broke later were there, and keep their place.
        """
        epoch = self._epochs[rung]
        there = [a for a in self._arms if a not in self._exempt and epoch in self._values[a]]
        return sorted(there, key=lambda arm: -self._values[arm][epoch])

    def _decision(
        self,
        epoch: int,
        arms: Sequence[str],
        *,
        cutoff: float | None,
        pruned: Sequence[str],
        held: Sequence[str],
        arrived: str | None = None,
    ) -> RungDecision:
        seen = sum(epoch in self._values[a] for a in self._arms if a not in self._exempt)
        values = {arm: self._values[arm][epoch] for arm in arms if epoch in self._values[arm]}
        return RungDecision(
            epoch=epoch,
            values=values,
            cutoff=cutoff,
            pruned=pruned,
            held=held,
            seen=seen,
            arrived=arrived,
        )
