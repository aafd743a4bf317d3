"""The arms of one step side by side: reports in, journal events and endings out.

An executor (this process, or Ray Tune) feeds a Race; the Race applies the rungs, writes the journal
and answers whether an arm should stop. Executors therefore never decide anything.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from msgspec.structs import replace

from lvm.core.config.run import ScheduleConfig
from lvm.core.metrics import METRICS
from lvm.core.records import ABSENT, StopReason, Verdict
from lvm.data.windows import Dataset
from lvm.triage.arm import ArmSpec, learns_its_space
from lvm.triage.asha import AsyncRungs
from lvm.triage.events import (
    ArmEnded,
    ArmRestarted,
    Epoch,
    Event,
    Rung,
    Waiting,
    event_of,
)
from lvm.triage.rungs import Ending, Rule, RungDecision, Rungs, rung_epochs
from lvm.triage.spent import OUT_OF_TIME
from lvm.triage.step import Role

BY_ITSELF = (StopReason.DIVERGED, StopReason.NOT_EVALUABLE, *ABSENT)
Note = Callable[[Event], object]  # writes to the journal and tells the screen


@dataclass
class Lane:
    """One arm of a race."""

    spec: ArmSpec
    records: dict[int, Epoch] = field(default_factory=dict)
    ending: Ending | None = None
    detail: str = ""

    @property
    def train_seconds(self) -> float:
        """Seconds of training spent, including epochs run after the arm was decided."""
        return float(sum(epoch.seconds for epoch in self.records.values()))


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What is special about a race."""

    metric: str = ""  # ranks its arms at the rungs; "": the schedule's
    rungs: bool = True  # False: no arm is stopped early
    ends_at_gate: bool = True  # False: the best arm is sought, and none that holds the gate ends it
    seconds: float = 0.0  # after which no arm goes on; 0: no limit
    round: int = 1  # of a step that proposes its arms in rounds


PLAIN = Terms()
RULES: dict[str, Callable[..., Rule]] = {"synchronous": Rungs, "asynchronous": AsyncRungs}


