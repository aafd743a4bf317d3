"""Run arms in this process, one epoch at a time in turn: no Ray, no other process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lvm.data.windows import Dataset
from lvm.errors import DeviceError, LvmError, NonFiniteLossError
from lvm.records import StopReason
from lvm.triage.arm import run_arm
from lvm.triage.race import Race


class LocalExecutor:
    """Takes an epoch of every arm in turn, so that arms meet at the rungs and none runs ahead."""

    def run(self, race: Race, dataset: Dataset) -> None:
        """Run every arm of the race until it has ended."""
        running = {spec.id: run_arm(spec, dataset) for spec in race.waiting}
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


def _advance(race: Race, arm: str, records: Iterator[dict[str, Any]]) -> bool:
    """Take one epoch of an arm; False when it has none left or broke."""
    try:
        race.record(arm, next(records))
    except StopIteration:
        return False
    except NonFiniteLossError as error:
        race.failed(arm, StopReason.DIVERGED, str(error))
        return False
    except DeviceError as error:  # says something about the machine, nothing about the arm
        race.failed(arm, StopReason.CRASHED, str(error))
        return False
    except LvmError as error:
        race.failed(arm, StopReason.NOT_EVALUABLE, str(error))
        return False
    return True
