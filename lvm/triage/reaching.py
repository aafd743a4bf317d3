"""Which arms of a step reach a trainer of one's own; the others would be copies of the control."""

from __future__ import annotations

from dataclasses import replace

from lvm.core.config.recipe import Recipe
from lvm.training.own.template import how_to_reach, unreached
from lvm.triage.step import Arm, Facts, Proposal, Step


def propose_reachable(step: Step, recipe: Recipe, facts: Facts) -> Proposal:
    """Return what a step proposes, less the arms that would not reach a trainer of one's own."""
    return reachable(recipe, step.propose(recipe, facts))


def reachable(recipe: Recipe, proposal: Proposal) -> Proposal:
    """Return a proposal less the arms that would not reach a trainer of one's own."""
    if recipe.trainer is None:
        return proposal
    left_out = {arm.name: why for arm in proposal.arms if (why := _why_unreached(recipe, arm))}
    arms = [arm for arm in proposal.arms if arm.name not in left_out]
    return replace(proposal, arms=arms, left_out={**proposal.left_out, **left_out})


def _why_unreached(recipe: Recipe, arm: Arm) -> str:
    """Return why an arm would be a copy of its control, or no training of the trainer's."""
    if not arm.trains:
        return "it searches a checkpoint of this program, and the trainer keeps its own"
    lacking = unreached(recipe, recipe.with_changes(arm.changes))
    if not lacking:
        return ""
    return f"its change does not reach the trainer: {how_to_reach(recipe, lacking)}"
