"""Step 5: do predictions drift from the distribution of the vectors?"""

from lvm.core.config.recipe import Recipe
from lvm.triage.step import STEPS, Arm, Facts, Hypothesis, Proposal, Step, why_refused

WRITTEN_WEIGHT = 0.02  # the failure report's weight; far below the other gradients
BALANCED_SHARE = 0.5  # gradient of the anchor relative to all other terms


def propose(recipe: Recipe, facts: Facts) -> Proposal:
    """Return the report's fixed weights, and an anchor balanced by gradient norm."""
    as_written = Arm(
        name="anchor .70 / .28 / .02",
        changes={
            "objective.contrastive_weight": 0.70,
            "objective.ar_weight": 0.28,
            "objective.mmd_weight": WRITTEN_WEIGHT,
            "objective.mmd_balance": "fixed",
        },
        why="as the report writes it",
    )
    balanced = Arm(
        name="anchor, gradient-balanced",
        changes={"objective.mmd_weight": BALANCED_SHARE, "objective.mmd_balance": "gradient"},
        why="gives the anchor half the gradient of the rest, so that it can act",
    )
    arms = [as_written, balanced]
    left_out = {a.name: reason for a in arms if (reason := why_refused(recipe, a.changes))}
    arms = [arm for arm in arms if arm.name not in left_out]
    distinct = [arm for arm in arms if recipe.with_changes(arm.changes) != recipe]
    return Proposal(arms=distinct, left_out=left_out)


STEPS.register("anchor_mmd")(
    Step(
        name="anchor_mmd",
        number=5,
        title="Anchor-MMD",
        question="Does anchoring predictions to the distribution of the vectors help?",
        hypotheses=[
            Hypothesis(
                id="B1",
                claim="Predictions leave the distribution of the vectors (step 5; the report gives "
                "this remedy and no hypothesis).",
                predicts="An anchor to that distribution finds more.",
            )
        ],
        rules_out="a drift of the prediction distribution that an anchor would fix",
        propose=propose,
        epochs=lambda schedule: schedule.long_epochs,
        first_on=["COLLAPSE"],
        reported=True,
    )
)
