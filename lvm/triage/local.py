"""Run arms in this process, one epoch at a time in turn: no Ray, no other process."""

from __future__ import annotations

from lvm.data.windows import Dataset
from lvm.triage.arm import run_arm
from lvm.triage.endings import failure_of
from lvm.triage.race import Race


class LocalExecutor:
    """Takes an epoch of every arm in turn, so that arms meet at the rungs and none runs ahead."""

    def run(self, race: Race, dataset: Dataset) -> None:
        """Run every arm of the race until it has ended."""
        running = {spec.id: run_arm(spec, dataset) for spec in race.waiting}
        while running:
            for arm in list(running):
                if race.stopped(arm):
                    running.pop(arm).close()
                    continue
                try:
                    record = next(running[arm])
                except StopIteration:
                    running.pop(arm)
                except Exception as error:
                    failure = failure_of(error, race.lanes[arm].spec.folder)
                    if failure is None:
                        raise
                    running.pop(arm)
                    race.failed(arm, failure.reason, failure.detail)
                else:
                    race.record(arm, record)

    def describe(self) -> str:
        """Return one line that says where arms run."""
        return "in this process"
