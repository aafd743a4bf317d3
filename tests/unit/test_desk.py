"""The desk on a stand-in for Tune: who trains when, how far, and what happens when trials break."""

from __future__ import annotations

import dataclasses
import itertools
import random
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import made
import pytest
import tiny

from lvm.core.config.run import GateConfig, ScheduleConfig
from lvm.core.errors import ClusterError
from lvm.core.records import StopReason
from lvm.core.trainer import TrainerConfig
from lvm.triage.arm import ArmSpec
from lvm.triage.events import ArmRestarted, Epoch, Rung, Waiting
from lvm.triage.on_ray.desk import Desk
from lvm.triage.on_ray.reports import Over, Started, Workers
from lvm.triage.on_ray.seating import IMPATIENT_SECONDS
from lvm.triage.on_ray.seats import Move, Place, Seat
from lvm.triage.race import race_of
from lvm.triage.state import RunState
from lvm.triage.step import Role

BUDGET = 8
STARTED = Started(node="node", pid=1, facts={})
SCHEDULE = ScheduleConfig(first_rung=2, stuck_seconds=10.0, stuck_factor=2.0, wait_minutes=5.0)


def arm(number: int, *, role=Role.ARM, workers: int = 1) -> ArmSpec:
    recipe = tiny.recipe(**{"training.epochs": BUDGET})
    return ArmSpec(
        id=f"a{number:03d}",
        step="s",
        name=f"arm {number}",
        role=role,
        recipe=recipe,
        folder=Path("nowhere"),
        gates=GateConfig(),
        workers=workers,
    )


class Tune:
    """As much of Tune as the desk sees: trials, processes, and a clock that moves by itself."""

    def __init__(self, specs, *, slots: int, seed: int = 0, rule: str = "synchronous", **changes):
        self.events = RunState()
        self.schedule = dataclasses.replace(
            SCHEDULE, max_concurrent_arms=slots, rule=rule, **changes
        )
        self.race = race_of("s", specs, self.events.append, budget=BUDGET, schedule=self.schedule)
        self.now = 0.0
        self.desk = Desk(self.schedule, clock=lambda: self.now)
        self.desk.capacity = slots
        self.desk._race = self.race
        self.random = random.Random(seed)
        self.values = {s.id: self.random.random() for s in specs}
        self.trained: Counter[str] = Counter()
        self.names = map(str, itertools.count())
        self.processes = 0  # busy or held
        self.started = 0  # how often a fresh process was started
        self.spare = 0  # processes that Tune keeps for the next trial
        self.most = 0

    def turn(self, *, train: bool = True) -> bool:
        """One turn of Tune's loop; False once the race is over."""
        if self.race.over:
            return False
        self.now += 0.1
        while (got := self.desk.next_arm(name := next(self.names))) is not None:
            assert self.desk.seats[name].spec is got[0]
        for move, trial in [*self.desk.watch(), *self.desk.moves()]:
            self.carry_out(move, trial)
        if (trial := self.desk.resumable()) is not None:
            self.desk.moved(trial, Place.QUEUED)
        self.start_one()
        if train:
            self.train_one()
        self.most = max(self.most, self.processes)
        return True

    def run(self) -> None:
        for _ in range(20_000):
            if not self.turn():
                return
        raise AssertionError("the race never ended")

    def carry_out(self, move, trial) -> None:
        seat = self.desk.seats[trial]
        had = seat.place in (Place.HELD, Place.TRAINING)
        if move is Move.TRAIN:
            self.desk.moved(trial, Place.TRAINING)
            return
        self.desk.moved(trial, {Move.PAUSE: Place.PAUSED, Move.KILL: Place.DYING}.get(move))
        if move is Move.KILL:
            seat.stack = "stack.txt"
        elif had:
            self.processes -= 1
            staged = sum(s.place is Place.QUEUED and s.staged for s in self.desk.seats.values())
            self.spare = min(self.spare + 1, max(1, staged))

    def start_one(self) -> None:
        queued = [t for t, s in self.desk.seats.items() if s.place is Place.QUEUED]
        if not queued or self.processes >= self.desk.capacity:
            return
        if self.spare:
            self.spare -= 1
        else:
            self.started += 1
        self.processes += 1
        self.desk.take(queued[0], STARTED)

    def train_one(self) -> None:
        busy = [t for t, s in self.desk.seats.items() if s.place is Place.TRAINING]
        if busy:
            trial = self.random.choice(busy)
            self.report(trial)

    def report(self, trial: str) -> None:
        name = self.desk.seats[trial].spec.id
        epoch = self.race.known_epochs(name) + 1
        self.trained[name] += 1
        value = self.values[name] + epoch / 1000
        report = made.event(
            Epoch, arm=name, epoch=epoch, eval_cosine=value, stage="FAIL", seconds=1.0
        )
        self.desk.take(trial, report)

    def trial_of(self, name: str) -> str:
        return next(t for t, s in self.desk.seats.items() if s.spec.id == name)


