"""Which arm gets a slot next. Decides, and knows nothing of Ray: the scheduler carries it out.

A trial is one process that runs an arm. It trains until its arm reaches an undecided rung; then
it is held, with its process, in case its arm goes on. When another arm wants the room, a held trial
is paused (its arm goes on later, from its checkpoint) or, if its arm has ended, stopped; Tune hands
the process to the next arm.

    queued -> training <-> held -> paused -> queued ...

The main thread serves one race after another and waits; all else is called from Tune's thread.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lvm.core.records import StopReason
from lvm.training.own.process import LOG, last_lines
from lvm.triage.arm import ArmSpec
from lvm.triage.events import Epoch
from lvm.triage.on_ray.reports import Ended, Over, Report, Started, Workers
from lvm.triage.on_ray.seating import Seating
from lvm.triage.on_ray.seats import Breaks, Move, Place, Seat
from lvm.triage.on_ray.watch import Watch
from lvm.triage.race import Race

POLL_SECONDS = 0.2


@dataclass
class Desk(Seating):
    """Hands the arms of a race to trials, one race after another."""

    def __post_init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._watch = Watch(self.schedule)
        self._breaks: dict[str, Breaks] = {}
        self._error: BaseException | None = None

    # --- the main thread -------------------------------------------------------------------------

    def serve(self, race: Race, check: Callable[[], None] = lambda: None) -> None:
        """Run a race to its end; raise what went wrong on the way. `check` is asked meanwhile."""
        with self._changed:
            self._race = race
            self._breaks.clear()
            self._watch = Watch(self.schedule)
            self._wake()
            try:
                while not race.over and self._error is None:
                    self._changed.wait(POLL_SECONDS)
                    check()
            finally:
                self._race = None
            if self._error is not None:
                raise self._error

    def close(self) -> None:
        """Let Tune end; what still trains is stopped."""
        with self._changed:
            self.closing = True
            self._wake()

    # --- Tune's thread ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Hold the lock; what is raised inside reaches the main thread and ends the run."""
        with self._changed:
            try:
                yield
            except Exception as error:
                self.fail(error)

    def fail(self, error: BaseException) -> None:
        """End the run with an error, which the main thread raises."""
        with self._changed:
            self._error = self._error or error
            self.closing = True
            self._wake()

    def next_arm(self, trial: str) -> tuple[ArmSpec, int] | None:
        """Return an arm for a new trial, and how many of its epochs are known.

        Waits while there is nothing at all to do. None: nothing for now.
        """
        with self._changed:
            while not self.seats and not self.closing and self._fresh() is None:
                self._changed.wait(POLL_SECONDS)
            spec = self._fresh()
            if spec is None or self.closing or self._active() >= self._slots():
                return None
            if any(self._may_train(seat) for seat in self._at(Place.PAUSED)):
                return None  # those that have trained already come first
            assert self._race is not None  # it has an arm
            self.seats[trial] = Seat(spec, self.clock(), race=self._race)
            return spec, self._race.known_epochs(spec.id)

    def rest(self) -> None:
        """Wait a moment when no trial is at work: Tune's loop would otherwise spin."""
        with self._changed:
            if not self._at(Place.TRAINING, Place.QUEUED, Place.DYING) and not self.closing:
                self._changed.wait(POLL_SECONDS / 2)

    def take(self, trial: str, report: Report) -> Move | None:
        """Take what a trial reports; return TRAIN, or None where it is held."""
        seat, race = self.seats[trial], self._race
        if isinstance(report, Workers):
            self._workers(seat, waits=report.waits)
            return Move.TRAIN
        if isinstance(report, Started):
            seat.node, seat.pid = report.node, report.pid
            self._processes.add((report.node, report.pid))
        elif race is not None and seat.spec.id in race.lanes and not self._searched_before(seat):
            self._told(seat, race, report)
        goes_on = self._may_train(seat) or (seat.ends_itself and not isinstance(report, Over))
        self._sign(seat, Place.TRAINING if goes_on else Place.HELD)
        self._wake()
        return Move.TRAIN if goes_on else None

    def _told(self, seat: Seat, race: Race, report: Epoch | Ended | Over) -> None:
        """Tell the race what came of an arm."""
        arm = seat.spec.id
        match report:
            case Ended():
                race.failed(arm, report.reason, report.detail)
            case Epoch():
                self._watch.epoch(arm, self.clock() - seat.since)
                race.record(report)
                ending = race.lanes[arm].ending
                finished = ending is not None and ending.reason is StopReason.FINISHED
                seat.ends_itself = finished and not seat.alone
            case Over() if self._may_train(seat):
                race.failed(arm, StopReason.CRASHED, "it ended before its last epoch")

    def broke(self, trial: str, detail: str, *, gone: bool) -> None:
        """Take note that a trial broke; `gone`: its process or its node went away."""
        seat = self.seats.pop(trial, None)
        if seat is None or not self._may_train(seat):
            return
        assert self._race is not None  # the arm is one of its
        race, arm = self._race, seat.spec.id
        breaks = self._breaks.setdefault(arm, Breaks())
        if (epoch := race.known_epochs(arm)) > breaks.epoch:
            breaks.epoch, breaks.count, breaks.detail = epoch, 0, ""
        if seat.stack is not None:
            breaks.stuck += 1
            detail = f"it completed no epoch for too long; {_where_it_hangs(seat)}"
        reason = breaks.verdict(
            detail,
            stuck=seat.stack is not None,
            gone=gone,
            max_restarts=self.schedule.max_restarts,
        )
        breaks.count, breaks.detail = breaks.count + 1, detail
        if reason is not None:
            race.failed(arm, reason, detail)
        else:
            race.restarted(arm, detail, attempt=breaks.count)
        self._wake()

    def moved(self, trial: str, place: Place | None) -> None:
        """Take note of what the scheduler has done; None: the trial is no more."""
        if place is None:
            self.seats.pop(trial, None)
        elif trial in self.seats:
            self._sign(self.seats[trial], place)

    def watch(self) -> list[tuple[Move, str]]:
        """Return the trials to kill as stuck; say what waits for room, and end what waits long.

        What waits may wait for a process that hangs before it could say who it is.
        """
        if self._race is None:
            return []
        now, race = self.clock(), self._race
        training = [s for s in self._at(Place.TRAINING) if not s.waits_for_workers]
        waiting = {
            t: s
            for t, s in self.seats.items()
            if s.place is Place.QUEUED or (s.place is Place.TRAINING and s.waits_for_workers)
        }
        if training:  # what waits has no room because this run uses it
            for seat in waiting.values():
                seat.since = now
        for seat in waiting.values():
            if self._watch.waited_long(now - seat.since):
                race.failed(seat.spec.id, StopReason.UNPLACED, self._watch.why(seat.spec))
        late = [(s.spec, now - s.since) for s in waiting.values()]
        if words := self._watch.waiting(late, now):
            race.waits(words)
        self._wake()
        found = [
            (Move.KILL, trial)
            for trial, seat in self.seats.items()
            if seat in training and self._watch.stuck(seat.spec.id, now - seat.since)
        ]
        if self._watch.sweeps([seconds for _, seconds in late], now):
            found.append((Move.SWEEP, ""))
        return found

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _sign(self, seat: Seat, place: Place) -> None:
        seat.place, seat.since, seat.staged = place, self.clock(), False

    def _workers(self, seat: Seat, *, waits: bool) -> None:
        """Take a sign of a trial that drives workers; the clock runs on while nothing changes."""
        if seat.waits_for_workers != waits:
            seat.waits_for_workers, seat.since = waits, self.clock()


def _where_it_hangs(seat: Seat) -> str:
    """Say what a stuck arm leaves to look at: our stack, or the last words of its own trainer."""
    if seat.spec.recipe.trainer is None:
        return f"its stack is in {seat.stack}"
    return last_lines(seat.spec.folder / LOG)
