from __future__ import annotations

import dataclasses
import itertools
import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch

from lvm.core.errors import CheckpointError, ConfigError, DataError, NonFiniteLossError
from lvm.core.randomness import numpy_generator
from lvm.data.sketch import Sketches
from lvm.training import loop
from lvm.training import state as training_state
from lvm.training.checkpoint import load_checkpoint, read_manifest
from lvm.training.epochs import read_epochs
from lvm.training.loop import train
from lvm.training.world import World

# Everything that draws or carries state: dropout, sampled negatives, a balanced MMD term.
RICH = {
    "training.epochs": 4,
    "model.dropout": 0.1,
    "negatives.same_article": 1,
    "negatives.nearby_article": 1,
    "negatives.random": 2,
    "objective.mmd_weight": 0.3,
    "objective.mmd_balance": "gradient",
    "objective.stop_gradient": "none",
}


def validate(predictor, epoch):
    return {"eval_cosine": float(epoch)}


def run(recipe, dataset, folder, *, epochs=None):
    return list(itertools.islice(train(recipe, dataset, folder, validate=validate), epochs))


def numbers(records):
    """Drop the clock."""
    return [dataclasses.replace(record, seconds=0.0) for record in records]


def weights(folder):
    return load_checkpoint(folder / "checkpoint")[0].state_dict()


def same_weights(one, two) -> bool:
    a, b = weights(one), weights(two)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def rich():
    return tiny.recipe(**RICH)


@pytest.fixture(scope="module")
def whole(rich, tiny_dataset, tmp_path_factory):
    """An uninterrupted training: its records, its folder, and what a kill after each epoch left."""
    folder, kept = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("kept")
    records, after = [], {}
    for record in train(rich, tiny_dataset, folder, validate=validate):
        records.append(record)
        after[record.epoch] = shutil.copytree(folder, kept / str(record.epoch))
    return SimpleNamespace(records=records, folder=folder, after=after)


def test_training_learns(tiny_dataset, tmp_path) -> None:
    recipe = tiny.recipe(**{"training.epochs": 8})
    records = tiny.records(train(recipe, tiny_dataset, tmp_path, validate=validate))
    losses = [record.train["loss"] for record in records]
    assert losses[-1] < 0.7 * losses[0]
    assert [record.epoch for record in records] == list(range(1, 9))
    assert all(record.train["gradient_norm"] > 0 for record in records)


def test_the_loss_is_the_weighted_sum_of_its_terms(tiny_dataset, tmp_path) -> None:
    recipe = tiny.recipe(**{"objective.mmd_weight": 0.5, "training.epochs": 1})
    (record,) = run(recipe, tiny_dataset, tmp_path)
    terms, o = record.train, recipe.objective
    want = o.contrastive_weight * terms["contrastive"] + o.ar_weight * terms["ar"]
    assert terms["loss"] == pytest.approx(want + o.mmd_weight * terms["mmd"], rel=1e-6)


@pytest.mark.parametrize("epochs_before", [1, 2, 3])
def test_resuming_is_bit_for_bit(
    epochs_before, whole, rich, tiny_dataset, tmp_path, shapes_checked_before
) -> None:
    parts = shutil.copytree(whole.after[epochs_before], tmp_path / "parts")
    assert len(read_epochs(parts)) == epochs_before
    torch.manual_seed(12345)  # another process has another global stream
    torch.rand(7)
    both = run(rich, tiny_dataset, parts)
    assert numbers(both) == numbers(whole.records) == numbers(read_epochs(parts))
    assert same_weights(whole.folder, parts)


@pytest.mark.parametrize("moment", ["checkpoint", "records"])
def test_a_kill_while_an_epoch_is_saved_costs_that_epoch_alone(
    moment, whole, rich, tiny_dataset, tmp_path, monkeypatch, shapes_checked_before
) -> None:
    parts = shutil.copytree(whole.after[2], tmp_path / "parts")
    name = {"checkpoint": "save_checkpoint", "records": "write_epochs"}[moment]

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training_state, name, killed)
        with pytest.raises(KeyboardInterrupt):
            run(rich, tiny_dataset, parts)
    assert read_manifest(parts / "checkpoint").epoch == 2
    assert numbers(run(rich, tiny_dataset, parts)) == numbers(whole.records)
    assert numbers(read_epochs(parts)) == numbers(whole.records)
    assert same_weights(whole.folder, parts)


