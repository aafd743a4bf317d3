"""A Tune scheduler that is a thin shell around a Race.

Tune starts and stops trials; what to stop is decided by the rungs, in the driver, from the same
numbers in whatever order they arrive.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from lvm.records import StopReason
from lvm.triage.on_ray.trial import PLACEMENT_GROUP
from lvm.triage.race import Race

_TUNE_KEYS = {
    "timestamp", "checkpoint_dir_name", "done", "training_iteration", "trial_id", "date",
    "time_this_iter_s", "time_total_s", "pid", "hostname", "node_ip", "config",
    "time_since_restore", "iterations_since_restore", "experiment_tag", "should_checkpoint",
}  # fmt: skip


def rung_scheduler(race: Race) -> Any:
    """Return a Tune scheduler that forwards reports to the race and stops what it has decided."""
    from ray.tune.schedulers import FIFOScheduler, TrialScheduler

    groups: dict[str, str] = {}  # arm -> placement group of its workers

    class RungScheduler(FIFOScheduler):  # type: ignore[misc]  # ray is untyped
        def __reduce__(self) -> tuple[Any, ...]:
            # Tune pickles its scheduler for its own restore, which is not used: the journal is.
            return (FIFOScheduler, ())

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            arm = trial.config["spec"]["id"]
            if PLACEMENT_GROUP in result:
                groups[arm] = result.pop(PLACEMENT_GROUP)
            if "ended" in result:
                race.failed(arm, StopReason(result["ended"]), result["detail"])
            elif "epoch" in result:
                race.record(arm, _plain_record(result))
            for other in list(tune_controller.get_live_trials()):
                if other is not trial and race.stopped(other.config["spec"]["id"]):
                    with contextlib.suppress(Exception):  # it may have ended by itself meanwhile
                        tune_controller.stop_trial(other)
                    _release(groups.pop(other.config["spec"]["id"], None))
            # An arm at its budget ends by itself, and Ray Train then clears up after itself.
            if not race.stopped(arm) or race.complete(arm):
                return str(TrialScheduler.CONTINUE)
            _release(groups.pop(arm, None))
            return str(TrialScheduler.STOP)

        def on_trial_complete(self, tune_controller: Any, trial: Any, result: Any) -> None:
            _release(groups.pop(trial.config["spec"]["id"], None))

        def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
            if trial.status == trial.ERROR or not trial.should_recover():
                race.failed(trial.config["spec"]["id"], StopReason.CRASHED, _first_line(trial))

    return RungScheduler()


def _release(group: str | None) -> None:
    """Remove the placement group of Ray Train workers whose trial is over.

    Ray's own cleaner asks the dashboard, which cannot tell several Ray clusters on one machine
    apart: the workers' CPUs then stay reserved, and the next step waits for them for ever.
    """
    if group is None:
        return
    from ray._raylet import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))


def _plain_record(result: dict[str, Any]) -> dict[str, Any]:
    """Drop what Tune adds to a report, and put back the sections that it flattens."""
    record: dict[str, Any] = {}
    for key, value in result.items():
        if key in _TUNE_KEYS or key.startswith("config/"):
            continue
        section, _, name = key.partition("/")
        if name:
            record.setdefault(section, {})[name] = value
        else:
            record[key] = value
    return record


def _first_line(trial: Any) -> str:
    try:
        text = Path(trial.error_file).read_text(errors="replace").strip()
    except (OSError, TypeError):
        return "the trial's process died"
    return text.splitlines()[-1] if text else "the trial's process died"
