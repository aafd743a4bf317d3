"""Step 1: is the model trained in one space and searched in another?"""

from lvm.core.config.recipe import Recipe
from lvm.triage.step import STEPS, Arm, Facts, Hypothesis, Kind, Proposal, Step

SPACES = frozenset(["search_space", "objective.space"])  # of the search and of the loss


def propose(recipe: Recipe, facts: Facts) -> Proposal:
    """Return the arms that bring training and search into one space."""
    if not recipe.has_head:
        reason = "the recipe has no projection head: it trains and searches in the raw space"
        return Proposal(arms=(), left_out={"projection head": reason})
    arms = [
        Arm(
            name="InfoNCE in the raw space",
            changes={"objective.space": "raw", "search_space": "raw"},
            why="makes the contrastive loss shape the searched vectors",
        ),
        Arm(
            name="gradient through both branches",
            changes={"objective.stop_gradient": "none"},
            why="lets the head also learn from the target side",
        ),
    ]
    if recipe.search_space == "raw":
        searched = Arm(
            name="search in the projected space",
            changes={"search_space": "projected"},
            why="needs no training: the index is built from projected vectors",
            trains=False,
        )
        arms.insert(0, searched)
    distinct = [arm for arm in arms if recipe.with_changes(arm.changes) != recipe]
    return Proposal(arms=distinct)


STEPS.register("projection_head")(
    Step(
        name="projection_head",
        number=1,
        title="Projection head",
        question="Should the projection head be used at inference, or not at all in the loss?",
        hypotheses=[
            Hypothesis(
                id="H1",
                kind=Kind.HYPOTHESIS,
                claim="Objective mismatch: InfoNCE shapes a projected space, inference searches "
                "the raw one.",
                predicts="The model finds more once training and search share a space: searched "
                "behind its head, or trained in the raw space.",
                tests=lambda changes, control: not SPACES.isdisjoint(changes),
            )
        ],
        rules_out="a split between the space of the loss and the space of the search",
        propose=propose,
        epochs=lambda schedule: schedule.long_epochs,
        first_on=["SPLIT_SPACE"],
        reported=True,
    )
)