def arms(count: int) -> list[ArmSpec]:
    return [arm(i, role=Role.CONTROL if i == 0 else Role.ARM) for i in range(count)]


def pruned(race) -> set[str]:
    return {a for a, lane in race.lanes.items() if lane.ending.reason is StopReason.PRUNED}


@pytest.mark.parametrize(("count", "slots", "epochs"), [(5, 1, 24), (31, 6, 126), (6, 6, 26)])
@pytest.mark.parametrize("seed", range(5))
def test_no_epoch_is_trained_that_a_rung_would_have_spared(count, slots, epochs, seed) -> None:
    """Whatever arrives first: what one process that takes turns would train, and not one more."""
    tune = Tune(arms(count), slots=slots, seed=seed)
    tune.run()
    alone = Tune(arms(count), slots=1, seed=seed)
    alone.run()
    assert sum(tune.trained.values()) == sum(alone.trained.values()) == epochs
    assert pruned(tune.race) == pruned(alone.race)
    assert tune.most <= slots


def test_a_process_serves_many_arms() -> None:
    tune = Tune(arms(31), slots=6)
    tune.run()
    assert tune.started <= 7


def test_an_arm_that_stands_at_its_rung_keeps_its_process_while_nobody_wants_it() -> None:
    tune = Tune(arms(3), slots=6)
    tune.run()
    assert tune.started == 3
    assert not tune.events.of(Waiting)
    places = {s.place for s in tune.desk.seats.values()}
    assert places <= {Place.HELD}  # ready for the next race


@pytest.mark.parametrize("seed", range(20))
def test_the_asynchronous_rule_ends_with_one_arm_at_its_budget(seed) -> None:
    tune = Tune(arms(24), slots=4, seed=seed, rule="asynchronous")
    tune.run()
    finished = [a for a, lane in tune.race.lanes.items() if lane.ending.reason == "finished"]
    assert len(finished) >= 2  # the control, and at least one arm
    assert sum(tune.trained.values()) < 24 * BUDGET * 0.75
    for event in tune.events.of(Rung):
        assert event.seen <= 23
        assert len(event.values) <= 23


# --- what breaks ----------------------------------------------------------------------------------


def broken(tune: Tune, name: str, detail: str, *, gone: bool) -> None:
    tune.processes -= 1
    tune.desk.broke(tune.trial_of(name), detail, gone=gone)


def until_trains(tune: Tune, name: str) -> None:
    for _ in range(1000):
        seats = tune.desk.seats.values()
        if any(s.spec.id == name and s.place is Place.TRAINING for s in seats):
            return
        tune.turn(train=False)
    raise AssertionError(f"{name} never trained")


def test_an_arm_whose_process_goes_away_goes_on_in_another() -> None:
    tune = Tune(arms(2), slots=2)
    until_trains(tune, "a001")
    tune.report(tune.trial_of("a001"))
    broken(tune, "a001", "its process was lost", gone=True)
    tune.run()
    assert tune.race.lanes["a001"].ending.reason is StopReason.FINISHED
    assert tune.trained["a001"] == BUDGET  # no epoch twice
    (event,) = tune.events.of(ArmRestarted)
    assert (event.arm, event.epoch, event.attempt) == ("a001", 1, 1)


@pytest.mark.parametrize(("gone", "reason"), [(True, StopReason.LOST), (False, StopReason.CRASHED)])
def test_an_arm_that_keeps_breaking_is_given_up(gone, reason) -> None:
    tune = Tune(arms(2), slots=2, max_restarts=3)
    for attempt in range(4):
        until_trains(tune, "a001")
        broken(tune, "a001", f"breakage {attempt}", gone=gone)
    assert tune.race.lanes["a001"].ending.reason is reason
    assert tune.race.lanes["a001"].detail == "breakage 3"
    assert len(tune.events.of(ArmRestarted)) == 3
    tune.run()


def test_an_epoch_in_between_gives_an_arm_all_its_restarts_back() -> None:
    tune = Tune([arm(1)], slots=1, max_restarts=1)
    for _ in range(3):
        until_trains(tune, "a001")
        tune.report(tune.trial_of("a001"))
        until_trains(tune, "a001")
        broken(tune, "a001", "its node went away", gone=True)
    tune.run()
    assert tune.race.lanes["a001"].ending.reason is StopReason.FINISHED


def test_an_arm_that_raises_the_same_twice_has_crashed() -> None:
    tune = Tune(arms(2), slots=2)
    for _ in range(2):
        until_trains(tune, "a001")
        broken(tune, "a001", "ValueError: no", gone=False)
    assert tune.race.lanes["a001"].ending.reason is StopReason.CRASHED
    assert len(tune.events.of(ArmRestarted)) == 1


