"""Step 2: is the softmax too sharp or too flat?"""

from lvm.core.config.recipe import Recipe
from lvm.triage.step import STEPS, Arm, Facts, Hypothesis, Kind, Proposal, Step, raises

TEMPERATURES = (0.05, 0.10, 0.15)  # the failure report's sweep


def propose(recipe: Recipe, facts: Facts) -> Proposal:
    """Return one arm per temperature of the report's sweep that the recipe does not use."""
    if recipe.objective.contrastive_weight == 0:
        return Proposal(
            arms=(), left_out={"temperature": "the recipe has no contrastive term to sharpen"}
        )
    arms = [
        Arm(
            name=f"temperature {temperature:.2f}",
            changes={"objective.temperature": temperature},
            why="flatter" if temperature > recipe.objective.temperature else "sharper",
        )
        for temperature in TEMPERATURES
        if temperature != recipe.objective.temperature
    ]
    return Proposal(arms=arms)


STEPS.register("temperature")(
    Step(
        name="temperature",
        number=2,
        title="Temperature",
        question="Does another temperature let the contrastive loss work?",
        hypotheses=[
            Hypothesis(
                id="H4",
                kind=Kind.HYPOTHESIS,
                claim="The temperature is too low and over-sharpens the distribution.",
                predicts="A higher temperature finds more.",
                tests=raises("objective.temperature"),
            )
        ],
        rules_out="the temperature, within .05 to .15",
        propose=propose,
        epochs=lambda schedule: schedule.short_epochs,
        first_on=["COLLAPSE"],
        reported=True,
    )
)
