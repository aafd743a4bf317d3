"""The report's fifth hypothesis in full: on which branch of the head should no gradient flow?"""

from lvm.core.config.recipe import Recipe
from lvm.triage.step import STEPS, Arm, Facts, Hypothesis, Kind, Proposal, Step, why_refused

BRANCHES = {
    "target": ("stop-gradient on the target", "only the prediction's side teaches the head"),
    "prediction": ("stop-gradient on the prediction", "only the target's side teaches the head"),
    "none": ("no stop-gradient", "both sides teach the head"),
}


def propose(recipe: Recipe, facts: Facts) -> Proposal:
    """Return the variants that the recipe does not use."""
    if not recipe.has_head:
        reason = "the recipe has no projection head, and raw target vectors take no gradient"
        return Proposal(arms=(), left_out={"stop-gradient": reason})
    arms = [
        Arm(name=title, changes={"objective.stop_gradient": branch}, why=why)
        for branch, (title, why) in BRANCHES.items()
        if branch != recipe.objective.stop_gradient
    ]
    left_out = {a.name: reason for a in arms if (reason := why_refused(recipe, a.changes))}
    return Proposal(arms=[arm for arm in arms if arm.name not in left_out], left_out=left_out)


STEPS.register("stop_gradient")(
    Step(
        name="stop_gradient",
        number=11,
        title="Stop-gradient",
        question="Is the stop-gradient on the wrong branch?",
        hypotheses=[
            Hypothesis(
                id="H5",
                kind=Kind.HYPOTHESIS,
                claim="The stop-gradient is on the wrong branch.",
                predicts="No stop-gradient, or one on the prediction, finds more than one on the "
                "target.",
                tests=lambda changes, control: "objective.stop_gradient" in changes,
                also=["projection_head"],
            )
        ],
        rules_out="the branch that takes no gradient",
        propose=propose,
        epochs=lambda schedule: schedule.long_epochs,
        extended=True,
    )
)