def test_a_trial_that_ends_before_its_last_epoch_has_crashed() -> None:
    tune = Tune(arms(2), slots=2)
    until_trains(tune, "a001")
    tune.desk.take(tune.trial_of("a001"), Over())
    assert tune.race.lanes["a001"].ending.reason is StopReason.CRASHED


# --- clocks ---------------------------------------------------------------------------------------


def test_an_arm_without_an_epoch_for_too_long_is_killed_and_tried_once_more() -> None:
    tune = Tune(arms(2), slots=2)
    for _ in range(2):
        until_trains(tune, "a001")
        if not tune.trained["a001"]:
            tune.report(tune.trial_of("a001"))  # from now on it is known how long an epoch takes
        until_trains(tune, "a001")
        trial = tune.trial_of("a001")
        tune.now += SCHEDULE.stuck_seconds + 1
        assert (Move.KILL, trial) in tune.desk.watch()
        tune.carry_out(Move.KILL, trial)
        assert (Move.KILL, trial) not in tune.desk.watch()
        broken(tune, "a001", "killed", gone=True)
    assert tune.race.lanes["a001"].ending.reason is StopReason.STUCK
    assert "stack.txt" in tune.race.lanes["a001"].detail
    assert len(tune.events.of(ArmRestarted)) == 1


def test_a_stuck_trainer_is_told_by_the_last_words_of_its_log(tmp_path) -> None:
    spec = arm(0)
    trainer = TrainerConfig(command=("python", "train.py"))
    recipe = dataclasses.replace(spec.recipe, trainer=trainer)
    tune = Tune([dataclasses.replace(spec, recipe=recipe, folder=tmp_path)], slots=1)
    (tmp_path / "trainer.log").write_text("reading\nwaiting for the lock of the cache\n")
    for _ in range(2):
        until_trains(tune, "a000")
        if not tune.trained["a000"]:
            tune.report(tune.trial_of("a000"))
            until_trains(tune, "a000")
        tune.now += SCHEDULE.stuck_seconds + 1
        tune.carry_out(Move.KILL, tune.trial_of("a000"))
        broken(tune, "a000", "killed", gone=True)
    lane = tune.race.lanes["a000"]
    assert lane.ending.reason is StopReason.STUCK
    assert "trainer.log ends: reading | waiting for the lock of the cache" in lane.detail
    assert "stack.txt" not in lane.detail


def test_the_first_epoch_of_all_may_take_longer() -> None:
    tune = Tune(arms(1), slots=1)
    until_trains(tune, "a000")
    tune.now += 5 * SCHEDULE.stuck_seconds
    assert tune.desk.watch() == []
    tune.now += 20 * SCHEDULE.stuck_seconds
    assert [move for move, _ in tune.desk.watch()] == [Move.KILL]


def test_arms_without_room_are_told_within_a_minute_and_given_up_in_the_end() -> None:
    tune = Tune(arms(2), slots=2)
    tune.desk.next_arm("x")
    tune.desk.next_arm("y")
    tune.now = 55.0
    tune.desk.watch()
    (event,) = tune.events.of(Waiting)
    assert "2 arms waiting 55 s for room: 2 x 0.9 CPUs" in event.detail
    tune.now = 60 * SCHEDULE.wait_minutes + 1
    tune.desk.watch()
    reasons = {lane.ending.reason for lane in tune.race.lanes.values()}
    assert reasons == {StopReason.UNPLACED}
    assert {move for move, _ in tune.desk.moves()} == {Move.STOP}


def test_what_waits_long_has_hung_starts_swept_away_now_and_then() -> None:
    """A process that is stopped before it says who it is holds the room of others."""
    tune = Tune(arms(2), slots=2)
    tune.desk.next_arm("x")
    sweeps = 0
    for _ in range(100):
        tune.now += SCHEDULE.stuck_seconds / 10
        sweeps += (Move.SWEEP, "") in tune.desk.watch()
    assert 8 <= sweeps <= 9  # from the first multiple of stuck_seconds on


def test_an_arm_that_waits_for_its_own_kind_is_not_given_up() -> None:
    tune = Tune(arms(2), slots=2)
    tune.desk.capacity = 1  # say another job took the rest
    until_trains(tune, "a000")
    tune.desk.next_arm("late")
    for _ in range(20):
        tune.now += 60.0
        tune.desk.take(tune.trial_of("a000"), STARTED)  # it is at work
        tune.desk.watch()
    assert tune.race.lanes["a001"].ending is None


