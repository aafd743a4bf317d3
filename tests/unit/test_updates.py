"""A GPU's updates on the CPU: the same numbers, nothing read by the host, a graph recorded."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math

import numpy as np
import pytest
import tape
import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lvm.core.errors import NonFiniteLossError
from lvm.data.bank import Bank
from lvm.losses.infonce import PerRow, SameGroup
from lvm.models.predictor import Predictor
from lvm.training import candidates as candidates_module
from lvm.training import loop, objective, updates
from lvm.training import state as training_state
from lvm.training.candidates import DeviceCandidates
from lvm.training.checkpoint import load_checkpoint, read_manifest
from lvm.training.manifest import Stated
from lvm.training.negatives import NegativeSampler
from lvm.training.state import TrainingState
from lvm.training.world import World

RECIPES = {
    "base": {},
    "cosine alone": {"objective.contrastive_weight": 0.0, "objective.ar_weight": 1.0},
    "sampled negatives, margin": {
        "negatives.same_article": 1,
        "negatives.random": 2,
        "objective.space": "raw",
        "negatives.false_negative_margin": 0.9,
    },
    "whole bank, balanced MMD": {
        "negatives.candidates": "bank",
        "objective.mmd_weight": 0.5,
        "objective.mmd_balance": "gradient",
        "objective.stop_gradient": "none",
    },
    "two towers, dropout": {"model.name": "two_tower", "model.dropout": 0.1},
}


def validate(predictor, epoch):
    return {"eval_cosine": 0.0}


def run(recipe, dataset, folder, *, epochs=None):
    training = loop.train(recipe, dataset, folder, validate=validate)
    return list(itertools.islice(training, epochs))


@pytest.fixture
def as_on_gpu(monkeypatch):
    """Train the way a GPU does, each kernel started by the host."""
    monkeypatch.setattr(training_state, "_is_gpu", lambda device: True)


@pytest.fixture
def captured(as_on_gpu, monkeypatch):
    """Train the way a GPU does, with a recorded update; return the trainings' updates."""
    made, build = [], TrainingState._device_updates

    def capturing(state):
        found = build(state)
        found._may_capture = True
        made.append(found)
        return found

    monkeypatch.setattr(TrainingState, "_device_updates", capturing)
    monkeypatch.setattr(updates, "capture", tape.capture)
    return made


def weights(folder):
    return torch.cat([t.flatten() for t in load_checkpoint(folder / "checkpoint")[0].parameters()])


