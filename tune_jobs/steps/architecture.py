"""Open question 3: is it the network? Two towers and the other networks, at the same budget."""

from lvm.core.config.recipe import Recipe
from lvm.triage.step import STEPS, Arm, Facts, Hypothesis, Kind, Proposal, Step

TWO_TOWERS = "two_tower"
NETWORKS = {
    TWO_TOWERS: ("two towers", "separate networks for the context and for the vectors searched"),
    "mamba2": ("Mamba-2", "the state-space network of the failure report"),
    "gru": ("GRU", "the recurrent network to beat"),
    "transformer": ("transformer", "the attention network to beat"),
}


def propose(recipe: Recipe, facts: Facts) -> Proposal:
    """Return one arm per network that is not the recipe's."""
    model, arms, left_out = recipe.model, [], {}
    for name, (title, why) in NETWORKS.items():
        if name == model.name:
            continue
        # The inner width of Mamba-2 is expand * hidden, and a GRU has no heads.
        width = {"mamba2": model.expand * model.hidden, "gru": 0}.get(name, model.hidden)
        if width % model.head_dim:
            left_out[title] = (
                f"NOT_EVALUABLE: model.head_dim {model.head_dim} does not divide {width}; "
                "change one of the two in the recipe"
            )
        else:
            arms.append(Arm(name=title, changes={"model.name": name}, why=why))
    return Proposal(arms=arms, left_out=left_out)


STEPS.register("architecture")(
    Step(
        name="architecture",
        number=9,
        title="Network",
        question="Should another network replace the recipe's?",
        hypotheses=[
            Hypothesis(
                id="Q3",
                kind=Kind.OPEN_QUESTION,
                claim="Should two towers replace Mamba?",
                predicts="If yes, two towers find more than the recipe's network at the same "
                "budget.",
                tests=lambda changes, control: changes.get("model.name") == TWO_TOWERS,
            ),
            Hypothesis(
                id="B2",
                claim="The network architecture is at fault.",
                predicts="A GRU, a transformer or Mamba-2 in place of the recipe's network finds "
                "more.",
                tests=lambda changes, control: changes.get("model.name") != TWO_TOWERS,
            ),
        ],
        rules_out="that one of these networks does better at this size and budget",
        propose=propose,
        epochs=lambda schedule: schedule.long_epochs,
        extended=True,
    )
)
