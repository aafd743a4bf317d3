"""Step 3: does the autoregressive term drown the contrastive one?"""

from lvm.core.config.recipe import Recipe
from lvm.triage.step import STEPS, Arm, Facts, Hypothesis, Kind, Proposal, Step

WEIGHTS = ((0.85, 0.15), (0.90, 0.10))  # contrastive, autoregressive: the failure report's values


def propose(recipe: Recipe, facts: Facts) -> Proposal:
    """Return one arm per pair of weights that differs from the recipe's."""
    own = (recipe.objective.contrastive_weight, recipe.objective.ar_weight)
    arms = [
        Arm(
            name=f"weights {contrastive:.2f} / {ar:.2f}",
            changes={"objective.contrastive_weight": contrastive, "objective.ar_weight": ar},
            why="puts contrast before matching the next vector",
        )
        for contrastive, ar in WEIGHTS
        if (contrastive, ar) != own
    ]
    return Proposal(arms=arms)


STEPS.register("contrastive_weight")(
    Step(
        name="contrastive_weight",
        number=3,
        title="Contrastive weight",
        question="Does more weight on the contrastive term help?",
        hypotheses=[
            Hypothesis(
                id="H2",
                kind=Kind.HYPOTHESIS,
                claim="The contrastive weight of .7 is too low against the autoregressive term.",
                predicts="A weight of .85 or .90 finds more than .70.",
            )
        ],
        rules_out="too little contrastive weight, up to .90",
        propose=propose,
        epochs=lambda schedule: schedule.long_epochs,
        reported=True,
    )
)
