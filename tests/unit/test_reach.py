"""What an objective reaches: every network, and documents in one space with their targets."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from lvm.core.config.recipe import Recipe
from lvm.core.errors import ConfigError
from lvm.losses.infonce import infonce
from lvm.models.base import MODELS
from lvm.models.predictor import Predictor
from lvm.training import loop
from lvm.training.manifest import Stated
from lvm.training.objective import objective
from lvm.training.reach import unreached
from lvm.training.state import TrainingState
from lvm.training.world import World


def idle_names(**changes: object) -> set[str]:
    recipe = tiny.recipe(**changes)
    predictor = Predictor(recipe, tiny.WIDTH)
    rows = tiny.bank().tensor[:12]
    named = {id(parameter) for parameter in idle(predictor, recipe, rows)}
    return {name for name, p in predictor.named_parameters() if id(p) in named}


def idle(predictor: Predictor, recipe: Recipe, rows: torch.Tensor) -> list[nn.Parameter]:
    contexts, targets = rows.view(2, 6, -1), rows[:2]
    return unreached(predictor, recipe, contexts, targets, World(), autocast=False)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({}, None),
        ({"model.name": "two_tower", "objective.space": "raw"}, None),
        ({"model.name": "two_tower", "objective.stop_gradient": "none"}, None),
        ({"model.name": "two_tower"}, "model.encoder.document_tower"),  # behind the stopped branch
        (
            {
                "model.name": "two_tower",
                "objective.space": "raw",
                "objective.contrastive_weight": 0.0,
            },
            "model.encoder.document_tower",
        ),
    ],
)
def test_only_a_document_tower_may_be_left_out(changes, part) -> None:
    recipe = tiny.recipe(**changes)
    names = {name for name, _ in Predictor(recipe, tiny.WIDTH).named_parameters()}
    assert idle_names(**changes) == {n for n in names if part is not None and n.startswith(part)}


def test_every_recipe_that_is_accepted_trains_its_network() -> None:
    """Every model under every objective: where no refusal comes, a gradient does."""
    rows = tiny.bank().tensor[:12]
    accepted = refused = 0
    for model, space, stop, contrastive, ar, mmd, balance in itertools.product(
        MODELS.names(),
        ("raw", "projected"),
        ("target", "prediction", "none"),
        (0.0, 0.7),
        (0.0, 0.3),
        (0.0, 0.3),
        ("fixed", "gradient"),
    ):
        changes = {
            "model.name": model,
            "objective.space": space,
            "objective.stop_gradient": stop,
            "objective.contrastive_weight": contrastive,
            "objective.ar_weight": ar,
            "objective.mmd_weight": mmd,
            "objective.mmd_balance": balance,
        }
        try:
            recipe = tiny.recipe(**changes)
        except ConfigError:
            refused += 1
            continue
        predictor = Predictor(recipe, tiny.WIDTH)
        with tiny.shapes_known():
            named = {id(parameter) for parameter in idle(predictor, recipe, rows)}
        tower = getattr(predictor.model.encoder, "document_tower", nn.Module())
        for parameter in {*predictor.model.parameters()} - {*tower.parameters()}:
            assert id(parameter) not in named, changes
        accepted += 1
    assert accepted > 3 * refused > 0


@pytest.mark.parametrize("space", ["raw", "projected"])
def test_a_margin_compares_targets_with_candidates_in_one_space(space: str) -> None:
    """Two towers move both: held against the bank's rows, a target was not even its own copy."""
    margin = 0.5
    recipe = tiny.recipe(
        **{
            "model.name": "two_tower",
            "objective.space": space,
            "objective.ar_weight": 0.1,
            "negatives.false_negative_margin": margin,
            "negatives.random": 1,
        }
    )
    data = tiny.dataset()
    state = TrainingState(recipe, data, Path("nowhere"), World(), Stated())
    with torch.no_grad():  # as far from the identity as training may take it
        state.predictor.model.encoder.document_tower.down.weight.mul_(20)
    state.sampler.refresh(1)
    outputs = loop._forward(state, np.arange(32))
    documents, targets = outputs.documents, outputs.targets
    torch.testing.assert_close(documents[outputs.positive], targets)
    raw = data.bank.tensor[torch.from_numpy(data.train.targets[:32])]
    assert float((targets * raw).sum(dim=1).mean()) < 0.9  # the tower does move them
    near = (targets @ documents.T > margin).nonzero()
    wanted = infonce(
        outputs.queries,
        outputs.candidates,
        outputs.positive,
        temperature=recipe.objective.temperature,
        excluded=torch.cat([outputs.excluded, near]),
    )
    found = objective(recipe, outputs, World())
    assert float(found.logged["num_negatives"]) == float(wanted.num_negatives) < 62
    torch.testing.assert_close(found.terms["contrastive"], wanted.loss)
