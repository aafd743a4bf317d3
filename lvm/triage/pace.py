"""How fast the running step trains, and how long it has left, kept up event by event.

Every event costs the same however many came before: sums are carried along, and the arm that needs
longest alone lies on top of a heap, whose entries are checked when they come up.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from lvm.triage.events import (
    ArmEnded,
    ArmsAdded,
    Confirmed,
    Decision,
    Epoch,
    Event,
    Phase1Judged,
    Repeated,
    Resumed,
    RunStarted,
    StepEnded,
    StepStarted,
)
from lvm.triage.events.parts import Arm

AFTER_A_STEP = (Phase1Judged, StepEnded, Confirmed, Repeated, Decision)
NUM_GAPS = 3  # epochs of an arm that say how fast it is now


class Stretch:
    """The epochs that a step has trained since it started or was resumed."""

    def __init__(self) -> None:
        self.num_epochs = 0
        self.recent: dict[str, deque[Epoch]] = {}  # arm -> its latest epochs here
        self.busy = 0.0  # seconds that were trained, without the start of the workers
        self._first: Epoch | None = None

    def add(self, event: Epoch) -> None:
        """Take the next epoch."""
        self._first = self._first or event
        self.busy = event.at - self._first.at + self._first.seconds
        self.num_epochs += 1
        self.recent.setdefault(event.arm, deque(maxlen=NUM_GAPS + 1)).append(event)

    def gap(self, arm: str) -> float:
        """Return the seconds between the latest epochs of one arm; 0 where it has run none."""
        own = list(self.recent.get(arm, ()))
        if len(own) < 2:
            return own[0].seconds if own else 0.0
        return (own[-1].at - own[0].at) / (len(own) - 1)


class Pace:
    """How fast the arms of the running step train, and the epochs that they have left."""

    def __init__(self, started: StepStarted, epochs_run: Mapping[str, int]) -> None:
        self.budgets: dict[str, int] = {}
        self.left: dict[str, int] = {}  # arm that has not ended -> epochs, without those at 0
        self.sum_left = 0
        self.num_done = 0
        self._busy = 0.0  # in the stretches before the latest one
        self._stretch = Stretch()
        self._slowest: list[tuple[float, str]] = []  # heap of (-seconds an arm needs alone, arm)
        self._resumed = False
        self.add_arms(started.arms, epochs_run)

    def add_arms(self, arms: Sequence[Arm], epochs_run: Mapping[str, int]) -> None:
        """Take arms of the step that have not started."""
        for spec in arms:
            self.budgets[spec.id] = budget(spec)
            self.set_left(spec.id, self.budgets[spec.id] - epochs_run.get(spec.id, 0))

    def set_left(self, arm: str, epochs: int) -> None:
        """Note how many epochs an arm has left, and that it has ended when these are 0."""
        self.sum_left += max(0, epochs) - self.left.pop(arm, 0)
        if epochs > 0:
            self.left[arm] = epochs

    def resume(self) -> None:
        """Note that the run was interrupted here."""
        self._resumed = True

    def epoch(self, event: Epoch) -> None:
        """Take an epoch that was trained."""
        if self._resumed and self._stretch.num_epochs:
            self._busy += self._stretch.busy
            self._stretch, self._slowest = Stretch(), []
        self._resumed = False
        self._stretch.add(event)
        self.num_done += 1
        if event.arm in self.left:
            heapq.heappush(self._slowest, (-self._alone(event.arm), event.arm))

    def _alone(self, arm: str) -> float:
        return self._stretch.gap(arm) * self.left.get(arm, 0)

    @property
    def seconds_left(self) -> float | None:
        """Seconds from the last event; None before the first epoch."""
        if not self.sum_left:
            return 0.0
        if not self.num_done:
            return None
        while self._slowest and -self._slowest[0][0] != self._alone(self._slowest[0][1]):
            heapq.heappop(self._slowest)  # what was true of an arm before its latest event
        together = (self._busy + self._stretch.busy) / self.num_done * self.sum_left
        alone = -self._slowest[0][0] if self._slowest else 0.0
        return round(max(together, alone), 1)


class Progress:
    """The running step of a triage, kept up event by event, each at the same small cost."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.gate: float | None = None
        self._step: Pace | None = None
        self._epochs: dict[str, int] = {}  # arm -> its latest epoch, whatever step it ran in
        for event in events:
            self.take(event)

    def take(self, event: Event) -> None:
        """Take the next event of the journal."""
        match event:
            case RunStarted():
                self.gate = event.config.gates.stage_eval_cosine
            case StepStarted():
                self._step = Pace(event, self._epochs)
            case ArmsAdded() if self._step is not None:
                self._step.add_arms(event.arms, self._epochs)
            case Resumed() if self._step is not None:
                self._step.resume()
            case Epoch():
                self._take_epoch(event)
            case ArmEnded() if self._step is not None and event.arm in self._step.left:
                self._step.set_left(event.arm, 0)
            case Phase1Judged() | StepEnded() | Confirmed() | Repeated() | Decision():
                self._step = None

    def _take_epoch(self, event: Epoch) -> None:
        arm, epoch = event.arm, event.epoch
        self._epochs[arm] = max(epoch, self._epochs.get(arm, 0))
        if self._step is None:
            return
        if arm in self._step.left:
            self._step.set_left(arm, self._step.budgets[arm] - self._epochs[arm])
        if epoch > 0:
            self._step.epoch(event)

    def of(self, arm: str) -> int | None:
        """Return the epochs that an arm of the running step may train."""
        return None if self._step is None else self._step.budgets.get(arm)

    @property
    def seconds_left(self) -> float | None:
        """Seconds that training needs to the end of the running step.

        Counted from the last event, from the rate of the step's own epochs. Pruning and gates may
        end it sooner. None between two steps and before the first epoch of a step.
        """
        return None if self._step is None else self._step.seconds_left


def budget(spec: Arm) -> int:
    """Return the epochs an arm may train; 0 for an arm that only searches another one's vectors."""
    return 0 if spec.source is not None else spec.recipe.training.epochs
