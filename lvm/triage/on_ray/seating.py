"""Who sits where: which trial may train, rest or end, read off the seats of one race.

queued -> training <-> held -> paused -> queued ...
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from lvm.core.config.run import ScheduleConfig
from lvm.triage.arm import ArmSpec
from lvm.triage.on_ray.seats import Move, Place, Seat
from lvm.triage.race import Race

IMPATIENT_SECONDS = 20.0  # a queued arm may take the process of a held one after so long


@dataclass
class Seating:
    """The seats of all trials, and what follows from them."""

    schedule: ScheduleConfig
    clock: Callable[[], float] = time.monotonic
    seats: dict[str, Seat] = field(default_factory=dict)  # by id of the trial
    capacity: int = 1  # arms that the cluster, as it is now, has room for side by side
    closing: bool = False
    _race: Race | None = None
    _processes: set[tuple[str, int]] = field(default_factory=set)  # node and pid, once known

    def resumable(self) -> str | None:
        """Return a paused trial whose arm may go on and has a slot."""
        if self._active() >= self._slots() or self.closing:
            return None
        ready = (t for t, s in self.seats.items() if s.place is Place.PAUSED and self._may_train(s))
        return next(ready, None)

    def known_epochs(self, trial: str) -> int:
        """Return how many epochs of a trial's arm are recorded."""
        arm = self.seats[trial].spec.id
        return self._race.known_epochs(arm) if self._race and arm in self._race.lanes else 0

    def idle_processes(self) -> dict[str, list[int]]:
        """Return the processes that train nothing now, by node: held, or handed on to an arm.

        One that hangs when it is handed on says nothing, and holds its room.
        """
        at_work = {(seat.node, seat.pid) for seat in self._at(Place.TRAINING)}
        found: dict[str, list[int]] = {}
        for node, pid in self._processes - at_work:
            found.setdefault(node, []).append(pid)
        return found

    def moves(self) -> list[tuple[Move, str]]:
        """Return what is to be done now."""
        over = [trial for trial, seat in self.seats.items() if self._is_over(seat)]
        held = [t for t, s in self.seats.items() if s.place is Place.HELD and t not in over]
        free = max(0, self._slots() - self._active())
        ready = [trial for trial in held if self._may_train(self.seats[trial])][:free]
        idle = [trial for trial in held if trial not in ready]
        idle.sort(key=lambda trial: self._lives(self.seats[trial]))  # those that have ended first
        found = [(Move.STOP, trial) for trial in over] + [(Move.TRAIN, trial) for trial in ready]
        for trial in idle[: self._to_free(len(held), len(ready))]:
            move = Move.PAUSE if self._lives(self.seats[trial]) else Move.STOP
            found.append((move, trial))
        for seat in self._at(Place.QUEUED):
            seat.staged = True
        return found

    def _at(self, *places: Place) -> list[Seat]:
        return [seat for seat in self.seats.values() if seat.place in places]

    def _active(self) -> int:
        return len(self._at(Place.QUEUED, Place.TRAINING, Place.DYING))

    def _slots(self) -> int:
        """Return how many arms may be at work: no more than fit, unless nodes can still come."""
        most = self.schedule.max_concurrent_arms
        return most if self.schedule.autoscaling else max(1, min(most, self.capacity))

    def _lives(self, seat: Seat) -> bool:
        """Whether the arm of a trial is in this race and has not ended."""
        race, arm = self._race, seat.spec.id
        if race is None or self._searched_before(seat):
            return False
        return arm in race.lanes and not race.stopped(arm)

    def _searched_before(self, seat: Seat) -> bool:
        """Whether a trial has searched its checkpoint for an earlier race.

        It has nothing more to say, though the same arm may be asked again, also about the test
        split. One that trains goes on where it is.
        """
        return seat.spec.source is not None and seat.race is not self._race

    def _may_train(self, seat: Seat) -> bool:
        race = self._race
        return race is not None and self._lives(seat) and race.may_train(seat.spec.id)

    def _fresh(self) -> ArmSpec | None:
        """Return the arm that may train, has no trial, and has come least far."""
        race = self._race
        if race is None:
            return None
        seats = self.seats.values()
        seated = {seat.spec.id for seat in seats if not self._searched_before(seat)}
        free = [s for s in race.waiting if s.id not in seated and race.may_train(s.id)]
        return min(free, key=lambda spec: race.known_epochs(spec.id), default=None)

    def _is_over(self, seat: Seat) -> bool:
        """Whether a trial is no longer needed: its arm has ended and it holds no process of use."""
        if self._lives(seat):
            return False
        if seat.place is Place.TRAINING:
            # Alone, its epoch comes in and its process is kept. Workers that are killed as they end
            # are started again by Ray Train, which then holds their room for ever.
            return not seat.alone and not seat.ends_itself
        return seat.place in (Place.QUEUED, Place.PAUSED) or not seat.alone

    def _to_free(self, held: int, ready: int) -> int:
        """Return how many held trials must give their processes to those that are queued.

        Only to those that Tune has staged: it keeps a free process for nobody else.
        """
        queued = [seat for seat in self._at(Place.QUEUED) if seat.staged]
        if any(not seat.alone for seat in queued):
            return held  # workers ask for room of their own
        short = self._active() + held - self.capacity
        impatient = sum(self.clock() - seat.since > IMPATIENT_SECONDS for seat in queued)
        return max(0, min(held - ready, max(min(short, len(queued)), impatient)))