def test_a_kill_between_the_two_renames_of_a_checkpoint_is_survived(
    whole, rich, tiny_dataset, tmp_path, monkeypatch, shapes_checked_before
) -> None:
    real, trained = loop._train_epoch, []

    def noted(state, epoch):
        trained.append(epoch)
        return real(state, epoch)

    monkeypatch.setattr(loop, "_train_epoch", noted)
    parts = shutil.copytree(whole.after[2], tmp_path / "parts")
    (parts / "checkpoint").rename(parts / ".checkpoint.old")
    assert numbers(run(rich, tiny_dataset, parts)) == numbers(whole.records)
    assert trained == [3, 4]  # from the older copy, not from the start
    assert same_weights(whole.folder, parts)


def test_a_finished_training_is_only_read_again(whole, rich, tiny_dataset, monkeypatch) -> None:
    monkeypatch.setattr(loop, "_train_epoch", None)
    assert run(rich, tiny_dataset, whole.folder) == whole.records


def poison(monkeypatch, *, at):
    """Make the loss of update `at` (from 1) NaN; count updates."""
    real, count = loop.objective, itertools.count(1)

    def poisoned(recipe, outputs, world):
        result = real(recipe, outputs, world)
        bad = next(count) == at
        return dataclasses.replace(result, total=result.total * math.nan) if bad else result

    monkeypatch.setattr(loop, "objective", poisoned)


def test_a_loss_that_is_not_finite_makes_no_update(
    whole, rich, tiny_dataset, tmp_path, monkeypatch, shapes_checked_before
) -> None:
    broken = tmp_path / "broken"
    updates = len(tiny_dataset.train) // rich.training.batch_size
    real, untouched = loop._update, []

    def watched(state, batch, probe):
        before = {k: v.clone() for k, v in state.predictor.state_dict().items()}
        try:
            return real(state, batch, probe)
        except NonFiniteLossError:
            after = state.predictor.state_dict()
            untouched.append(all(torch.equal(before[k], after[k]) for k in before))
            raise

    with monkeypatch.context() as patch:
        poison(patch, at=2 * updates + 2)  # the second update of epoch 3
        patch.setattr(loop, "_update", watched)
        training = train(rich, tiny_dataset, broken, validate=validate)
        kept = [next(training), next(training)]
        saved = {p.name: p.read_bytes() for p in (broken / "checkpoint").iterdir()}
        with pytest.raises(NonFiniteLossError, match="loss is nan"):
            next(training)
    assert untouched == [True]
    assert numbers(kept) == numbers(whole.records[:2])
    assert {p.name: p.read_bytes() for p in (broken / "checkpoint").iterdir()} == saved
    assert numbers(run(rich, tiny_dataset, broken)) == numbers(whole.records)


def test_a_gradient_that_is_not_finite_is_caught_as_well(
    tiny_dataset, tmp_path, monkeypatch
) -> None:
    real = loop.objective

    def poisoned(recipe, outputs, world):
        result = real(recipe, outputs, world)
        # A finite loss whose derivative is infinite.
        cliff = (outputs.predictions.sum() * 0).clamp_min(0).sqrt()
        return dataclasses.replace(result, total=result.total + cliff)

    monkeypatch.setattr(loop, "objective", poisoned)
    with pytest.raises(NonFiniteLossError, match=r"loss is \d.*gradient norm nan"):
        run(tiny.recipe(), tiny_dataset, tmp_path)


def test_a_learning_rate_that_blows_up_ends_before_anything_is_saved(
    tiny_dataset, tmp_path
) -> None:
    recipe = tiny.recipe(**{"training.learning_rate": 1e3})
    with pytest.raises(NonFiniteLossError, match=r"lower training\.learning_rate"):
        run(recipe, tiny_dataset, tmp_path)
    assert read_manifest(tmp_path / "checkpoint") is None


def test_another_recipe_or_other_data_in_the_folder_is_refused(tiny_dataset, tmp_path) -> None:
    recipe = tiny.recipe(**{"training.epochs": 1})
    run(recipe, tiny_dataset, tmp_path)
    with pytest.raises(CheckpointError, match="another recipe"):
        run(recipe.with_changes({"objective.temperature": 0.1}), tiny_dataset, tmp_path)
    with pytest.raises(CheckpointError, match="another data"):
        run(recipe, tiny.dataset(tiny.bank(seed=1)), tmp_path)