def close(one, other, tolerance):
    for a, b in zip(one, other, strict=True):
        assert a.epoch == b.epoch
        assert a.negatives == b.negatives
        for name in ("train", "health"):
            left, right = getattr(a, name), getattr(b, name)
            assert left.keys() == right.keys()
            assert left == pytest.approx(right, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("name", RECIPES)
def test_the_updates_of_a_gpu_are_those_of_the_cpu(name, tiny_dataset, tmp_path, monkeypatch):
    recipe = tiny.recipe(**RECIPES[name])
    plain = run(recipe, tiny_dataset, tmp_path / "cpu")
    monkeypatch.setattr(training_state, "_is_gpu", lambda device: True)
    found = run(recipe, tiny_dataset, tmp_path / "gpu")
    close(found, plain, 1e-4)  # the rate is float32 there
    torch.testing.assert_close(
        weights(tmp_path / "gpu"), weights(tmp_path / "cpu"), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("name", RECIPES)
def test_a_recorded_update_gives_the_same_numbers(
    name, captured, tiny_dataset, tmp_path, monkeypatch
):
    """And reads nothing on the host: the recording would refuse it."""
    recipe = tiny.recipe(**RECIPES[name])
    monkeypatch.setattr(objective, "_without_waiting", lambda value: value)  # as on a GPU
    with monkeypatch.context() as patch:
        patch.setattr(updates, "WARM_UP", 10**9)
        one_by_one = run(recipe, tiny_dataset, tmp_path / "plain")
    recorded = run(recipe, tiny_dataset, tmp_path / "graph")
    assert [u.is_captured for u in captured] == [False, True]
    assert len(recorded) == recipe.training.epochs
    close(recorded, one_by_one, 1e-12)
    assert torch.equal(weights(tmp_path / "graph"), weights(tmp_path / "plain"))


def test_a_resumed_training_records_anew_and_ends_the_same(captured, tiny_dataset, tmp_path):
    recipe = tiny.recipe()
    whole = run(recipe, tiny_dataset, tmp_path / "whole")
    run(recipe, tiny_dataset, tmp_path / "parts", epochs=1)
    parts = run(recipe, tiny_dataset, tmp_path / "parts")
    close(parts, whole, 1e-12)
    assert torch.equal(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


def test_a_checkpoint_of_a_gpu_goes_on_on_a_cpu(tiny_dataset, tmp_path, monkeypatch):
    recipe = tiny.recipe()
    whole = run(recipe, tiny_dataset, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(training_state, "_is_gpu", lambda device: True)
        run(recipe, tiny_dataset, tmp_path / "parts", epochs=1)
    state = torch.load(tmp_path / "parts" / "checkpoint" / "state.pt", weights_only=True)
    assert all(type(g["lr"]) is float for g in state["optimizer"]["param_groups"])
    close(run(recipe, tiny_dataset, tmp_path / "parts"), whole, 1e-4)


class Readings(TorchDispatchMode):
    """Counts what makes the host wait for a device."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name in tape.REFUSED:
            self.count += 1
        return func(*args, **(kwargs or {}))


def test_the_host_reads_a_few_times_an_epoch(as_on_gpu, tiny_dataset, tmp_path):
    recipe = tiny.recipe(**{"training.batch_size": 8, "negatives.random": 1})
    state = TrainingState(recipe, tiny_dataset, tmp_path, World(), Stated())
    state.sampler.refresh(1)
    count = state.updates_per_epoch
    assert count >= 16
    state.updates.begin(np.arange(len(tiny_dataset.train)), [1e-3] * count)
    with Readings() as readings:
        for _ in range(count):
            state.updates.make()
        assert readings.count == 0
        state.updates.check()
        assert readings.count == 1


def test_updates_are_timed_after_the_capture_and_change_no_weight(captured, tiny_dataset):
    torch.manual_seed(0)
    seconds, before = loop.time_updates(tiny.recipe(), tiny_dataset, num_updates=3)
    assert seconds > 0
    assert before > 0
    (timed,) = captured
    assert timed.is_captured
    untrained = Predictor(tiny.recipe(), tiny_dataset.bank.width).state_dict()
    for name, tensor in timed.parts.predictor.state_dict().items():
        assert torch.equal(tensor, untrained[name]), name


# --- what is not finite ---------------------------------------------------------------------------


def poison(monkeypatch, *, at):
    """Make the loss of update `at` (from 1) NaN."""
    real, count = updates.objective, itertools.count(1)

    def poisoned(recipe, outputs, world):
        result = real(recipe, outputs, world)
        bad = next(count) == at
        return dataclasses.replace(result, total=result.total * math.nan) if bad else result

    monkeypatch.setattr(updates, "objective", poisoned)


def test_an_update_that_is_not_finite_changes_nothing_nor_do_those_after_it(
    as_on_gpu, tiny_dataset, tmp_path, monkeypatch
):
    state = TrainingState(tiny.recipe(), tiny_dataset, tmp_path, World(), Stated())
    state.sampler.refresh(1)
    poison(monkeypatch, at=3)
    state.updates.begin(np.arange(len(tiny_dataset.train)), [1e-3] * state.updates_per_epoch)

    def all_numbers():
        moments = [t for s in state.optimizer.state.values() for t in s.values()]
        return [t.clone() for t in (*state.predictor.parameters(), *moments)]

    seen = []
    for _ in range(5):
        state.updates.make()
        seen.append(all_numbers())
    same = [all(map(torch.equal, *pair)) for pair in itertools.pairwise(seen)]
    assert same == [False, True, True, True]
    with pytest.raises(NonFiniteLossError, match=r"loss is nan and the gradient norm nan"):
        state.updates.check()


def test_it_ends_the_training_before_the_epoch_is_saved(
    as_on_gpu, tiny_dataset, tmp_path, monkeypatch
):
    recipe = tiny.recipe()
    whole = run(recipe, tiny_dataset, tmp_path / "whole")
    broken, count = tmp_path / "broken", len(tiny_dataset.train) // recipe.training.batch_size
    with monkeypatch.context() as patch:
        poison(patch, at=count + count)  # the last update of epoch 2
        training = loop.train(recipe, tiny_dataset, broken, validate=validate)
        next(training)
        saved = {p.name: p.read_bytes() for p in (broken / "checkpoint").iterdir()}
        with pytest.raises(NonFiniteLossError):
            next(training)
    assert {p.name: p.read_bytes() for p in (broken / "checkpoint").iterdir()} == saved
    assert read_manifest(broken / "checkpoint").epoch == 1
    close(run(recipe, tiny_dataset, broken), whole, 1e-12)


# --- a capture that fails -------------------------------------------------------------------------


def test_a_failed_capture_is_named_once_and_training_goes_on(
    captured, tiny_dataset, tmp_path, monkeypatch, caplog
):
    recipe, calls = tiny.recipe(), []

    def broken(step, stream):
        calls.append(step)
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(updates, "capture", broken)
    with caplog.at_level(logging.WARNING):
        found = run(recipe, tiny_dataset, tmp_path / "a")
    assert len(calls) == 1
    assert [record.message for record in caplog.records] == [
        "No CUDA graph for an update (RuntimeError: operation not permitted when stream is "
        "capturing); kernels are launched one by one."
    ]
    monkeypatch.setattr(updates, "WARM_UP", 10**9)
    close(found, run(recipe, tiny_dataset, tmp_path / "b"), 1e-12)


# --- candidates -----------------------------------------------------------------------------------


def with_copies(*, many: bool) -> Bank:
    """The tiny bank with rows that equal each other bit by bit; with `many`, a quarter of them."""
    bank = tiny.bank()
    vectors = bank.vectors.copy()
    copies = np.arange(1, len(vectors), 4 if many else 29)
    vectors[copies] = vectors[0] if many else vectors[copies - 1]
    return Bank(vectors, bank.keys)


def pairs_of(drawn) -> set[tuple[int, int]]:
    excluded = drawn.excluded
    if isinstance(excluded, PerRow):
        hit = [(b, c) for b, row in enumerate(excluded.columns.tolist()) for c in row]
    else:
        same = (excluded.rows[:, :, None] == excluded.columns).any(1)
        hit = [tuple(pair) for pair in same.nonzero().tolist()]
    return {pair for pair in hit if pair[1] != int(drawn.positive[pair[0]])}


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("mode", ["batch", "bank"])
@pytest.mark.parametrize("world", [World(), World(1, 2)])
def test_the_device_lists_the_candidates_of_the_sampler(mode, many, world, monkeypatch):
    monkeypatch.setattr(candidates_module, "MAX_COLUMNS_PER_ROW", 100)
    data = tiny.dataset(with_copies(many=many))
    changes = {"negatives.candidates": mode}
    if mode == "batch":
        changes |= {"negatives.random": 2, "negatives.same_article": 1}
    recipe = tiny.recipe(**changes)
    sampler = NegativeSampler(data.bank, data.train, recipe.negatives, seed=0)
    rows = world.slice(32)
    device = DeviceCandidates(
        sampler, data.train, data.bank.tensor, rows, whole_bank=mode == "bank", half=None
    )
    for epoch in (1, 2):
        sampler.refresh(epoch)
        device.refresh()
        batch = np.random.default_rng(epoch).permutation(len(data.train))[:32]
        wanted, drawn = sampler.candidates(batch, rows), device.of(torch.from_numpy(batch))
        kind = PerRow if mode == "bank" and not many else SameGroup
        assert isinstance(drawn.excluded, kind)
        assert drawn.positive.tolist() == wanted.positive.tolist()
        assert torch.equal(drawn.raw_candidates, data.bank.tensor[torch.from_numpy(wanted.ids)])
        local = batch[rows]
        assert torch.equal(drawn.targets, data.bank.tensor[data.train.targets[local]])
        assert torch.equal(drawn.contexts, data.bank.tensor[data.train.contexts[local]])
        assert pairs_of(drawn) == set(map(tuple, wanted.excluded.tolist()))
        assert len(wanted.excluded) > 0
