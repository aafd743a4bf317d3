"""The contract of every registered step: a new step file is tested the moment it exists."""

from __future__ import annotations

import functools
import itertools

import pytest
import tiny

from lvm.audit.check import CHECKS
from lvm.audit.run import RARELY_FOUND
from lvm.core.config.plain import to_dict
from lvm.core.config.recipe import NegativesConfig, Recipe
from lvm.core.config.run import ScheduleConfig
from lvm.models.predictor import Predictor
from lvm.training.negatives import NegativeSampler
from lvm.triage.below_ladder import CODE as BELOW_LADDER
from lvm.triage.step import STEPS, Facts, Proposal, extended_steps, steps_in_order
from tune_jobs.steps.negatives import LARGE_BATCH

FEW = Facts(num_train_windows=170, width=tiny.WIDTH)
MANY = Facts(num_train_windows=2_000_000, width=768)
TIERS = {f"negatives.{tier}": 4 for tier in ("same_article", "nearby_article", "random")}
ODD = {
    "base": {},
    "no head": {"objective.space": "raw"},
    "no contrastive term": {"objective.contrastive_weight": 0.0, "objective.ar_weight": 1.0},
    "bank negatives": {"negatives.candidates": "bank"},
    "projected search": {"search_space": "projected"},
    "projected search, both branches": {
        "search_space": "projected",
        "objective.stop_gradient": "none",
    },
    "one tier": {"negatives.random": 4},
    "all tiers": TIERS,
    "another number of negatives": {"negatives.same_article": 1},
    "carried temperature": {"objective.temperature": 0.10},
    "carried weights": {"objective.contrastive_weight": 0.85, "objective.ar_weight": 0.15},
    "anchored": {"objective.mmd_weight": 0.02, "objective.ar_weight": 0.28},
    "balanced anchor": {"objective.mmd_weight": 0.5, "objective.mmd_balance": "gradient"},
    "large batch": {"training.batch_size": LARGE_BATCH},
    "larger batch": {"training.batch_size": 2 * LARGE_BATCH},
}
OF_THE_FIVE = ("objective.", "negatives.", "search_space", "training.batch_size")
NUM_OWN = 11  # steps of this package
FIVE = [step.name for step in steps_in_order()]
CASES = list(itertools.product(STEPS.names(), ODD, (FEW, MANY)))
IDS = [f"{step}-{odd}-{facts.num_train_windows}" for step, odd, facts in CASES]


@functools.cache
def predictor(recipe: Recipe) -> Predictor:
    """Build the networks of a recipe, once for all cases that come to it."""
    return Predictor(recipe, tiny.WIDTH)


@functools.cache
def sampler(negatives: NegativesConfig) -> NegativeSampler:
    """Prepare the negatives of a recipe, once for all cases that come to them."""
    data = tiny.dataset()
    return NegativeSampler(data.bank, data.train, negatives, 0)


def flat(recipe: Recipe) -> dict[str, object]:
    return {
        f"{section}.{key}" if isinstance(value, dict) else section: leaf
        for section, value in to_dict(recipe).items()
        for key, leaf in (value.items() if isinstance(value, dict) else [("", value)])
    }


@pytest.mark.parametrize(("name", "odd", "facts"), CASES, ids=IDS)
def test_every_arm_is_a_valid_and_different_recipe(name, odd, facts) -> None:
    recipe = tiny.recipe(**ODD[odd])
    proposal = STEPS.get(name).propose(recipe, facts)
    assert isinstance(proposal, Proposal)
    assert proposal.arms or proposal.left_out  # never silence
    assert all(reason for reason in proposal.left_out.values())
    names = [arm.name for arm in proposal.arms]
    assert len(set(names)) == len(names)
    assert not set(names) & {"control", *proposal.left_out}
    recipes = [recipe.with_changes(arm.changes) for arm in proposal.arms]
    assert recipe.with_changes(proposal.control) not in recipes
    assert all(a != b for a, b in itertools.combinations(recipes, 2))
    for arm, changed in zip(proposal.arms, recipes, strict=True):
        before, after = flat(recipe), flat(changed)
        moved = {key for key in before if before[key] != after[key]}
        assert moved <= set(arm.changes)  # nothing that is not said
        assert moved.isdisjoint({"seed", "training.epochs"})  # an arm varies the question alone
        if STEPS.get(name).reported:  # and in the five the network stays
            assert len(arm.changes) <= 4
            assert all(key.startswith(OF_THE_FIVE) for key in arm.changes)
        assert set(proposal.control) <= set(arm.changes)  # what the control has, an arm has too
        assert arm.why
        if not arm.trains:
            assert moved == {"search_space"}  # what an index can change without training
            assert recipe.has_head
        assert changed.search_space == "raw" or changed.has_head
        assert (predictor(changed).head is not None) == changed.has_head
        sampler(changed.negatives)  # raises where its settings exclude each other


