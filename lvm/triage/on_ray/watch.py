"""How long an arm may wait for room, and for its next epoch. Pure: the caller brings the time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lvm.core.config.run import ScheduleConfig
from lvm.training.distributed import CPU_SHARE
from lvm.triage.arm import ArmSpec

LATE_SECONDS = 30.0  # after these the user is told what is missing
AGAIN_SECONDS = 60.0  # and again after these
FIRST_EPOCH = 12.0  # an arm of which no epoch is known may take so many times the least


class Watch:
    """The clocks of one race."""

    def __init__(self, schedule: ScheduleConfig) -> None:
        self._schedule = schedule
        self._usual: dict[str, float] = {}  # arm -> its longest epoch, with evaluation
        self._told_at: float | None = None
        self._swept_at: float | None = None

    def epoch(self, arm: str, seconds: float) -> None:
        """Take how long one epoch of an arm took."""
        self._usual[arm] = max(seconds, self._usual.get(arm, 0.0))

    def stuck(self, arm: str, silent_seconds: float) -> bool:
        """Whether an arm has been without an epoch for too long."""
        usual = self._usual.get(arm) or max(self._usual.values(), default=None)
        least = self._schedule.stuck_seconds
        if usual is None:
            return silent_seconds > FIRST_EPOCH * least
        return silent_seconds > max(least, self._schedule.stuck_factor * usual)

    def waited_long(self, seconds: float) -> bool:
        """Whether an arm has waited for room as long as it may."""
        return seconds > 60 * self._schedule.wait_minutes

    def waiting(self, arms: Sequence[tuple[ArmSpec, float]], now: float) -> str | None:
        """Return what is missing, in words, when it is time to say so: arms with their seconds."""
        late = [(spec, seconds) for spec, seconds in arms if seconds > LATE_SECONDS]
        if not late:
            return None
        if self._told_at is not None and now - self._told_at < AGAIN_SECONDS:
            return None
        self._told_at = now
        counted = Counter(needs(spec, self._schedule) for spec, _ in late)
        what = ", ".join(f"{n} x {need}" if n > 1 else need for need, n in counted.items())
        longest = max(seconds for _, seconds in late)
        left = 60 * self._schedule.wait_minutes - longest
        return (
            f"{len(late)} arm{'s' if len(late) > 1 else ''} waiting {longest:.0f} s for room: "
            f"{what}; given up in {max(0.0, left / 60):.0f} min (schedule.wait_minutes)"
        )

    def sweeps(self, waited: Sequence[float], now: float) -> bool:
        """Whether it is time to look for processes that hang in their start and hold the room."""
        least = self._schedule.stuck_seconds
        if max(waited, default=0.0) <= least:
            return False
        if self._swept_at is not None and now - self._swept_at <= least:
            return False
        self._swept_at = now
        return True

    def why(self, spec: ArmSpec) -> str:
        """Return why an arm was given up that found no room."""
        return (
            f"no room for {needs(spec, self._schedule)} in {self._schedule.wait_minutes:g} minutes "
            "(schedule.wait_minutes)"
        )


def needs(spec: ArmSpec, schedule: ScheduleConfig) -> str:
    """Return what an arm asks of the cluster, in words."""
    cpus = f"{CPU_SHARE * spec.threads:g} CPUs"
    gpus = ""
    if spec.device != "cpu":
        share = 1.0 if spec.workers > 1 else schedule.gpus_per_arm
        gpus = f" and {share:g} GPU"
    return f"{spec.workers} workers with {cpus}{gpus} each" if spec.workers > 1 else cpus + gpus
