"""How much each key of a sweep has to do with what its arms reach.

The share of a key is that part of the variance of the metric that a model of this key alone
explains: the mean of each of its values, or of up to five equal groups of arms along a range.
Chance explains something too, the more groups the more, so what it would explain is taken off
(epsilon squared; Kelley 1935, "An unbiased correlation ratio measure"). What no share covers is how
keys act together, and noise.

Arms are compared at the last epoch that all of them reached, which is the first rung where some
were pruned: nobody is better for having trained longer. An arm that diverged or broke before its
first epoch has no value and no part in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from statistics import fmean

from lvm.core.config.steps import Sweep, Value
from lvm.triage.events import Epoch, StepStarted
from lvm.triage.state import RunState

FEWEST = 8  # arms below which a share says nothing
GROUPS = 5  # of arms along a range
IN_GROUP = 3  # arms of such a group, at least


@dataclass(frozen=True, kw_only=True)
class SweptArm:
    """An arm of a sweep, and what it reached."""

    name: str
    changes: Mapping[str, Value]
    value: float


@dataclass(frozen=True, kw_only=True)
class Swept:
    """A sweep as it was run."""

    sweep: Sweep
    epoch: int  # at which the arms are compared
    arms: Sequence[SweptArm]  # those with a value
    num_without: int  # arms that left none

    def share(self, key: str) -> float | None:
        """Return the share of the variance that a key explains; None where too few arms tell."""
        if len(self.arms) < FEWEST:
            return None
        groups = _groups(key, self.arms)
        return explained(groups) if len(groups) > 1 else None

    @property
    def shares(self) -> dict[str, float]:
        """The share of every key that has one, the largest first."""
        found = {key: share for key in self.sweep.keys if (share := self.share(key)) is not None}
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def swept(state: RunState, step: str) -> Swept | None:
    """Return what the arms of a step reached; None without a sweep or without a value."""
    first, started = state.started, state.last(StepStarted, step=step)
    own = [s.sweep for s in first.config.steps if s.name == step] if first is not None else []
    if started is None or not own or own[0] is None:
        return None
    sweep = own[0]
    specs = [spec for spec in started.arms if spec.role == "arm"]
    curves = {spec.id: _curve(state, spec.id, sweep.metric) for spec in specs}
    last = min((max(curve) for curve in curves.values() if curve), default=0)
    arms = [
        SweptArm(name=spec.name, changes=spec.changes, value=curves[spec.id][last])
        for spec in specs
        if last in curves[spec.id]
    ]
    if not arms:
        return None
    return Swept(sweep=sweep, epoch=last, arms=arms, num_without=len(specs) - len(arms))


def explained(groups: Sequence[Sequence[float]]) -> float:
    """Return the share of the variance that lies between groups, without what chance explains."""
    every = [value for group in groups for value in group]
    middle, inner = fmean(every), len(every) - len(groups)
    total = sum((value - middle) ** 2 for value in every)
    within = sum((value - fmean(group)) ** 2 for group in groups for value in group)
    if total == 0 or inner == 0:
        return 0.0
    by_chance = (len(groups) - 1) * within / inner
    return max(0.0, (total - within - by_chance) / total)


def _curve(state: RunState, arm: str, metric: str) -> dict[int, float]:
    events = state.of(Epoch, arm=arm)
    return {e.epoch: value for e in events if (value := e.measured(metric)) is not None}


def _groups(key: str, arms: Sequence[SweptArm]) -> list[list[float]]:
    """Return the values of the arms in groups that are alike in one key."""
    ordered = sorted(arms, key=lambda arm: _place(arm.changes[key]))
    same = [list(g) for _, g in groupby(ordered, key=lambda arm: _place(arm.changes[key]))]
    if len(same) > GROUPS and all(isinstance(arm.changes[key], int | float) for arm in arms):
        same = _evenly(ordered)
    return [[arm.value for arm in group] for group in same]


def _evenly(ordered: Sequence[SweptArm]) -> list[list[SweptArm]]:
    """Cut arms in order into groups of about one size."""
    count = max(2, min(GROUPS, len(ordered) // IN_GROUP))
    ends = [round(i * len(ordered) / count) for i in range(count + 1)]
    return [list(ordered[a:b]) for a, b in pairwise(ends)]


def _place(value: Value) -> tuple[bool, float, str]:
    """Return what numbers are ordered by, and all else by its text after them."""
    if isinstance(value, int | float):
        return False, float(value), ""
    return True, 0.0, repr(value)
