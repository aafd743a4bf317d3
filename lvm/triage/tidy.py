"""Removes files of arms that nothing needs any more, after each part of a run.

Who reads the folder of an arm after it has ended:

    checkpoint/   an arm that goes on in a later part: a control, or what later steps start from;
                  steps that search the base model; MLflow and `lvm eval` of what test has judged
    dev_NNN.npz   a resumed run, which judges every part anew, each arm at the epoch it ended at;
                  the gains of other arms need those of their control at every epoch
    test.*        a resumed run
    epochs.jsonl  the record of a training: small, never removed

So the state of the optimiser goes as soon as an arm can train no further, and of an arm that lost
every dev result but those at the rungs. While a run holds more than `schedule.max_disk_gib`, it
also loses weights: of arms that lost before those of arms that finished and were not chosen. What
goes is written to the journal first. Should a later part ask for an arm that lost, it is trained
again from its beginning: the same numbers. Absent arms keep all: a resumed run tries them again.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lvm.core.config.run import ScheduleConfig
from lvm.core.errors import CheckpointError
from lvm.core.records import ABSENT
from lvm.training.checkpoint import read_manifest
from lvm.triage.events import ArmEnded, ArmJudged, Epoch, StepEnded, StepStarted, Tidied
from lvm.triage.events.parts import Arm
from lvm.triage.race import Note
from lvm.triage.rungs import rung_epochs
from lvm.triage.state import RunState
from lvm.triage.step import Role

GIB = 2**30
STOPPED = "stopped"  # takes the place of "checkpoint" once an unfinished arm cannot go on
CHECKPOINTS = ("checkpoint", STOPPED)
WEIGHTS, STATE = "model.safetensors", "state.pt"  # of a checkpoint; the state is the optimiser's
OLD = ".checkpoint.old"  # the copy that a kill between two renames leaves
NEW = ".checkpoint.new"  # the part of a copy that a kill amid its writing leaves
LOSERS = (Role.ARM, Role.REPEAT)  # roles whose arms nothing starts from, unless they were chosen


@dataclass(frozen=True, kw_only=True)
class Ended:
    """An arm that has ended, as far as its folder is concerned."""

    id: str
    folder: Path
    finished: bool  # its checkpoint is that of the last epoch of its budget
    wanted: bool  # something may still start from it, compare with it or show it
    dev_epochs: frozenset[int]  # whose dev results are kept where it is not wanted

    @property
    def states(self) -> list[Path]:
        """The optimiser states in its folder."""
        places = (self.folder / name / STATE for name in CHECKPOINTS)
        return [place for place in places if place.exists()]

    @property
    def unread(self) -> list[Path]:
        """What is in its folder besides checkpoints and will not be read."""
        partial = list(self.folder.glob(NEW))
        if self.wanted:
            return partial
        return partial + [f for f in self.folder.glob("dev_*") if _epoch(f) not in self.dev_epochs]

    def stop(self) -> None:
        """Remove the optimiser states; an unfinished training then starts from the beginning."""
        own, stopped = self.folder / CHECKPOINTS[0], self.folder / STOPPED
        if not self.finished and own.exists():
            _remove(stopped)
            try:
                os.replace(own, stopped)
            except OSError:
                return  # a checkpoint without its state could not even begin anew
            _remove(self.folder / OLD)
        for place in self.states:
            _remove(place)


class Tidier:
    """Tidies the arm folders of one run, part by part."""

    def __init__(self, out: Path, schedule: ScheduleConfig, note: Note) -> None:
        self._arms, self._schedule, self._note = out / "arms", schedule, note
        self._num_parts = 0  # of the run that were tidied
        self._bytes: dict[str, int] = {}  # arm -> what its folder holds
        self._lost: deque[str] = deque()  # arms whose weights may go, the oldest first
        self._beaten: deque[str] = deque()  # likewise, after those: they finished

    def after(self, events: RunState) -> None:
        """Tidy the parts of a run that have been judged since the last call."""
        for started in events.of(StepStarted)[self._num_parts :]:
            if not judged(events, started):
                return
            self._num_parts += 1
            self._measure([spec.id for spec in started.arms])
            arms = list(self._ended(events, started.arms))
            for arm in arms:
                if not arm.wanted:
                    (self._beaten if arm.finished else self._lost).append(arm.id)
            over = [arm for arm in arms if arm.finished or not arm.wanted]
            self._tidy(events, started.step, over, [path for arm in arms for path in arm.unread])

    def at_the_end(self, events: RunState) -> None:
        """Tidy what parts that will not come might have asked for.

        Not after a run with absent arms: what a resumed one will ask for is not known.
        """
        if any(event.reason in ABSENT for event in events.of(ArmEnded)):
            return
        specs = {spec.id: spec for e in events.of(StepStarted) for spec in e.arms}
        self._tidy(events, "", list(self._ended(events, specs.values())), [])

    def _tidy(
        self, events: RunState, step: str, over: Sequence[Ended], unread: Sequence[Path]
    ) -> None:
        """Remove the states of arms that are over, what is not read, and weights over the bound."""
        states = {arm.id: arm.states for arm in over if arm.states}
        freed = sum(map(_size, itertools.chain(unread, *states.values())))
        weights = list(self._too_much(events, sum(self._bytes.values()) - freed))
        if not (states or unread or weights):
            return
        self._note(Tidied(step=step, states=list(states), weights=weights, files=len(unread)))
        for arm in over:
            if arm.id in states:
                arm.stop()
        for path in unread:
            _remove(path)
        for loser in weights:
            for name in CHECKPOINTS:
                _remove(self._arms / loser / name)
        self._measure([*(arm.id for arm in over), *weights])

    def _too_much(self, events: RunState, held: int) -> Iterator[str]:
        """Yield the arms whose weights have to go until the run holds no more than it may."""
        for losers in (self._lost, self._beaten):
            while held > self._schedule.max_disk_gib * GIB and losers:
                arm = losers.popleft()
                size = sum(_size(self._arms / arm / name / WEIGHTS) for name in CHECKPOINTS)
                if size and not wanted(events, arm):  # a later part may have chosen it
                    held -= size
                    yield arm

    def _measure(self, arms: Iterable[str]) -> None:
        if not self._bytes and self._arms.exists():  # what an interrupted session has left
            arms = [folder.name for folder in self._arms.iterdir()]
        self._bytes |= {arm: _size(self._arms / arm) for arm in arms}

    def _ended(self, events: RunState, specs: Iterable[Arm]) -> Iterator[Ended]:
        """Yield the arms among these that have ended and are not absent."""
        for spec in specs:
            arm, budget = spec.id, spec.recipe.training.epochs
            ends = events.of(ArmEnded, arm=arm)
            if not ends or ends[-1].reason in ABSENT:
                continue
            latest = events.last(Epoch, arm=arm)
            rungs = rung_epochs(self._schedule.first_rung, budget, self._schedule.reduction_factor)
            yield Ended(
                id=arm,
                folder=self._arms / arm,
                finished=spec.source is not None or _trained(self._arms / arm) >= budget,
                wanted=wanted(events, arm),
                dev_epochs=frozenset(
                    [*rungs, latest.epoch if latest else 0, *(end.epoch for end in ends)]
                ),
            )


def judged(events: RunState, started: StepStarted) -> bool:
    """Whether a part of a run that was begun has been judged."""
    step = started.step
    if started.number is not None:
        return events.last(StepEnded, step=step) is not None
    return len(events.of(ArmJudged, step=step)) >= len(started.arms)


def wanted(events: RunState, arm: str) -> bool:
    """Whether an arm was more than tried in some part of a run, or was chosen there."""
    for event in events.of(ArmJudged, arm=arm):
        ended = events.last(StepEnded, step=event.step)
        chosen = (ended.candidate, ended.kept) if ended else ()
        if event.role not in LOSERS or event.name in chosen:
            return True
    return False


def _trained(folder: Path) -> int:
    """Return the epoch of the checkpoint in the folder of an arm; 0 without one."""
    for name in CHECKPOINTS:
        with contextlib.suppress(CheckpointError):
            if manifest := read_manifest(folder / name):
                return manifest.epoch or 0
    return 0


def _epoch(path: Path) -> int:
    """Return the epoch of a file of dev results; -1 for what a kill left of one."""
    number = path.name.removeprefix("dev_").removesuffix(".npz")
    return int(number) if number.isdecimal() else -1


def _size(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder; 0 for what is not there."""
    if not path.is_dir():
        return path.stat().st_size if path.exists() else 0
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _remove(path: Path) -> None:
    """Remove a file or folder; what cannot be removed stays, for no run may end by that."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
