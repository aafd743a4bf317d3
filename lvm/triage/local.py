"""Run arms in this process, one epoch at a time in turn: no Ray, no other process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from lvm.data.windows import Dataset
from lvm.triage.endings import failure_of
from lvm.triage.events import Epoch
from lvm.triage.own_arm import run_trial
from lvm.triage.race import Race


class LocalExecutor:
    """Takes an epoch of every arm in turn, so that arms meet at the rungs and none runs ahead."""

    elsewhere = False
    nodes: Mapping[str, Mapping[str, str]] = MappingProxyType({})  # no other node has a part in it

    def begin(self) -> None:
        """Begin nothing."""

    def start(self) -> None:
        """Start nothing."""

    def stop(self) -> None:
        """Stop nothing."""

    def run(self, race: Race, dataset: Dataset) -> None:
        """Run every arm of the race until it has ended."""
        running = {spec.id: run_trial(spec, dataset) for spec in race.waiting}
        moved = True
        while running and moved:
            moved = False
            for arm in list(running):
                if race.stopped(arm):
                    running.pop(arm).close()
                elif race.may_train(arm):  # else it waits at its rung
                    moved = True
                    if not _advance(race, arm, running[arm]):
                        running.pop(arm)

    def describe(self) -> str:
        """Return one line that says where arms run."""
        return "in this process"


def _advance(race: Race, arm: str, epochs: Iterator[Epoch]) -> bool:
    """Take one epoch of an arm; False when it has none left or broke."""
    try:
        epoch = next(epochs)
    except StopIteration:
        return False
    except Exception as error:
        failure = failure_of(error, race.lanes[arm].spec.folder)
        if failure is None:
            raise
        race.failed(arm, failure.reason, failure.detail)
        return False
    race.record(epoch)
    return True
