"""Every objective that a recipe allows has the same gradients on two workers as in one process."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import torch.multiprocessing

from lvm.core.config.recipe import Recipe
from lvm.core.errors import ConfigError
from lvm.data.bank import Bank
from lvm.data.windows import Dataset, dataset_from_bank
from lvm.training import loop
from lvm.training.manifest import Stated
from lvm.training.objective import objective
from lvm.training.state import TrainingState
from lvm.training.world import World

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

TOLERANCE = 1e-5  # of the length of the whole gradient

CANDIDATES: dict[str, dict[str, Any]] = {
    "batch": {},
    "sampled": {
        "negatives.same_article": 1,
        "negatives.nearby_article": 1,
        "negatives.random": 2,
    },
    "bank": {"negatives.candidates": "bank"},
}
MMD: dict[str, dict[str, Any]] = {
    "no": {},
    "fixed": {"objective.mmd_weight": 0.3},
    "balanced": {"objective.mmd_weight": 0.3, "objective.mmd_balance": "gradient"},
}
SPACES = [("raw", "target"), *(("projected", stop) for stop in ("target", "prediction", "none"))]
WEIGHTS = [(0.7, 0.3), (0.7, 0.0), (0.0, 0.3)]
GRID = list(
    itertools.product(("mamba2", "two_tower"), SPACES, CANDIDATES, MMD, (None, 0.5), WEIGHTS)
)


def allowed() -> Iterator[tuple[str, Recipe]]:
    """Every combination that the recipe does not refuse, by its name; equal ones once."""
    seen = set()
    for model, (space, stop), candidates, mmd, margin, (contrastive, ar) in GRID:
        changes = {
            "model.name": model,
            "objective.space": space,
            "objective.stop_gradient": stop,
            "objective.contrastive_weight": contrastive,
            "objective.ar_weight": ar,
            "negatives.false_negative_margin": margin,
            **CANDIDATES[candidates],
            **MMD[mmd],
        }
        if contrastive == 0 and (candidates != "batch" or margin or (space, stop) != SPACES[0]):
            continue  # nothing of these is asked without a contrastive term
        try:
            recipe = tiny.recipe(**changes)
        except ConfigError:
            continue
        name = f"{model} {space}/{stop} {candidates} mmd={mmd} margin={margin} {contrastive}/{ar}"
        assert name not in seen
        seen.add(name)
        yield name, recipe


def data() -> Dataset:
    """The tiny bank with copies in it, so that masks have something to leave out."""
    bank = tiny.bank()
    vectors, rng = np.array(bank.vectors), np.random.default_rng(1)
    vectors[rng.integers(len(vectors), size=20)] = vectors[rng.integers(len(vectors), size=20)]
    return dataset_from_bank(Bank(vectors, bank.keys), 5)


def gradient(recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    """Return the loss, the weights, and the whole gradient of the first update, in parts."""
    world = World.current()
    state = TrainingState(recipe, dataset, Path("nowhere"), world, Stated())
    state.sampler.refresh(1)
    state.network.train()
    order = np.random.default_rng(7).permutation(len(dataset.train))
    for update in range(2):  # DDP complains of what did not come in the first one in the second
        batch = order[update * 32 : update * 32 + 32]
        outputs = loop._forward(state, batch)
        state.optimizer.zero_grad(set_to_none=True)
        result = objective(recipe, outputs, world)
        result.total.backward()
    loss = world.sum(result.total.detach().double()) / world.size
    parts = {
        name: torch.zeros(1) if p.grad is None else p.grad.flatten().clone()
        for name, p in state.predictor.named_parameters()
    }
    return {
        "loss": float(loss),
        "weights": {name: float(weight) for name, weight in result.weights.items()},
        "negatives": float(world.sum(result.logged["num_negatives"])) / world.size,
        "encoder": float(sum(g.norm() for n, g in parts.items() if n.startswith("model.encoder"))),
        "gradient": parts,
    }


def every_gradient() -> dict[str, dict[str, Any]]:
    dataset = data()
    with tiny.shapes_known():
        return {name: gradient(recipe, dataset) for name, recipe in allowed()}


def worker(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    found = every_gradient()
    if rank == 0:
        torch.save(found, folder / "two.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[dict[str, Any], dict[str, Any]]:
    """What one process finds, and what two workers do: one pair of them for all combinations."""
    folder = tmp_path_factory.mktemp("parity")
    torch.multiprocessing.spawn(worker, args=(folder,), nprocs=2, join=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    one = every_gradient()
    torch.set_num_threads(threads)
    return one, torch.load(folder / "two.pt", weights_only=True)


def test_the_gradients_of_two_workers_are_those_of_one_process(both) -> None:
    one, two = both
    assert one.keys() == two.keys()
    assert len(one) > 240
    wrong = {}
    for name, alone in one.items():
        shared = two[name]
        assert alone["gradient"].keys() == shared["gradient"].keys()
        pairs = [(alone["gradient"][key], shared["gradient"][key]) for key in alone["gradient"]]
        apart = sum(float((a.double() - b.double()).square().sum()) for a, b in pairs) ** 0.5
        whole = sum(float(a.double().square().sum()) for a, _ in pairs) ** 0.5
        if apart > TOLERANCE * whole:
            wrong[name] = apart / whole
    assert wrong == {}


def test_losses_weights_and_negatives_are_equal_too(both) -> None:
    one, two = both
    for name, alone in one.items():
        for key in ("loss", "negatives", "weights"):
            assert two[name][key] == pytest.approx(alone[key], rel=1e-4, abs=1e-6), (name, key)


def test_every_recipe_that_is_allowed_trains_its_encoder(both) -> None:
    for name, alone in both[0].items():
        assert alone["encoder"] > 1e-6, name
