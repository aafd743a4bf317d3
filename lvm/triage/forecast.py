"""How long a triage will take, said before it starts.

The plan names the races, a short probe measures what they are made of, and from both and the
schedule follows the time of every race of the tree:

    race = start of its trials + sum over rungs of max(longest arm, all arms' work / slots)

What nobody knows beforehand is how many steps send an arm to a full training, so the forecast is a
range: no step does, or every step does. Where a fix ends the run, it is the first step or none. The
number that is named is the geometric mean of the least and of what a run takes that goes through
all steps and trains half of those arms in full, for seldom does every step ask for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lvm.core.config.run import ScheduleConfig
from lvm.triage import events
from lvm.triage.events.parts import Probe
from lvm.triage.plan import Planned, PlannedRace
from lvm.triage.probe import Costs
from lvm.triage.rungs import rung_epochs

LADDER_RUNGS = 7  # untrained baselines, each judged on dev and on test
INSPECTION = 6.0  # a look at the model of phase 1, in evaluations on dev
RAY_START, TUNE_START, TRAIN_START = 3.0, 2.0, 6.0  # seconds besides the start of processes
WORKER_EFFICIENCY = 0.5  # of a worker of several, measured with two on two cores
BETWEEN_RACES = 1.5  # judging, MLflow


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Seconds from the forecast to the verdict."""

    seconds: float
    lower: float
    upper: float
    parts: Mapping[str, float]  # race -> seconds, the uncertain ones included
    costs: Costs

    def in_words(self) -> str:
        """Return one line for the person who waits."""
        return (
            f"this will take about {_minutes(self.seconds)}, {_minutes(self.lower)} at least "
            f"and {_minutes(self.upper)} at most, depending on how many steps need a full "
            f"training (measured in {self.costs.probe:.0f} s under the current load)"
        )

    def in_journal(self) -> events.Forecast:
        """Return the forecast as a journal holds it."""
        costs = self.costs
        return events.Forecast(
            seconds=round(self.seconds, 1),
            lower=round(self.lower, 1),
            upper=round(self.upper, 1),
            parts={name: round(value, 1) for name, value in self.parts.items()},
            probe=Probe(
                seconds=round(costs.probe, 1),
                update_seconds=round(costs.update[""], 4),
                dev_seconds=round(costs.dev, 3),
                test_seconds=round(costs.test, 3),
                start_seconds=round(costs.start, 3),
            ),
        )


def forecast(
    races: Sequence[PlannedRace],
    costs: Costs,
    schedule: ScheduleConfig,
    *,
    num_windows: int,
    slots: int,
) -> Forecast:
    """Return the time of `races` on `slots` cores (or GPUs)."""
    parts = {
        race.name: race_seconds(race, costs, schedule, num_windows=num_windows, slots=slots)
        for race in races
    }
    before = RAY_START + LADDER_RUNGS * (costs.dev + costs.test / 2) + INSPECTION * costs.dev
    lower = before + sum(parts[race.name] for race in races if race.certain)
    upper = before + sum(parts.values())
    in_full = sum(parts[race.name] for race in races if race.in_full and not race.certain)
    usual = max(lower, upper - in_full / 2)
    return Forecast(
        seconds=(lower * usual) ** 0.5,
        lower=lower,
        upper=upper,
        parts={"before phase 1": before, **parts},
        costs=costs,
    )


def race_seconds(
    race: PlannedRace, costs: Costs, schedule: ScheduleConfig, *, num_windows: int, slots: int
) -> float:
    """Return the time of one race."""
    trained = [arm for arm in race.arms if arm.trains]
    at_once = max(1, min(slots, schedule.max_concurrent_arms))
    workers = max((arm.workers for arm in race.arms), default=1)
    processes = sum(arm.workers for arm in race.arms)
    seconds = BETWEEN_RACES + TUNE_START + costs.start * max(1.0, processes / at_once)
    if workers > 1:
        seconds += TRAIN_START + costs.start
    done = 0
    budget = max((arm.recipe.training.epochs for arm in trained), default=0)
    epochs = rung_epochs(schedule.first_rung, budget, schedule.reduction_factor) if budget else []
    alive = list(trained)
    for epoch in epochs:
        work = [
            (min(epoch, arm.recipe.training.epochs) - done)
            * _epoch_seconds(arm, costs, num_windows)
            for arm in alive
        ]
        seconds += max(max(work, default=0.0), sum(work) / at_once)
        done = epoch
        alive = _survivors(alive, schedule.reduction_factor)
    tests = [
        costs.test if arm.test else costs.dev for arm in race.arms if arm.test or not arm.trains
    ]
    return seconds + max(max(tests, default=0.0), sum(tests) / at_once)


def _epoch_seconds(arm: Planned, costs: Costs, num_windows: int) -> float:
    """Return the seconds of an epoch: the workers share the updates, one of them evaluates."""
    whole = costs.of(arm.recipe, arm.num_windows or num_windows)
    share = 1.0 if arm.workers == 1 else 1.0 / (WORKER_EFFICIENCY * arm.workers)
    return (whole - costs.dev) * share + costs.dev


def _survivors(alive: Sequence[Planned], factor: int) -> list[Planned]:
    judged = [arm for arm in alive if arm.pruned]
    gone = judged[max(1, len(judged) // factor) :]
    return [arm for arm in alive if all(arm is not other for other in gone)]


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds >= 600 else f"{seconds / 60:.1f} min"
