"""Open question 1: should the projection head be used at inference?

Step 1 asks this too. Here it is always asked, and alone.
"""

from lvm.core.config.recipe import Recipe
from lvm.triage.step import STEPS, Arm, Facts, Hypothesis, Kind, Proposal, Step

BEHIND_THE_HEAD = {"search_space": "projected"}
HIGH_COSINE = 0.70  # what the report expects behind the head if it is to be used


def propose(recipe: Recipe, facts: Facts) -> Proposal:
    """Return the arm that searches the given model in the space behind its head."""
    if not recipe.has_head:
        reason = "the recipe has no projection head: it trains and searches in the raw space"
        return Proposal(arms=(), left_out={"search in the projected space": reason})
    if recipe.search_space == "projected":
        reason = "the recipe already searches there"
        return Proposal(arms=(), left_out={"search in the projected space": reason})
    arm = Arm(
        name="search in the projected space",
        changes=BEHIND_THE_HEAD,
        why="needs no training: the index is built from projected vectors",
        trains=False,
    )
    return Proposal(arms=[arm])


STEPS.register("projection_at_inference")(
    Step(
        name="projection_at_inference",
        number=7,
        title="Projection head at inference",
        question="Should the projection head be used at inference?",
        hypotheses=[
            Hypothesis(
                id="Q1",
                kind=Kind.OPEN_QUESTION,
                claim="Should the projection head be used at inference?",
                predicts="If yes, the same model finds more behind its head than in the raw space.",
                tests=lambda changes, control: dict(changes) == BEHIND_THE_HEAD,
                statistic="gain of one model searched behind its head over itself searched in the "
                f"raw space, R@5 and MRR, dev split; its cosine behind the head against "
                f"{HIGH_COSINE:.2f}",
                also=["projection_head"],
            )
        ],
        rules_out="that the search of this model should go through its head",
        propose=propose,
        epochs=lambda schedule: schedule.long_epochs,
        extended=True,
    )
)
