"""Step 4: are the negatives too few or too easy?

Targets are frozen, so negatives need no encoder: sampled rows and whole batches of candidates cost
one matrix product, and every negative counted is a real one (gradient accumulation adds none).
"""

from lvm.core.config.recipe import Recipe
from lvm.triage.step import STEPS, Arm, Facts, Hypothesis, Kind, Proposal, Step

PER_WINDOW = 4  # sampled negatives per window in a tier
TIERS = (
    ("same_article", "same article, other position", "moderate: the topic is right"),
    ("nearby_article", "nearby article", "hard: a similar topic"),
    ("random", "random article", "easy, and many of them"),
)
LARGE_BATCH = 2048
MIN_UPDATES = 200  # with fewer, a large batch would be judged before it has learned


def propose(recipe: Recipe, facts: Facts) -> Proposal:
    """Return the tiers of the report, the large batch and the whole bank."""
    if recipe.objective.contrastive_weight == 0:
        reason = "the recipe has no contrastive term to feed"
        return Proposal(arms=(), left_out={"negatives": reason})
    if recipe.negatives.candidates == "bank":
        reason = "the recipe's candidates are already the whole bank"
        return Proposal(arms=(), left_out={"negatives": reason})
    arms = [
        Arm(name=f"negatives: {title}", changes={f"negatives.{key}": PER_WINDOW}, why=why)
        for key, title, why in TIERS
        if getattr(recipe.negatives, key) != PER_WINDOW
    ]
    # Every train row is a candidate then, so a sampled one would count twice.
    no_tiers = {f"negatives.{key}": 0 for key, _, _ in TIERS if getattr(recipe.negatives, key)}
    whole_bank = Arm(
        name="negatives: the whole bank",
        changes={"negatives.candidates": "bank", **no_tiers},
        why="a softmax over every train row",
    )
    arms.append(whole_bank)
    left_out = {}
    updates = facts.num_train_windows // LARGE_BATCH * recipe.training.epochs
    if recipe.training.batch_size >= LARGE_BATCH:
        left_out[f"batch {LARGE_BATCH}"] = "the recipe's batch is already as large"
    elif updates < MIN_UPDATES:
        left_out[f"batch {LARGE_BATCH}"] = (
            f"NOT_EVALUABLE: {updates} updates in the budget, {MIN_UPDATES} are needed; the whole "
            "bank gives more negatives without fewer updates"
        )
    else:
        arms.append(
            Arm(
                name=f"batch {LARGE_BATCH}",
                changes={"training.batch_size": LARGE_BATCH},
                why=f"{LARGE_BATCH - 1} real negatives",
            )
        )
    return Proposal(arms=arms, left_out=left_out)


STEPS.register("negatives")(
    Step(
        name="negatives",
        number=4,
        title="Negatives",
        question="Do harder or more negatives help?",
        hypotheses=[
            Hypothesis(
                id="H3",
                kind=Kind.HYPOTHESIS,
                claim="Negatives are too weak or too few.",
                predicts="Harder negatives, a larger batch or the whole bank find more than the "
                "batch.",
            )
        ],
        rules_out="the kinds and numbers of negatives tried",
        propose=propose,
        epochs=lambda schedule: schedule.long_epochs,
        first_on=["RARELY_FOUND"],
        reported=True,
    )
)
