"""Open question 3: is it the network? Two towers, and the other networks at the same budget."""

from lvm.config import Recipe
from lvm.triage.step import STEPS, Arm, Facts, Proposal, Step

NETWORKS = {
    "two_tower": ("two towers", "separate networks for the context and for the vectors searched"),
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
        question="Should another network take the place of the recipe's?",
        hypothesis="Mamba is the wrong network, and two towers would do better.",
        rules_out="that one of these networks does better at this size and budget",
        propose=propose,
        epochs=lambda schedule: schedule.long_epochs,
        extended=True,
    )
)
