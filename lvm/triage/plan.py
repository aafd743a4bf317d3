"""Which races a triage could run, known before it starts: every arm of every step once.

The steps are asked for their arms as the triage will ask them, of the base recipe; what a step
keeps for those after it is not known yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lvm.core.config.plain import fingerprint
from lvm.core.config.recipe import Recipe
from lvm.core.config.run import RunConfig, ScheduleConfig
from lvm.core.errors import DataError
from lvm.data.windows import Dataset, recut
from lvm.triage.reaching import propose_reachable, reachable
from lvm.triage.step import Facts, Proposal, Step


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One arm that would be trained, or searched with a checkpoint that is there."""

    recipe: Recipe  # training.epochs is the budget
    trains: bool = True
    pruned: bool = True  # whether the rungs may end it before its budget
    test: bool = False
    workers: int = 1
    num_windows: int = 0  # train windows, 0 for those of the unchanged data


@dataclass(frozen=True, kw_only=True)
class PlannedRace:
    """The arms of one step side by side."""

    name: str
    arms: Sequence[Planned]
    certain: bool = True  # False: the run may end before it, or not ask for it
    in_full: bool = False  # a full training of what a step found


def plan_races(
    config: RunConfig,
    steps: Sequence[Step],
    extended: Sequence[Step],
    dataset: Dataset,
    *,
    all_steps: bool,
    from_bank: bool = True,
    given: bool = False,
    more_seeds: Sequence[int] = (),
) -> list[PlannedRace]:
    """Return every race that a triage could run, each arm once.

    Without `all_steps` a run may end with the first step that has arms for this recipe, and the
    full training of one. `given` says that the base recipe's model is handed in and not trained.
    """
    base, schedule = config.recipe, config.schedule
    phase1 = [Planned(recipe=base.ar_only(), pruned=False, test=True)]
    phase1.append(Planned(recipe=base, trains=not given, pruned=False, test=True))
    races, known = [PlannedRace(name="phase 1", arms=phase1)], {arm_key(arm) for arm in phase1}
    may_have_ended = False
    facts = Facts(
        num_train_windows=len(dataset.train),
        width=dataset.bank.width,
        why_not_cut=lambda t: _why_not_cut(dataset, t, from_bank=from_bank),
    )
    for step in (*steps, *extended):
        budgeted = base.with_changes({"training.epochs": step.epochs(schedule)})
        proposal = _planned(step, budgeted, facts)
        cut = max([int(str(a.changes.get("context_length", 0))) for a in proposal.arms], default=0)
        windows = len(recut(dataset, cut).train) if cut > base.context_length else 0
        arms = [
            Planned(
                recipe=budgeted.with_changes(arm.changes),
                trains=arm.trains,
                pruned=not step.extended,
                num_windows=windows,
            )
            for arm in proposal.arms
        ]
        if any(arm.trains for arm in arms):
            control = budgeted.with_changes(proposal.control)
            arms.append(Planned(recipe=control, pruned=False, num_windows=windows))
        arms = [arm for arm in arms if arm_key(arm) not in known]
        known |= {arm_key(arm) for arm in arms}
        ends_it = not all_steps and not may_have_ended and bool(arms)  # the first that can
        may_have_ended |= ends_it
        certain = all_steps or step.extended or ends_it
        races.append(PlannedRace(name=step.name, arms=arms, certain=certain))
        if not step.extended and arms:
            full = _full_training(base, schedule, with_control=given)
            name = f"confirm {step.name}"
            races.append(PlannedRace(name=name, arms=full, certain=ends_it, in_full=True))
    if all_steps:
        full = _full_training(base, schedule, with_control=False)
        name = "confirm combination"
        races.append(PlannedRace(name=name, arms=full, certain=False, in_full=True))
    races += [_another_seed(base, schedule, seed) for seed in more_seeds]
    return [race for race in races if race.arms]


def _planned(step: Step, recipe: Recipe, facts: Facts) -> Proposal:
    """Return the arms of a step, or as many like them where it proposes some while it runs."""
    if step.later is None:
        return propose_reachable(step, recipe, facts)
    return reachable(recipe, step.later.count_on(recipe, facts))


def arm_key(arm: Planned) -> str:
    """Return what tells two planned arms apart."""
    return f"{fingerprint(arm.recipe)} {arm.trains} {arm.num_windows}"


def _full_training(base: Recipe, schedule: ScheduleConfig, *, with_control: bool) -> list[Planned]:
    arm = Planned(recipe=base, pruned=False, test=True, workers=schedule.confirm_workers)
    return [arm, arm] if with_control else [arm]


def _another_seed(base: Recipe, schedule: ScheduleConfig, seed: int) -> PlannedRace:
    """AR-only, the base recipe, and what the verdict rests on: taken to be a confirmed arm."""
    again = base.with_changes({"seed": seed})
    arms = [Planned(recipe=r, pruned=False, test=True) for r in (again.ar_only(), again)]
    confirmed = Planned(recipe=again, pruned=False, test=True, workers=schedule.confirm_workers)
    return PlannedRace(name=f"seed {seed}", arms=[*arms, confirmed])


def _why_not_cut(dataset: Dataset, context_length: int, *, from_bank: bool) -> str:
    if not from_bank:
        return "the windows were given"
    try:
        recut(dataset, context_length)
    except DataError as error:
        return str(error)
    return ""
