"""Tune's side of the desk: what arms become trials, and a scheduler that decides nothing.

One Tune experiment serves the whole run. The tree proposes its next arms from the results of the
earlier ones, so to Tune it is a search algorithm; which arms go on is decided by the rungs, in the
driver, from the same numbers in whatever order they arrive.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from ray import cloudpickle
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError
from ray.tune import Stopper
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from lvm.triage.on_ray.desk import Desk
from lvm.triage.on_ray.handles import Controller, Trial
from lvm.triage.on_ray.remote import end_hung, stack_and_kill
from lvm.triage.on_ray.reports import Started, Workers, from_result
from lvm.triage.on_ray.seats import Move, Place, Seat
from lvm.triage.on_ray.shared import ArmBroke, Common, Task


class ArmSource(Searcher):  # type: ignore[misc]  # ray is untyped
    """Turns the tree's arms into trials."""

    def __init__(self, desk: Desk, common: Callable[[], Common]) -> None:
        super().__init__(metric="eval_cosine", mode="max")
        self._desk, self._common = desk, common

    def __reduce__(self) -> tuple[object, ...]:
        return (Searcher, ())  # Tune pickles it for its own restore; the journal is ours

    def set_search_properties(self, *args: object, **kwargs: object) -> bool:
        """Take what Tune proposes; nothing of it matters here."""
        return True

    def suggest(self, trial_id: str) -> object:
        """Return the config of the next trial, None when there is none now."""
        if self._desk.closing:
            return Searcher.FINISHED
        found = self._desk.next_arm(trial_id)
        if found is None:
            return Searcher.FINISHED if self._desk.closing else None
        spec, known = found
        task = Task(pickled=pickle.dumps(spec), known=known, common=self._common())
        return task.to_config()

    def on_trial_complete(self, trial_id: str, result: object = None, error: bool = False) -> None:
        """Take note of nothing: the desk has heard it already."""

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing: a run is resumed from its journal."""

    def restore(self, checkpoint_path: str) -> None:
        """Take nothing up: a run is resumed from its journal."""


class EndWhenClosed(Stopper):  # type: ignore[misc]  # ray is untyped
    """Ends the experiment when the desk closes."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def __reduce__(self) -> tuple[object, ...]:
        return (Stopper, ())

    def __call__(self, trial_id: str, result: dict[str, object]) -> bool:
        """Stop no single trial: the desk does."""
        return False

    def stop_all(self) -> bool:
        """Return whether the run is over."""
        return self._desk.closing