def test_a_batch_larger_than_the_split_is_refused(tiny_dataset, tmp_path) -> None:
    size = len(tiny_dataset.train)
    with pytest.raises(DataError, match=f"{size} windows but a batch needs {size + 1}"):
        run(tiny.recipe(**{"training.batch_size": size + 1}), tiny_dataset, tmp_path)
    (record,) = run(
        tiny.recipe(**{"training.batch_size": size, "training.epochs": 1}), tiny_dataset, tmp_path
    )
    assert math.isfinite(record.train["loss"])


def test_a_batch_that_the_workers_cannot_share_is_refused(
    tiny_dataset, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(World, "current", classmethod(lambda cls, device: World(0, 3, device)))
    with pytest.raises(ConfigError, match="multiple of the 3 workers"):
        run(tiny.recipe(), tiny_dataset, tmp_path)


@pytest.mark.parametrize("tiers", [{}, {"negatives.same_article": 2, "negatives.random": 1}])
def test_the_number_of_negatives_that_is_logged_is_the_number_there_are(
    tiers, tiny_dataset, tmp_path
) -> None:
    recipe = tiny.recipe(**{"training.epochs": 1, **tiers})
    (record,) = run(recipe, tiny_dataset, tmp_path)
    windows, size = tiny_dataset.train, recipe.training.batch_size
    order = numpy_generator(recipe.seed, "shuffle", 1).permutation(len(windows))
    sampler = training_state.NegativeSampler(
        tiny_dataset.bank, windows, recipe.negatives, recipe.seed
    )
    sampler.refresh(1)
    counts = []
    for start in range(0, len(windows) // size * size, size):
        batch = order[start : start + size]
        ids = sampler.candidates(batch, slice(0, size)).ids
        assert ids[:size].tolist() == windows.targets[batch].tolist()
        assert len(ids) == size * (1 + recipe.negatives.sampled)
        for window in batch:  # the tiny bank holds no two equal vectors
            own = {windows.targets[window], *windows.contexts[window]}
            counts.append(sum(row not in own for row in ids.tolist()))
    assert record.train["num_negatives"] == pytest.approx(np.mean(counts), abs=1e-3)
    assert sum(v for k, v in record.negatives.items() if not k.startswith("num_")) == (
        pytest.approx(1)
    )


def test_the_whole_bank_gives_every_train_row_but_the_own_ones(tiny_dataset, tmp_path) -> None:
    recipe = tiny.recipe(**{"training.epochs": 1, "negatives.candidates": "bank"})
    (record,) = run(recipe, tiny_dataset, tmp_path)
    rows = int(np.isin(tiny_dataset.bank.articles, np.unique(tiny_dataset.train.articles)).sum())
    assert record.train["num_negatives"] == pytest.approx(rows - 1 - 5)


def test_the_learning_rate_warms_up_and_falls_to_nothing() -> None:
    shares = [training_state._warmup_cosine(update, 10, 100) for update in range(100)]
    assert shares[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert shares[10] == 1
    assert all(a > b for a, b in itertools.pairwise(shares[10:]))
    assert 0 < shares[-1] < 1e-3


def test_the_manifest_says_what_the_model_has_seen(tiny_dataset, tmp_path) -> None:
    recipe = tiny.recipe(**{"training.epochs": 1})
    for _ in train(recipe, tiny_dataset, tmp_path, validate=validate, commit="c", parents=["p"]):
        pass
    manifest = json.loads((tmp_path / "checkpoint" / "manifest.json").read_text())
    assert set(manifest["articles_seen"]) == set(tiny_dataset.train.articles.tolist())
    assert set(manifest["articles_seen"]).isdisjoint(tiny_dataset.test.articles.tolist())
    kept = Sketches.from_plain(manifest["text_seen"])
    assert kept is not None
    assert set(kept.articles.tolist()) <= set(manifest["articles_seen"])
    assert (manifest["commit"], manifest["parents"], manifest["epoch"]) == ("c", ["p"], 1)
    assert manifest["data"] == tiny_dataset.fingerprint
    assert manifest["val_cosine"] == 1.0
