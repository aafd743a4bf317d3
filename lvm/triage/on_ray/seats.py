"""The states of trials, and what can be done with them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from lvm.core.records import StopReason
from lvm.triage.arm import ArmSpec
from lvm.triage.race import Race


class Place(Enum):
    """The state of a trial."""

    QUEUED = auto()  # handed to Tune; it has no process yet
    TRAINING = auto()  # an epoch is under way
    HELD = auto()  # it has a process and nothing to do
    PAUSED = auto()  # it has no process; its arm goes on later
    DYING = auto()  # it was killed, and Tune has not noticed yet


class Move(Enum):
    """What the scheduler is to do with a trial."""

    TRAIN = auto()
    PAUSE = auto()
    STOP = auto()
    KILL = auto()
    SWEEP = auto()  # of no trial: end the processes that hang in their start


@dataclass
class Seat:
    """One trial."""

    spec: ArmSpec
    since: float  # when it came to its place, or gave its last sign of life
    place: Place = Place.QUEUED
    node: str = ""
    pid: int = 0
    waits_for_workers: bool = False
    stack: str | None = None  # of a trial that was killed as stuck
    ends_itself: bool = False  # its workers have finished, and give their room back
    race: Race | None = None  # in which it was seated
    staged: bool = False  # Tune has asked for its process, and takes over one that comes free

    @property
    def alone(self) -> bool:
        """Whether the trial trains in its own process."""
        return self.spec.workers == 1 or self.spec.source is not None


@dataclass
class Breaks:
    """How often an arm broke since its last new epoch."""

    epoch: int = 0
    count: int = 0
    detail: str = ""
    stuck: int = 0

    def verdict(
        self, detail: str, *, stuck: bool, gone: bool, max_restarts: int
    ) -> StopReason | None:
        """Return why an arm that broke again is given up, or None where it is tried again."""
        if stuck:
            return StopReason.STUCK if self.stuck > 1 else None
        if not gone and detail == self.detail:  # twice the same, at the same place
            return StopReason.CRASHED
        if self.count < max_restarts:
            return None
        return StopReason.LOST if gone else StopReason.CRASHED
