"""What is wrong with the steps that a recipe adds, found on the base recipe before a run starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from lvm.core.config.recipe import Recipe
from lvm.core.config.run import RunConfig, ScheduleConfig
from lvm.core.config.steps import TPE, OwnStep, Value
from lvm.core.errors import ConfigError
from lvm.core.metrics import METRICS
from lvm.core.parts import MODELS
from lvm.triage.absence import CONFIRMATION, SEED
from lvm.triage.actions import COMBINATION
from lvm.triage.draws import Draws
from lvm.triage.own_steps import budgeted, own_steps, swept_keys
from lvm.triage.phase1 import PHASE1
from lvm.triage.step import Arm, steps_in_order, why_refused
from lvm.triage.tpe import require_optuna

NOT_CHANGED = {  # keys that no arm may change, and what to do instead
    "training.epochs": "budget sets the epochs of a step",
    "seed": "an arm must not win by its seed; --seeds N repeats the verdict's models",
    "context_length": "what it gains is no fix of this recipe; --extended asks about it",
}
TRIED = 8  # arms that a value is tried with before it is refused

# Keys that a recipe does not read: how they begin, when, and why.
Unread = tuple[tuple[str, ...], Callable[[Recipe, str], bool], str]
UNREAD: Sequence[Unread] = (
    (
        ("objective.temperature", "objective.space", "objective.stop_gradient", "negatives."),
        lambda recipe, key: recipe.objective.contrastive_weight == 0,
        "objective.contrastive_weight is 0",
    ),
    (
        ("head.", "objective.stop_gradient"),
        lambda recipe, key: not recipe.has_head,
        "no projection head is trained",
    ),
    (
        ("objective.mmd_balance",),
        lambda recipe, key: recipe.objective.mmd_weight == 0,
        "objective.mmd_weight is 0",
    ),
    (
        ("objective.terms.",),
        lambda recipe, key: key.split(".")[2] not in recipe.objective.table,
        "the term weighs 0",
    ),
    (
        ("model.options.",),
        lambda recipe, key: key.split(".")[2] != recipe.model.name,
        "model.name is another one",
    ),
)


def check_own_steps(config: RunConfig) -> None:
    """Refuse what is wrong with the steps that a recipe adds.

    Raises ConfigError: a name or place that is taken, a key or value that the recipe does not have,
    a key or an arm that changes nothing.
    """
    steps_in_order(own=own_steps(config))
    for own in config.steps:
        try:
            _check(own, config)
        except ConfigError as error:
            raise ConfigError(f"steps.{own.name}: {error}") from None


def _check(own: OwnStep, config: RunConfig) -> None:
    if own.name in (PHASE1, COMBINATION) or own.name.startswith((CONFIRMATION, SEED)):
        raise ConfigError("the name is that of a part of every run; choose another one.")
    for key in swept_keys(own):
        if key in NOT_CHANGED:
            raise ConfigError(f"an arm must not change {key}; {NOT_CHANGED[key]}.")
    if own.sweep is not None and own.sweep.sampler == TPE:
        require_optuna()
    base, arms = budgeted(own, config), Draws(config.recipe.seed).first(own)
    for key, value in _values(own, arms):
        _check_value(key, value, base, arms, config)
    _check_arms(own, base, arms)
    _check_metric(own, base, arms)
    for key in swept_keys(own):
        _check_read(key, base, arms)


def _values(own: OwnStep, arms: Sequence[Arm]) -> list[tuple[str, Value]]:
    """Return every value that a key is given: those of lists and arms, and the ends of ranges."""
    if own.sweep is not None:
        return [(key, value) for key, found in own.sweep.keys.items() for value in found.values]
    return [(key, value) for arm in own.arms for key, value in arm.changes.items()]


def _check_value(
    key: str, value: Value, base: Recipe, arms: Sequence[Arm], config: RunConfig
) -> None:
    """Refuse a value that the base recipe takes neither alone nor with what an arm changes."""
    also: list[Mapping[str, object]] = [arm.changes for arm in arms if key in arm.changes]
    alone = why_refused(base, {key: value})
    if alone and all(why_refused(base, {**changes, key: value}) for changes in also[:TRIED]):
        raise ConfigError(alone)
    if key == "model.name":
        MODELS.get(str(value))
    if key == "training.batch_size":
        _check_batch(int(str(value)), config.schedule)


def _check_batch(batch: int, schedule: ScheduleConfig) -> None:
    for key in ("workers_per_arm", "confirm_workers"):
        workers = getattr(schedule, key)
        if batch % workers:
            raise ConfigError(
                f"training.batch_size is {batch}, expected a multiple of the {workers} workers of "
                f"schedule.{key}; change one of the two."
            )


def _check_arms(own: OwnStep, base: Recipe, arms: Sequence[Arm]) -> None:
    """Refuse an arm of the recipe that cannot be tried, and a sweep none of whose arms can."""
    reasons = [why_refused(base, arm.changes) or _unchanged(base, arm) for arm in arms]
    refused = [
        f"the arm {arm.name!r}: {why}" for arm, why in zip(arms, reasons, strict=True) if why
    ]
    if refused and (own.sweep is None or len(refused) == len(arms)):
        raise ConfigError(refused[0])


def _check_metric(own: OwnStep, base: Recipe, arms: Sequence[Arm]) -> None:
    """Refuse to rank arms by what does not compare between the spaces that they are searched in."""
    if own.sweep is None or METRICS.get(own.sweep.metric).across_spaces:
        return
    recipes = [base.with_changes(a.changes) for a in arms if not why_refused(base, a.changes)]
    if len({recipe.search_space for recipe in (base, *recipes)}) > 1:
        raise ConfigError(
            f"sweep.metric is {own.sweep.metric}, which does not compare between the spaces that "
            'the arms are searched in; take "mrr".'
        )


def _unchanged(base: Recipe, arm: Arm) -> str:
    if base.with_changes(arm.changes) != base:
        return ""
    return "it changes nothing, the recipe has these values already; give other ones."


def _check_read(key: str, base: Recipe, arms: Sequence[Arm]) -> None:
    """Refuse a key that changes nothing: always the recipe's own value, or read by no arm."""
    recipes = [base.with_changes(a.changes) for a in arms if not why_refused(base, a.changes)]
    given = {repr(arm.changes[key]) for arm in arms if key in arm.changes}
    if given and all(base.with_changes({key: arm.changes[key]}) == base for arm in arms):
        raise ConfigError(
            f"{key} changes nothing, the recipe has the value {given.pop()} already; give other "
            "values or leave the key out."
        )
    for starts, unread, why in UNREAD:
        if key.startswith(starts) and all(unread(recipe, key) for recipe in recipes):
            raise ConfigError(
                f"{key} changes nothing, because {why} in every arm; leave the key out, or change "
                "that too."
            )
