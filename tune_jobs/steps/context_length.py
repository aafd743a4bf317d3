"""Open question 4: is the context too short?

Windows are cut again from the bank with the longest context tried, with the same articles in each
split. Every arm reads the last T vectors of the same windows: one target and one masked pool for
all, so that nothing but the length differs.
"""

from lvm.core.config.recipe import Recipe
from lvm.triage.step import STEPS, Arm, Facts, Hypothesis, Kind, Proposal, Step, raises

LENGTHS = (5, 10, 20)


def propose(recipe: Recipe, facts: Facts) -> Proposal:
    """Return one arm per length that is not the recipe's and that the data can be cut for."""
    arms, left_out = [], {}
    for length in LENGTHS:
        if length == recipe.context_length:
            continue
        name, problem = f"context of {length}", facts.why_not_cut(length)
        if problem:
            left_out[name] = f"NOT_EVALUABLE: {problem}"
            continue
        word = "more" if length > recipe.context_length else "less"
        arms.append(
            Arm(
                name=name,
                changes={"context_length": length},
                why=f"{word} text before the same targets",
            )
        )
    return Proposal(arms=arms, left_out=left_out)


STEPS.register("context_length")(
    Step(
        name="context_length",
        number=10,
        title="Context length",
        question="Is the context too short?",
        hypotheses=[
            Hypothesis(
                id="Q4",
                kind=Kind.OPEN_QUESTION,
                claim="Is a context of 5 vectors too short?",
                predicts="If yes, a longer context finds more of the same targets in the same "
                "pool.",
                tests=raises("context_length"),
            )
        ],
        rules_out="that a longer context helps this network at this budget",
        propose=propose,
        epochs=lambda schedule: schedule.long_epochs,
        extended=True,
    )
)