@pytest.mark.parametrize(("name", "odd"), list(itertools.product(FIVE, ODD)))
def test_an_arm_that_is_carried_leaves_every_later_step_valid(name, odd) -> None:
    """Apply each arm of a step, then each arm of each other step on top of it."""
    recipe = tiny.recipe(**ODD[odd])
    for arm in STEPS.get(name).propose(recipe, MANY).arms:
        carried = recipe.with_changes(arm.changes)
        for step in steps_in_order():
            for later in step.propose(carried, MANY).arms:
                changed = carried.with_changes(later.changes)
                assert changed != carried
                assert changed.search_space == "raw" or changed.has_head
                sampler(changed.negatives)  # raises where its settings exclude each other


def test_the_numbers_of_the_steps_are_their_places() -> None:
    own = [s for s in (*steps_in_order(), *extended_steps()) if s.number <= NUM_OWN]
    assert [step.number for step in own] == list(range(1, NUM_OWN + 1))
    steps = {step.name for step in (*steps_in_order(), *extended_steps())}
    assert steps == set(STEPS.names())
    reported = [
        "projection_head",
        "temperature",
        "contrastive_weight",
        "negatives",
        "anchor_mmd",
    ]
    assert [step.name for step in steps_in_order(reported_only=True)] == reported
    assert [step.name for step in own] == [
        *reported,
        "context_path",
        "projection_at_inference",
        "infonce_alone",
        "architecture",
        "context_length",
        "stop_gradient",
    ]


@pytest.mark.parametrize("name", STEPS.names())
def test_a_step_says_what_it_asks_and_has_a_budget_of_the_schedule(name) -> None:
    step = STEPS.get(name)
    assert step.name == name
    assert step.question.endswith("?")
    assert step.hypothesis.endswith(".")
    assert step.title
    assert set(step.first_on) <= {*CHECKS.names(), RARELY_FOUND, BELOW_LADDER}
    assert step.rules_out
    schedule = ScheduleConfig(short_epochs=3, long_epochs=7)
    assert step.epochs(schedule) in (3, 7)


def names(step, recipe, facts=FEW):
    return [arm.name for arm in STEPS.get(step).propose(recipe, facts).arms]


def test_the_context_path_is_beside_the_network_through_it_and_regularised() -> None:
    recipe = tiny.recipe()
    arms = {a.name: a.changes for a in STEPS.get("context_path").propose(recipe, MANY).arms}
    assert list(arms) == [
        "residual",
        "hidden = D",
        "residual, regularised",
        "residual, for retrieval",
    ]
    assert arms["residual"] == {"model.residual": True}, "the objective stays as it is"
    assert arms["hidden = D"] == {"model.hidden": MANY.width}
    assert arms["residual, regularised"]["model.output_dropout"] == 0.5
    wide = recipe.with_changes({"model.hidden": MANY.width, "model.residual": True})
    assert names("context_path", wide, MANY) == list(arms)[2:]


@pytest.mark.parametrize("network", ["mamba2", "transformer"])
def test_a_width_that_heads_do_not_divide_is_left_out(network) -> None:
    recipe = tiny.recipe(**{"model.name": network})
    odd = Facts(num_train_windows=MANY.num_train_windows, width=recipe.model.head_dim * 5 + 1)
    proposal = STEPS.get("context_path").propose(recipe, odd)
    assert list(proposal.left_out) == ["hidden = D"]
    assert "hidden = D" not in [arm.name for arm in proposal.arms]


def test_the_arms_of_the_report_are_there() -> None:
    base = tiny.recipe()
    assert names("projection_head", base) == [
        "search in the projected space",
        "InfoNCE in the raw space",
        "gradient through both branches",
    ]
    assert names("temperature", base) == [
        "temperature 0.05",
        "temperature 0.10",
        "temperature 0.15",
    ]
    assert names("contrastive_weight", base) == ["weights 0.85 / 0.15", "weights 0.90 / 0.10"]
    assert len(names("negatives", base, MANY)) == 5
    assert f"batch {LARGE_BATCH}" in names("negatives", base, MANY)
    assert len(names("anchor_mmd", base)) == 2