class DeskScheduler(FIFOScheduler):  # type: ignore[misc]  # ray is untyped
    """Forwards what trials report to the desk and carries out what the desk decides."""

    def __init__(
        self, desk: Desk, check: Callable[[Mapping[str, str]], None], stacks: Path
    ) -> None:
        super().__init__()
        self._desk, self._check, self._stacks = desk, check, stacks
        self._groups: dict[str, str] = {}  # trial -> placement group of its Ray Train workers

    def __reduce__(self) -> tuple[object, ...]:
        return (FIFOScheduler, ())

    # --- what Tune tells -------------------------------------------------------------------------

    def on_trial_result(
        self, tune_controller: Controller, trial: Trial, result: Mapping[str, object]
    ) -> str:
        """Take one report; the trial trains on, or waits with its process."""
        goes_on = None
        with self._desk.guard():
            report = from_result(result)
            if isinstance(report, Workers) and report.placement_group:
                self._groups[trial.trial_id] = report.placement_group
            if trial.trial_id not in self._desk.seats:
                return str(TrialScheduler.STOP)
            if isinstance(report, Started | Workers) and report.facts:
                self._check(report.facts)
            goes_on = self._desk.take(trial.trial_id, report)
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.NOOP)

    def on_trial_error(self, tune_controller: Controller, trial: Trial) -> None:
        """Take note that a trial broke; Tune restarts none, its arm gets a new one."""
        with self._desk.guard():
            self._release(trial)
            detail, gone = what_broke(trial)
            self._desk.broke(trial.trial_id, detail, gone=gone)

    def choose_trial_to_run(self, tune_controller: Controller, **kwargs: object) -> Trial | None:
        """Carry out what the desk decides; return a paused trial whose turn it is, if any.

        Tune asks at every turn of its loop.
        """
        self._desk.rest()
        controller: Controller = getattr(tune_controller, "_tune_controller", tune_controller)
        with self._desk.guard():
            trials = {trial.trial_id: trial for trial in controller.get_live_trials()}
            if self._desk.closing:
                self._let_all_go(trials.values())
                return None
            for name in [t for t in self._desk.seats if t not in trials]:
                if self._desk.seats[name].place is not Place.QUEUED:  # else Tune has yet to add it
                    self._desk.moved(name, None)
            for move, name in [*self._desk.watch(), *self._desk.moves()]:
                if move is Move.SWEEP:
                    idle = self._desk.idle_processes()
                    end_hung(self._desk.schedule.stuck_seconds, idle)
                elif name in trials:
                    self._carry_out(controller, move, trials[name])
            chosen = self._desk.resumable()
            if chosen is not None and chosen in trials:
                trial = trials[chosen]
                task = replace(Task.of(trial.config), known=self._desk.known_epochs(chosen))
                trial.config.update(task.to_config())
                self._desk.moved(chosen, Place.QUEUED)
                return trial
        return None

    # --- what the desk decides -------------------------------------------------------------------

    def _carry_out(self, controller: Controller, move: Move, trial: Trial) -> None:
        name = trial.trial_id
        match move:
            case Move.TRAIN:
                self._desk.moved(name, Place.TRAINING)
                controller._schedule_trial_train(trial)
            case Move.PAUSE:
                with self._let_go(controller, trial, self._desk.seats[name]):
                    self._desk.moved(name, Place.PAUSED)
                    controller.pause_trial(trial, should_checkpoint=False)
            case Move.STOP:
                with self._let_go(controller, trial, self._desk.seats[name]):
                    self._desk.moved(name, None)
                    controller.stop_trial(trial)
            case Move.KILL:
                seat = self._desk.seats[name]
                self._desk.moved(name, Place.DYING)
                seat.stack = stack_and_kill(seat.node, seat.pid, self._stacks, seat.spec.id)
                actor = trial.temporary_state.ray_actor
                if actor is not None:
                    _kill(actor)

    def _let_all_go(self, trials: Iterable[Trial]) -> None:
        """End every process at once: what an arm has is on disk, and Tune would wait for each."""
        for trial in trials:
            if trial.temporary_state.ray_actor is not None:
                _kill(trial.temporary_state.ray_actor)
            self._release(trial)

    @contextlib.contextmanager
    def _let_go(self, controller: Controller, trial: Trial, seat: Seat) -> Iterator[None]:
        """End a trial that drives workers at once, with all of them: what it has is on disk.

        Asked to stop, it would wait for Ray Train, which starts its workers again meanwhile. One
        whose workers have finished has nothing to wait for, and its process serves the next arm;
        that of one which was killed must not be handed on.
        """
        actor = trial.temporary_state.ray_actor
        killed = not seat.alone and not seat.ends_itself and actor is not None
        if killed:
            _kill(actor)
        self._release(trial)
        reuses = controller._reuse_actors
        controller._reuse_actors = reuses and not killed
        try:
            yield
        finally:
            controller._reuse_actors = reuses

    def _release(self, trial: Trial) -> None:
        """Remove the placement group of Ray Train workers whose trial is over.

        Ray itself does that only when this whole run has ended: until then the workers' CPUs stay
        reserved, and the next step waits for them for ever. Its cleaner is not started
        (lvm.training.distributed): it asks the dashboard, which mixes up two clusters.
        """
        group = self._groups.pop(trial.trial_id, None)
        if group is None:
            return
        from ray._raylet import PlacementGroupID
        from ray.util.placement_group import PlacementGroup, remove_placement_group

        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))


def _kill(actor: object) -> None:
    import ray

    with contextlib.suppress(Exception):  # it may be gone already
        ray.kill(actor)


def what_broke(trial: Trial) -> tuple[str, bool]:
    """Return the first line of what broke a trial, and whether its process or node went away."""
    error = _error_of(trial)
    if isinstance(error, OutOfMemoryError):
        return "killed because the node ran out of memory", True
    if isinstance(error, RayTaskError):
        cause = getattr(error, "cause", None) or error
        named = "" if isinstance(cause, ArmBroke) else f"{type(cause).__name__}: "
        return f"{named}{_first_line(cause)}", False
    if isinstance(error, (RayActorError, WorkerCrashedError)):
        where = "its node" if "node" in str(error).split("\n")[0].lower() else "its process"
        return f"{where} was lost ({_first_line(error)})", True
    return "its process was lost", True


def _error_of(trial: Trial) -> BaseException | None:
    """Return what Tune has kept of the exception, in a file of this process's own session."""
    with contextlib.suppress(Exception):  # never written, or of a type that is not known here
        error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
        return error if isinstance(error, BaseException) else None
    return None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"