def test_a_held_process_is_given_to_an_arm_that_waits_in_vain() -> None:
    """The count of the cluster's room can be wrong: other jobs may use it."""
    tune = Tune(arms(3), slots=3)
    for name in ("a000", "a001"):
        until_trains(tune, name)
        for _ in range(2):
            tune.report(tune.trial_of(name))
    tune.desk.next_arm("x")
    tune.desk.moves()
    assert tune.desk.moves() == []  # there is room for three
    tune.now += IMPATIENT_SECONDS + 1
    assert [move for move, _ in tune.desk.moves()] == [Move.PAUSE]


def test_workers_get_the_room_of_processes_that_have_nothing_to_do() -> None:
    tune = Tune(arms(2), slots=2)
    tune.run()
    race = race_of(
        "confirm", [arm(9, workers=2)], tune.events.append, budget=BUDGET, schedule=tune.schedule
    )
    tune.desk._race = race
    tune.desk.next_arm("driver")
    tune.desk.moves()
    assert [move for move, _ in tune.desk.moves()] == [Move.STOP, Move.STOP]


def test_workers_that_have_finished_end_by_themselves() -> None:
    """Killed as they end, they would be started again by Ray Train, and hold their room."""
    tune = Tune([arm(0, workers=2)], slots=1)
    tune.run()  # to the end of the race
    (trial,) = tune.desk.seats
    assert tune.desk.seats[trial].place is Place.TRAINING
    assert tune.desk.moves() == []
    assert tune.desk.take(trial, Workers(waits=False)) is Move.TRAIN
    assert tune.desk.take(trial, Over()) is None
    assert tune.desk.moves() == [(Move.STOP, trial)]


def test_a_sign_of_life_of_workers_is_no_epoch() -> None:
    tune = Tune([arm(0, workers=2)], slots=1)
    tune.turn()
    trial = tune.trial_of("a000")
    tune.desk.take(trial, STARTED)
    assert tune.desk.take(trial, Workers(waits=True)) is Move.TRAIN
    tune.now += 40.0
    tune.desk.watch()
    assert "2 workers with 0.9 CPUs each" in tune.events.of(Waiting)[0].detail
    tune.desk.take(trial, Workers(waits=False))
    tune.now += 13 * SCHEDULE.stuck_seconds
    tune.desk.take(trial, Workers(waits=False))
    assert [move for move, _ in tune.desk.watch()] == [Move.KILL]


# --- two threads ----------------------------------------------------------------------------------


def test_what_goes_wrong_in_tunes_thread_is_raised_where_the_race_is_served() -> None:
    tune = Tune(arms(1), slots=1)

    def break_it() -> None:
        with tune.desk.guard():
            raise ClusterError("the disk is full")

    thread = threading.Timer(0.05, break_it)
    thread.start()
    with pytest.raises(ClusterError, match="the disk is full"):
        tune.desk.serve(tune.race)
    thread.join()
    assert tune.desk.closing
    assert tune.desk.next_arm("x") is None


# --- processes that drive workers -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "finished", "killed"), [(1, False, False), (2, True, False), (2, False, True)]
)
def test_a_process_that_is_killed_is_never_handed_on(workers, finished, killed, monkeypatch):
    """Tune keeps the process of a trial that stops for the next one, dead or alive."""
    from lvm.triage.on_ray import scheduler

    ended: list[str] = []
    monkeypatch.setattr(scheduler, "_kill", ended.append)
    trial = SimpleNamespace(trial_id="1", temporary_state=SimpleNamespace(ray_actor="actor"))
    controller = SimpleNamespace(_reuse_actors=True)
    seat = Seat(arm(0, workers=workers), since=0.0, ends_itself=finished)
    keeper = scheduler.DeskScheduler(Desk(SCHEDULE), lambda facts: None, "stacks")
    with keeper._let_go(controller, trial, seat):
        assert controller._reuse_actors is not killed
    assert controller._reuse_actors
    assert ended == (["actor"] if killed else [])


def test_a_checkpoint_searched_for_a_step_is_searched_again_for_its_confirmation() -> None:
    """The trial of the step still holds its process, and has nothing more to say."""
    searched = dataclasses.replace(arm(0), source=Path("checkpoint"))
    first = Tune([searched], slots=2)
    desk = first.desk
    assert desk.next_arm("step") is not None
    desk.take("step", STARTED)
    epoch = made.event(Epoch, arm=searched.id, epoch=0, eval_cosine=0.5, stage="PASS")
    desk.take("step", epoch)
    assert first.race.over
    assert desk.seats["step"].place is Place.HELD

    second = Tune([searched], slots=2)
    desk._race = second.race
    assert (Move.TRAIN, "step") not in desk.moves()
    assert desk.next_arm("confirmation") == (searched, 0)
    desk.take("step", Over())
    assert not second.race.over
    desk.take("confirmation", STARTED)
    desk.take("confirmation", epoch)
    (lane,) = second.race.lanes.values()
    assert lane.ending is not None
    assert lane.ending.reason is StopReason.FINISHED