class Race:
    """The arms of one step, compared at shared rungs."""

    def __init__(
        self,
        step: str,
        specs: Sequence[ArmSpec],
        note: Note,
        *,
        epochs: Sequence[int],
        schedule: ScheduleConfig,
        terms: Terms = PLAIN,
    ) -> None:
        self.step, self._note = step, note
        self.lanes = {spec.id: Lane(spec) for spec in specs}
        trained = [spec for spec in specs if spec.source is None]
        judged = [spec for spec in trained if spec.role is Role.ARM]
        self._deadline = math.inf
        self._terms, self.metric = terms, rung_metric(judged, schedule, terms.metric)
        self._sign = 1.0 if METRICS.get(self.metric).higher_is_better else -1.0
        self._rungs = RULES[schedule.rule](
            [s.id for s in trained],
            exempt=[s.id for s in trained if s.role is not Role.ARM],
            epochs=epochs,
            factor=schedule.reduction_factor,
        )

    def start(self, seconds_spent: float = 0.0) -> None:
        """Let the time of the race run; an earlier process has spent some of it."""
        if self._terms.seconds:
            self._deadline = time.monotonic() + self._terms.seconds - seconds_spent
            self._end_in_time()

    @property
    def waiting(self) -> list[ArmSpec]:
        """The arms that still have epochs to run."""
        return [
            lane.spec
            for lane in self.lanes.values()
            if lane.ending is None and not self.complete(lane.spec.id)
        ]

    @property
    def over(self) -> bool:
        """Whether every arm has ended."""
        return all(lane.ending is not None for lane in self.lanes.values())

    def stopped(self, arm: str) -> bool:
        """Whether the arm is decided and need not continue."""
        return self.lanes[arm].ending is not None

    def complete(self, arm: str) -> bool:
        """Whether the arm has reported its last epoch."""
        spec = self.lanes[arm].spec
        last = 0 if spec.source is not None else spec.recipe.training.epochs
        return last in self.lanes[arm].records

    def may_train(self, arm: str) -> bool:
        """Whether the arm may train its next epoch now, or wait for what a rung decides."""
        lane = self.lanes[arm]
        if lane.ending is not None or self.complete(arm):
            return False
        if lane.spec.source is not None:
            return True
        return max(lane.records, default=0) < self._rungs.limit(arm)

    def known_epochs(self, arm: str) -> int:
        """Return how many epochs of an arm are recorded."""
        return max(self.lanes[arm].records, default=0)

    def record(self, epoch: Epoch) -> None:
        """Take one epoch of one arm (again after a resume: the same numbers)."""
        lane, arm = self.lanes[epoch.arm], epoch.arm
        if epoch.epoch in lane.records:
            return
        # A process that goes on with its arm for another step still names the first one.
        epoch = replace(epoch, at=0.0, step=self.step, name=lane.spec.name)
        lane.records[epoch.epoch] = epoch
        if lane.ending is None:
            self._note(epoch)
        if lane.spec.source is not None:
            self._end(lane, Ending(reason=StopReason.FINISHED, epoch=epoch.epoch))
            return
        measured = epoch.measured(self.metric)
        value = self._sign * (math.nan if measured is None else measured)
        holds = self._terms.ends_at_gate and epoch.stage == Verdict.PASS
        self._apply(self._rungs.report(arm, epoch.epoch, value, holds=holds))
        self._end_in_time()

    def _end_in_time(self) -> None:
        """End every arm once the time is over; each counts at the epoch that it has reached."""
        if time.monotonic() >= self._deadline:
            for arm, lane in self.lanes.items():
                if not lane.detail:  # else it broke, and waits for its rung
                    self.failed(arm, StopReason.CANCELLED, OUT_OF_TIME)

    def failed(self, arm: str, reason: StopReason, detail: str) -> None:
        """Take note that an arm ended by itself without finishing."""
        lane = self.lanes[arm]
        if lane.ending is not None:
            return
        lane.detail = detail
        if lane.spec.source is not None:
            self._end(lane, Ending(reason=reason, epoch=0))
            return
        self._apply(self._rungs.end(arm, reason))

    def restarted(self, arm: str, detail: str, *, attempt: int) -> None:
        """Record that an arm restarts after losing its process or node."""
        lane = self.lanes[arm]
        self._note(
            ArmRestarted(
                arm=arm,
                step=self.step,
                name=lane.spec.name,
                attempt=attempt,
                epoch=self.known_epochs(arm),
                detail=detail,
            )
        )

    def waits(self, detail: str) -> None:
        """Take note that arms wait for room that the cluster does not have now."""
        self._note(Waiting(step=self.step, detail=detail))

    def _apply(self, decisions: Iterable[RungDecision]) -> None:
        for decision in decisions:
            self._note(self._rung(decision))
        for arm, ending in self._rungs.endings.items():
            lane = self.lanes[arm]
            if lane.ending is None:
                self._end(lane, ending)

    def _rung(self, decision: RungDecision) -> Rung:
        """Return what a rung decided, its values as they were measured."""
        cutoff = None if decision.cutoff is None else self._sign * decision.cutoff
        values = {arm: self._sign * value for arm, value in decision.values.items()}
        told = {**vars(decision), "values": values, "cutoff": cutoff}
        about = {"step": self.step, "round": self._terms.round, "metric": self.metric}
        return event_of(Rung, **about, **told)

    def _end(self, lane: Lane, ending: Ending) -> None:
        lane.ending = ending
        out_of_time = ending.reason is StopReason.CANCELLED and lane.detail == OUT_OF_TIME
        if ending.reason not in BY_ITSELF and not out_of_time:
            lane.detail = ""  # it broke only after the rung that decided it
        self._note(
            ArmEnded(
                arm=lane.spec.id,
                step=self.step,
                name=lane.spec.name,
                reason=ending.reason,
                epoch=ending.epoch,
                detail=lane.detail,
            )
        )


def rung_metric(judged: Sequence[ArmSpec], schedule: ScheduleConfig, wanted: str = "") -> str:
    """Return the metric by which the arms of a step are ranked at its rungs: the wanted one if any.

    A cosine in a learned space does not compare with one in another space: there a retrieval
    metric decides, which means the same everywhere.
    """
    metric = wanted or schedule.rung_metric
    learned = any(learns_its_space(spec) for spec in judged)
    if learned and not (wanted and METRICS.get(wanted).across_spaces):
        return schedule.metric_across_spaces
    return metric


def race_of(
    step: str,
    specs: Sequence[ArmSpec],
    note: Note,
    *,
    budget: int,
    schedule: ScheduleConfig,
    terms: Terms = PLAIN,
) -> Race:
    """Return the race of one step."""
    epochs = rung_epochs(schedule.first_rung, budget, schedule.reduction_factor)
    if not terms.rungs or all(spec.role is not Role.ARM for spec in specs):
        epochs = [budget]
    return Race(step, specs, note, epochs=epochs, schedule=schedule, terms=terms)


class Executor(Protocol):
    """Where the arms of a race run."""

    elsewhere: bool  # in other processes, so that this one has time for other work

    def run(self, race: Race, dataset: Dataset) -> None:
        """Run every arm of the race until it has ended."""

    def describe(self) -> str:
        """Return one line that says where arms run."""
