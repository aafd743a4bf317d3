"""Open question 1: should the projection head be used at inference?

Step 1 asks it too. Here it is asked in any case, and alone.
"""

from lvm.config import Recipe
from lvm.triage.step import STEPS, Arm, Facts, Proposal, Step


def propose(recipe: Recipe, facts: Facts) -> Proposal:
    """Return the search behind the head of the model that is there."""
    if not recipe.has_head:
        reason = "the recipe has no projection head: it trains and searches in the raw space"
        return Proposal(arms=(), left_out={"search in the projected space": reason})
    if recipe.search_space == "projected":
        reason = "the recipe searches there already"
        return Proposal(arms=(), left_out={"search in the projected space": reason})
    arm = Arm(
        name="search in the projected space",
        changes={"search_space": "projected"},
        why="costs no training: the index is built behind the head",
        trains=False,
    )
    return Proposal(arms=[arm])


STEPS.register("projection_at_inference")(
    Step(
        name="projection_at_inference",
        number=7,
        title="Projection head at inference",
        question="Should the projection head be used at inference?",
        hypothesis="The head's space is the one that was trained, so it is the one to search.",
        rules_out="that the search of this model should go through its head",
        propose=propose,
        epochs=lambda schedule: schedule.long_epochs,
        extended=True,
    )
)