def test_a_batch_that_data_cannot_fill_is_left_out_with_the_count() -> None:
    proposal = STEPS.get("negatives").propose(tiny.recipe(), FEW)
    assert "NOT_EVALUABLE: 0 updates" in proposal.left_out[f"batch {LARGE_BATCH}"]


def test_the_whole_bank_and_sampled_tiers_never_meet() -> None:
    step = STEPS.get("negatives")
    recipe = tiny.recipe(**TIERS)
    (bank,) = (a for a in step.propose(recipe, FEW).arms if "bank" in a.name)
    assert recipe.with_changes(bank.changes).negatives.sampled == 0
    assert step.propose(tiny.recipe(**{"negatives.candidates": "bank"}), MANY).arms == ()


# --- the open questions --------------------------------------------------------------------------


def test_the_arms_of_the_open_questions_are_there() -> None:
    base = tiny.recipe()
    assert names("projection_at_inference", base) == ["search in the projected space"]
    assert names("infonce_alone", base) == ["InfoNCE alone"]
    assert names("architecture", base) == ["two towers", "GRU", "transformer"]
    assert names("architecture", tiny.recipe(**{"model.name": "gru"})) == [
        "two towers",
        "Mamba-2",
        "transformer",
    ]
    assert names("context_length", base) == ["context of 10", "context of 20"]
    assert names("context_length", tiny.recipe(context_length=10)) == [
        "context of 5",
        "context of 20",
    ]
    assert names("stop_gradient", base) == ["stop-gradient on the prediction", "no stop-gradient"]


STOPPED = {"objective.stop_gradient": "prediction"}


@pytest.mark.parametrize(
    ("step", "changes", "left_out", "word"),
    [
        ("infonce_alone", {**STOPPED, "search_space": "projected"}, ["InfoNCE alone"], "ar_weight"),
        (
            "stop_gradient",
            {"objective.ar_weight": 0.0},
            ["stop-gradient on the prediction"],
            "ar_weight",
        ),
        (
            "anchor_mmd",
            {**STOPPED, "objective.ar_weight": 0.0, "objective.mmd_weight": 0.1},
            ["anchor, gradient-balanced"],
            "mmd_balance",
        ),
    ],
)
def test_an_arm_that_would_train_nothing_is_left_out_with_the_reason(
    step, changes, left_out, word
) -> None:
    base = tiny.recipe(**changes)
    proposal = STEPS.get(step).propose(base, FEW)
    assert list(proposal.left_out) == left_out
    assert word in proposal.left_out[left_out[0]]
    for arm in proposal.arms:
        assert base.with_changes(arm.changes) != base


def test_infonce_alone_is_held_against_both_terms_in_the_space_of_the_search() -> None:
    """In the split space of the base recipe, it would only answer the question of step 1."""
    proposal = STEPS.get("infonce_alone").propose(tiny.recipe(), FEW)
    control = tiny.recipe().with_changes(proposal.control)
    assert (control.objective.space, control.search_space) == ("raw", "raw")
    changed = tiny.recipe().with_changes(proposal.arms[0].changes)
    assert changed == control.with_changes({"objective.ar_weight": 0.0})
    same = STEPS.get("infonce_alone").propose(tiny.recipe(search_space="projected"), FEW)
    assert same.control == {}


def test_a_length_that_the_data_cannot_be_cut_for_is_left_out_with_the_reason() -> None:
    short = Facts(
        num_train_windows=170, width=16, why_not_cut=lambda t: "too short" if t > 10 else ""
    )
    proposal = STEPS.get("context_length").propose(tiny.recipe(), short)
    assert [arm.name for arm in proposal.arms] == ["context of 10"]
    assert proposal.left_out == {"context of 20": "NOT_EVALUABLE: too short"}


def test_a_network_whose_sizes_do_not_fit_is_left_out() -> None:
    proposal = STEPS.get("architecture").propose(tiny.recipe(**{"model.hidden": 24}), FEW)
    assert [arm.name for arm in proposal.arms] == ["GRU"]
    assert "head_dim 16 does not divide 24" in proposal.left_out["transformer"]
