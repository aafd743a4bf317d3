"""Open question 2: is InfoNCE incompatible with autoregressive prediction?

Both are compared in the space of the search. Otherwise the mismatch of spaces, which step 1 tests,
would decide the result.
"""

from lvm.core.config.recipe import Recipe
from lvm.triage.step import STEPS, Arm, Facts, Hypothesis, Kind, Proposal, Step, why_refused

ONE_SPACE = {"objective.space": "raw", "search_space": "raw"}


def propose(recipe: Recipe, facts: Facts) -> Proposal:
    """Return the contrastive term alone; the control has both terms in the same space."""
    name = "InfoNCE alone"
    if recipe.objective.contrastive_weight == 0:
        return Proposal(arms=(), left_out={name: "the recipe has no contrastive term"})
    if recipe.objective.ar_weight == 0:
        reason = "the recipe has no autoregressive term to leave out"
        return Proposal(arms=(), left_out={name: reason})
    split = recipe.has_head and recipe.search_space == "raw"
    control = ONE_SPACE if split else {}
    arm = Arm(
        name=name,
        changes={**control, "objective.ar_weight": 0.0},
        why="without the autoregressive term nothing opposes the contrastive one",
    )
    if reason := why_refused(recipe, arm.changes):
        return Proposal(arms=(), left_out={name: reason})
    return Proposal(arms=[arm], control=control)


STEPS.register("infonce_alone")(
    Step(
        name="infonce_alone",
        number=8,
        title="InfoNCE alone",
        question="Is InfoNCE incompatible with autoregressive prediction?",
        hypotheses=[
            Hypothesis(
                id="Q2",
                kind=Kind.OPEN_QUESTION,
                claim="Is InfoNCE fundamentally incompatible with autoregressive prediction?",
                predicts="If yes, InfoNCE alone finds more than both terms together in the same "
                "space.",
            )
        ],
        rules_out="that the autoregressive term holds the contrastive one back",
        propose=propose,
        epochs=lambda schedule: schedule.long_epochs,
        extended=True,
    )
)
