"""Steps that a recipe adds: each becomes a step of the tree like any other.

    [[steps]] of the recipe --own_steps--> Step: control, rungs, Holm, carry, confirmation

A step proposes its arms to whatever recipe it starts from; `lvm.triage.draws` draws those of a
sweep. `lvm.triage.check_steps` tries them on the base recipe before a run starts, so that a wrong
key costs no training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from lvm.core.config.recipe import Recipe
from lvm.core.config.run import RunConfig
from lvm.core.config.steps import OwnStep
from lvm.triage.step import STEPS, Arm, Facts, Hypothesis, Later, Proposal, Step, Tried, why_refused

NAMED = 4  # keys that a sentence names


class Drawing(Protocol):
    """What draws the arms of a step, `lvm.triage.draws.Draws`."""

    def first(self, own: OwnStep) -> Sequence[Arm]:
        """Return the arms with which a step starts."""

    def more(self, own: OwnStep, tried: Sequence[Tried]) -> Sequence[Arm]:
        """Return the arms of its next round."""

    def like_all(self, own: OwnStep) -> Sequence[Arm]:
        """Return as many arms as it will have."""


def own_steps(config: RunConfig, draws: Drawing | None = None) -> list[Step]:
    """Return the steps that a recipe adds; those without a place come after all others.

    Without `draws` a step has its texts and no arms.
    """
    given = [own.order for own in config.steps]
    after = max([*(step.number for step in STEPS), *given], default=0)
    steps = []
    for own in config.steps:
        after += own.order == 0
        steps.append(_step(own, own.order or after, draws))
    return steps


def swept_keys(own: OwnStep) -> list[str]:
    """Return the keys that the arms of a step change, in order."""
    if own.sweep is not None:
        return list(own.sweep.keys)
    return list(dict.fromkeys(key for arm in own.arms for key in arm.changes))


def budgeted(own: OwnStep, config: RunConfig) -> Recipe:
    """Return the base recipe with the budget of a step."""
    epochs = own.budget or config.schedule.long_epochs
    return config.recipe.with_changes({"training.epochs": epochs})


def _step(own: OwnStep, number: int, draws: Drawing | None) -> Step:
    keys = swept_keys(own)
    named = ", ".join(keys[:NAMED]) + (f" and {len(keys) - NAMED} more keys" * (len(keys) > NAMED))
    return Step(
        name=own.name,
        number=number,
        title=own.title or own.name.replace("_", " ").capitalize(),
        question=own.question,
        hypotheses=[
            Hypothesis(
                id=own.name,
                claim=own.claim or f"The recipe needs another value of {named}.",
                predicts="An arm of this step finds more than its control.",
            )
        ],
        rules_out=f"the values of {named} that were tried",
        propose=lambda recipe, facts: _proposal(draws.first(own) if draws else (), recipe, facts),
        epochs=lambda schedule: own.budget or schedule.long_epochs,
        metric=own.sweep.metric if own.sweep is not None else "",
        minutes=own.sweep.minutes if own.sweep is not None else 0.0,
        seeks_the_best=own.sweep is not None,
        later=_later(own, draws),
    )


def _later(own: OwnStep, draws: Drawing | None) -> Later | None:
    """Return what proposes the arms that a sweep does not start with; None where it has all."""
    sweep = own.sweep
    if draws is None or sweep is None or sweep.size_of_round == sweep.arms:
        return None
    return Later(
        propose=lambda recipe, facts, tried: _proposal(draws.more(own, tried), recipe, facts),
        count_on=lambda recipe, facts: _proposal(draws.like_all(own), recipe, facts),
    )


def _proposal(arms: Sequence[Arm], recipe: Recipe, facts: Facts) -> Proposal:
    """Return the arms that can be tried on this recipe, and why the others cannot."""
    kept: dict[Recipe, Arm] = {}
    left_out: dict[str, str] = {}
    for arm in arms:
        reason = why_refused(recipe, arm.changes) or _why_not_trained(recipe, arm.changes, facts)
        if not reason:
            changed = recipe.with_changes(arm.changes)
            twin = kept.setdefault(changed, arm)
            reason = "" if twin is arm else f"it is the same as {twin.name}"
        if reason:
            left_out[arm.name] = reason
    return Proposal(arms=list(kept.values()), left_out=left_out)


def _why_not_trained(recipe: Recipe, changes: Mapping[str, object], facts: Facts) -> str:
    changed = recipe.with_changes(changes)
    if changed == recipe:
        return "it changes nothing: the control is the same"
    if changed.training.batch_size > facts.num_train_windows:
        return f"its batch is larger than the {facts.num_train_windows} train windows"
    return ""
