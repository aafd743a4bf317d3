"""Our own step: can the network let its context through at all?

A network that cannot copy says nothing about a loss. Where AR-only, trained for cosine alone, stays
below a fixed mix of the context (finding BELOW_LADDER), this step runs before the report's steps.
"""

from lvm.core.config.recipe import ModelConfig, Recipe
from lvm.core.config.steps import Value
from lvm.triage.step import STEPS, Arm, Facts, Hypothesis, Proposal, Step

# Found on dev and in cross-validation over train articles of the sample; reports/LOG.md has what
# it reaches on test.
REGULARISED: dict[str, Value] = {
    "model.residual": True,
    "model.dropout": 0.5,
    "model.input_dropout": 0.3,
    "model.output_dropout": 0.5,
    "objective.space": "raw",
    "search_space": "raw",
}
FOR_COSINE = {"contrastive_weight": 0.1, "ar_weight": 0.9, "temperature": 0.07}
FOR_RETRIEVAL = {"contrastive_weight": 0.2, "ar_weight": 0.8, "temperature": 0.05}


def propose(recipe: Recipe, facts: Facts) -> Proposal:
    """Return the ways to give the network its context: around it, through it, and regularised."""
    arms = [
        Arm(
            name="residual",
            changes={"model.residual": True},
            why="the objective unchanged, with a weighted context added to the network's output",
        ),
        Arm(
            name="hidden = D",
            changes={"model.hidden": facts.width},
            why="the objective unchanged, with no layer narrower than the vectors",
        ),
        _regularised("residual, regularised", FOR_COSINE, "for cosine"),
        _regularised("residual, for retrieval", FOR_RETRIEVAL, "for retrieval"),
    ]
    left_out = _left_out(recipe.model, facts.width)
    distinct = [
        arm
        for arm in arms
        if recipe.with_changes(arm.changes) != recipe and arm.name not in left_out
    ]
    return Proposal(arms=distinct, left_out=left_out)


def _left_out(model: ModelConfig, width: int) -> dict[str, str]:
    """Return why the network cannot be as wide as the vectors, by the name of the arm."""
    inner = {"mamba2": model.expand * width, "transformer": width}.get(model.name, 0)
    if inner % model.head_dim == 0:
        return {}
    reason = f"NOT_EVALUABLE: model.head_dim {model.head_dim} does not divide {inner}; change "
    return {"hidden = D": f"{reason}model.head_dim in the recipe"}


def _regularised(name: str, weights: dict[str, float], purpose: str) -> Arm:
    """Return the residual with dropout on the network's path, so that it learns what a mix lacks.

    Two things held such a network back: the weight of the contrastive loss, and dropout inside the
    blocks only.
    """
    return Arm(
        name=name,
        changes={**REGULARISED, **{f"objective.{key}": value for key, value in weights.items()}},
        why=f"dropout on the network's path, searched where it is trained, weights {purpose}",
    )


STEPS.register("context_path")(
    Step(
        name="context_path",
        number=6,
        title="Context path",
        question="Can the network pass its context through at all?",
        hypotheses=[
            Hypothesis(
                id="B3",
                claim="The network has no path that could even copy its context.",
                predicts="A residual from the context, or a network as wide as the vectors, finds "
                "more under the same objective.",
                tests=lambda changes, control: not any(k.startswith("objective.") for k in changes),
            )
        ],
        rules_out="a network that stands between the context and the prediction",
        propose=propose,
        epochs=lambda schedule: schedule.long_epochs,
        first_on=["BELOW_LADDER"],
    )
)
