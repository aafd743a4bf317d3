"""Planted trainings, one defect each as the catalogue plants it, and clean ones beside them."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from torch.nn import functional

from lvm.audit import training as checks
from lvm.audit.check import CHECKS
from lvm.audit.finding import NotEvaluable, Severity
from lvm.audit.training import training_findings
from lvm.audit.training_log import (
    TrainingLog,
    log_from_epochs,
    stated_negatives_finding,
    too_early,
    training_log,
)
from lvm.core.errors import NonFiniteLossError
from lvm.core.records import StopReason
from lvm.models.base import MODELS
from lvm.models.predictor import Predictor
from lvm.models.projection import ProjectionHead
from lvm.training import health
from lvm.training.epochs import EpochRecord, read_epochs, warmup_updates
from lvm.training.loop import train
from lvm.training.manifest import Stated
from lvm.training.negatives import NegativeSampler
from lvm.training.objective import Objective
from lvm.training.world import World

CODES = (
    "NEGATIVES_FEWER",
    "UNDERTRAINED",
    "LOSS_SCALE",
    "DEAD_PARAMETERS",
    "OVERFIT",
    "DIVERGED",
)
AR_ONLY = {
    "objective.contrastive_weight": 0.0,
    "objective.ar_weight": 1.0,
    "objective.space": "raw",
}
RAW = {"objective.space": "raw"}
BOTH_BRANCHES = {"objective.stop_gradient": "none"}


def run(changes, dataset, folder):
    """Train to the end and return the log that an audit of the checkpoint reads."""
    tiny.records(train(tiny.recipe(**changes), dataset, folder, validate=lambda *_: {}))
    return training_log(folder / "checkpoint")


def few_rows(dataset, count):
    windows = dataset.train
    rows = np.arange(count)
    fewer = dataclasses.replace(
        windows,
        contexts=windows.contexts[rows],
        targets=windows.targets[rows],
        articles=windows.articles[rows],
    )
    return dataclasses.replace(dataset, train=fewer)


def codes(log, severity=Severity.WARN):
    return [f.code for f in training_findings(log) if f.severity is severity]


def made_up(changes=None, *, ended="", updates_per_epoch=600, **series):
    """A log without a training: `series` are health values per epoch, "eval_cosine" goes to dev."""
    records = []
    for i in range(len(next(iter(series.values()), []))):
        values = {name: column[i] for name, column in series.items()}
        dev = {"eval_cosine": values.pop("eval_cosine")} if "eval_cosine" in values else {}
        train_values = {
            n: values.pop(n) for n in ("contrastive", "ar", "num_negatives") if n in values
        }
        values["updates"] = float((i + 1) * updates_per_epoch)
        records.append(
            EpochRecord(epoch=i + 1, train=train_values, dev=dev, seconds=0.0, health=values)
        )
    return TrainingLog(
        recipe=tiny.recipe(**(changes or {})),
        records=records,
        ended=ended,
        updates_per_epoch=updates_per_epoch,
    )


# --- clean ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        AR_ONLY,
        {**RAW, "model.residual": True},
        {"objective.stop_gradient": "none", "model.dropout": 0.1, "negatives.random": 2},
        {"negatives.candidates": "bank"},
        {"objective.mmd_weight": 0.5, "objective.mmd_balance": "gradient"},
    ],
    ids=str,
)
def test_a_clean_training_raises_nothing(changes, tiny_dataset, tmp_path) -> None:
    log = run({"training.epochs": 6, **changes}, tiny_dataset, tmp_path)
    assert codes(log) == codes(log, Severity.BLOCK) == []
    assert too_early(log) is None
    for code in CODES:  # and every check had what it needs
        list(CHECKS.get(code).look(SimpleNamespace(training=log, checkpoint=None)))


# --- planted --------------------------------------------------------------------------------------


def test_a_hundred_rows_are_undertrained(tiny_dataset, tmp_path) -> None:
    data = few_rows(tiny_dataset, 100)
    log = run({"training.learning_rate": 1e-3}, data, tmp_path)
    assert codes(log) == ["UNDERTRAINED"]
    assert too_early(log).startswith("9 updates, and the contrastive loss is at 1.")


def test_a_long_warmup_is_undertrained(tiny_dataset, tmp_path) -> None:
    log = run({"training.warmup_fraction": 0.8}, tiny_dataset, tmp_path)
    assert "UNDERTRAINED" in codes(log)
    assert "warm-up of 12" in too_early(log)
    assert too_early(run({}, tiny_dataset, tmp_path / "short")) is None


@pytest.mark.parametrize(
    ("updates", "loss", "early"),
    [(100, 0.91, True), (100, 0.89, False), (500, 2.0, False), (250, 0.91, True)],
)
def test_an_early_verdict_needs_a_loss_that_moved(updates, loss, early) -> None:
    contrastive = made_up(
        contrastive=[loss * math.log(256)], num_negatives=[255.0], updates_per_epoch=updates
    )
    ar = made_up(AR_ONLY, first_ar=[0.8], ar=[loss * 0.8], updates_per_epoch=updates)
    assert (too_early(contrastive) is not None) is early
    assert (too_early(ar) is not None) is early


def test_nothing_is_said_of_a_training_that_was_not_measured() -> None:
    assert too_early(made_up(contrastive=[9.9], num_negatives=[255.0], updates_per_epoch=0)) is None
    assert too_early(made_up()) is None


@pytest.mark.parametrize(
    ("changes", "term"),
    [
        ({"objective.contrastive_weight": 700.0, "objective.ar_weight": 1.0}, "ar"),
        ({"objective.ar_weight": 700.0, "objective.contrastive_weight": 0.1}, "contrastive"),
        ({"objective.ar_weight": 0.28, "objective.mmd_weight": 0.02}, "mmd"),
    ],
)
def test_a_term_that_is_drowned_is_named(changes, term, tiny_dataset, tmp_path) -> None:
    log = run(changes, tiny_dataset, tmp_path)
    assert codes(log) == ["LOSS_SCALE"]
    (found,) = [f for f in training_findings(log) if f.severity is Severity.WARN]
    assert f"The {term} term hardly moves" in found.meaning
    assert not 0.01 < found.values["ratio"] < 100


def test_a_weak_term_is_worth_knowing_and_an_even_one_is_not() -> None:
    for ratio, severities in ((0.5, []), (0.05, ["info"]), (0.005, ["warn"]), (200.0, ["warn"])):
        log = made_up(gradient_ratio_ar=[ratio] * 3)
        assert [f.severity for f in training_findings(log) if f.code == "LOSS_SCALE"] == severities


def test_an_unused_half_of_a_projection_is_dead(tiny_dataset, tmp_path, monkeypatch) -> None:
    def half(self, vectors):
        return functional.normalize(
            self.net(vectors)[..., : self.net[-1].out_features // 2], dim=-1
        )

    with monkeypatch.context() as patch:
        patch.setattr(ProjectionHead, "forward", half)
        log = run({}, tiny_dataset, tmp_path)
    assert codes(log) == ["DEAD_PARAMETERS"]
    # 4 of 8 rows of the last weight and bias are dead, of 4 x 16 + 2 x 8 rows of the head.
    assert log.records[0].health["dead_head"] == pytest.approx(8 / 80)
    assert log.records[0].health["dead_model"] == 0


@pytest.mark.parametrize("model", MODELS.names())
@pytest.mark.parametrize("objective", [BOTH_BRANCHES, RAW, AR_ONLY], ids=["projected", "raw", "ar"])
def test_no_model_has_dead_parameters(model, objective) -> None:
    """Also those with tables for 512 positions, a document tower, or a residual."""
    generator = torch.Generator().manual_seed(0)
    rows = functional.normalize(torch.randn(64, 6, 16, generator=generator), dim=-1)
    for residual in (False, True):
        recipe = tiny.recipe(**{"model.name": model, "model.residual": residual, **objective})
        predictor = Predictor(recipe, 16)
        predictions, queries, candidates = predictor(rows[:, :5], rows[:, 5])
        loss = (predictions * rows[:, 5]).mean()
        if recipe.objective.contrastive_weight > 0:
            loss = loss + (queries @ candidates.T).logsumexp(dim=1).mean()
        loss.backward()
        assert health.dead_shares(predictor, recipe)["dead_all"] < 0.002


def test_a_document_tower_behind_a_stop_gradient_is_dead(tiny_dataset, tmp_path) -> None:
    log = run({"model.name": "two_tower", "training.epochs": 1}, tiny_dataset, tmp_path)
    assert "DEAD_PARAMETERS" in codes(log)
    assert log.records[0].health["dead_head"] == 0


def test_a_model_that_no_term_reaches_is_dead() -> None:
    """No recipe allows it; a model from elsewhere may keep its own gradients back."""
    recipe = tiny.recipe()
    predictor = Predictor(recipe, 16)
    assert predictor.head is not None
    predictor.head(torch.eye(16)).sum().backward()
    shares = health.dead_shares(predictor, recipe)
    assert (shares["dead_model"], shares["dead_head"]) == (1, 0)


def test_fifty_rows_are_learned_by_heart(tiny_dataset, tmp_path) -> None:
    changes = {"training.epochs": 26, "training.batch_size": 16, "training.learning_rate": 1e-2}
    log = run(changes, few_rows(tiny_dataset, 50), tmp_path)
    assert codes(log) == ["OVERFIT"]


@pytest.mark.parametrize(
    ("series", "sign"),
    [
        ({"dev_contrastive": [3.0, 2.5, 2.55, 2.6, 2.65]}, "rises for 3 epochs"),
        ({"dev_contrastive": [3.0, 3.2, 3.1, 3.2, 3.1, 3.2]}, "epoch 1 of 6"),
        (
            {"dev_contrastive": [3.0, 2.0], "train_cosine": [0.3, 0.9], "dev_cosine": [0.3, 0.4]},
            "0.900 on train against 0.400",
        ),
        ({"dev_contrastive": [3.0, 2.5, 2.501, 2.502, 2.503]}, None),  # a plateau
        ({"dev_contrastive": [3.0, 2.5, 2.6, 2.7, 2.6]}, None),
        ({"dev_contrastive": [3.0, 3.2, 3.1, 3.2, 3.1]}, None),
        (
            {"dev_contrastive": [3.0, 2.0], "train_cosine": [0.3, 0.58], "dev_cosine": [0.3, 0.40]},
            None,
        ),
    ],
)
def test_each_sign_of_overfitting(series, sign) -> None:
    found = [f.seen for f in training_findings(made_up(**series)) if f.code == "OVERFIT"]
    assert [sign in seen for seen in found] == ([] if sign is None else [True])


def test_a_learning_rate_of_a_thousand_diverges(tiny_dataset, tmp_path) -> None:
    recipe = tiny.recipe(**{"training.learning_rate": 1e3})
    with pytest.raises(NonFiniteLossError):
        list(train(recipe, tiny_dataset, tmp_path, validate=lambda *_: {}))
    log = log_from_epochs(recipe, [], ended=StopReason.DIVERGED)
    assert codes(log) == ["DIVERGED"]
    assert codes(log_from_epochs(recipe, [], ended=StopReason.FINISHED)) == []


def test_a_drop_of_the_dev_cosine_is_found() -> None:
    (found,) = training_findings(made_up(eval_cosine=[0.3, 0.4, 0.34, 0.41]))
    assert (found.code, found.values["drop"]) == ("DIVERGED", pytest.approx(0.06))
    assert "epoch 3" in found.seen
    assert training_findings(made_up(eval_cosine=[0.3, 0.4, 0.36, 0.32])) == []


# --- negatives ------------------------------------------------------------------------------------


def test_columns_that_are_missing_are_counted(tiny_dataset, tmp_path, monkeypatch) -> None:
    """Every row stands against its own quarter of the batch alone, as under accumulation."""
    real = NegativeSampler.candidates

    def quarter(self, batch, rows):
        drawn = real(self, batch, rows)
        kept = drawn.excluded[drawn.excluded[:, 1] < 8]
        return dataclasses.replace(
            drawn, ids=drawn.ids[:8], positive=drawn.positive % 8, excluded=kept
        )

    monkeypatch.setattr(NegativeSampler, "candidates", quarter)
    log = run({}, tiny_dataset, tmp_path)
    found = next(f for f in training_findings(log) if f.code == "NEGATIVES_FEWER")
    assert (found.values["columns"], found.values["stated"]) == (8, 32)
    assert "7 negatives per row, 31 stated" in found.seen


def test_negatives_that_a_mask_drops_are_counted(tiny_dataset, tmp_path) -> None:
    log = run({"negatives.false_negative_margin": 0.01}, tiny_dataset, tmp_path)
    found = next(f for f in training_findings(log) if f.code == "NEGATIVES_FEWER")
    assert found.values["seen"] < 0.6 * 31
    assert found.values["stated"] == 31


def test_accumulation_adds_no_negatives() -> None:
    where = {"input": "checkpoint"}
    found = stated_negatives_finding(64, 64 * 4, math.log(64), where)
    assert found.code == "NEGATIVES_FEWER"
    assert "63 negatives per row, 255 stated" in found.seen
    assert "a first loss of 4.16, that of 64 rows" in found.seen
    assert stated_negatives_finding(256, 256, math.log(256), where) is None
    assert stated_negatives_finding(256, 256, None, where) is None
    assert "that of 64 rows" in stated_negatives_finding(256, 256, math.log(64), where).seen


def test_a_checkpoint_that_states_accumulation_is_named() -> None:
    look = CHECKS.get("NEGATIVES_FEWER").look
    args = {"batch_size": 256, "grad_accum_steps": 4}
    part = SimpleNamespace(manifest=Stated(args=args), path="model.pt")
    (found,) = look(SimpleNamespace(training=None, checkpoint=part))
    assert (found.values["columns"], found.values["stated"]) == (256, 1024)
    assert found.where["source"] == "model.pt"


def test_a_residual_that_knows_the_answer_is_no_sign_of_few_negatives() -> None:
    values = {"columns": [256.0], "configured_negatives": [255.0], "num_negatives": [255.0]}
    knowing = made_up({**RAW, "model.residual": True}, first_contrastive=[2.0], **values)
    assert codes(knowing) == []


# --- what the loop measures -----------------------------------------------------------------------


def test_ratios_are_those_of_the_gradients_across_the_predictions() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = functional.normalize(torch.randn(8, 16, generator=generator), dim=1)
    free = torch.randn(8, 16, generator=generator, requires_grad=True)
    predictions = functional.normalize(free, dim=1)
    ar = (1 - (predictions * targets).sum(dim=1)).mean()
    other = (predictions * targets).sum(dim=1).square().sum()
    terms, weights = {"contrastive": other, "ar": ar}, {"contrastive": 2.0, "ar": 3.0}
    result = Objective(2 * other + 3 * ar, terms, weights, {})
    found = health.gradient_ratios(predictions, result, World())
    # The same numbers by way of the vectors before they were given unit length.
    lengths = free.detach().norm(dim=1, keepdim=True)
    norms = [
        (torch.autograd.grad(term, free, retain_graph=True)[0] * lengths).norm()
        for term in (ar, other)
    ]
    assert found["gradient_ratio_ar"] == pytest.approx(
        float(3 * norms[0] / (2 * norms[1])), rel=1e-5
    )
    assert found["gradient_ratio_contrastive"] == 1


def test_measuring_changes_no_number(tiny_dataset, tmp_path, monkeypatch) -> None:
    changes = {
        "model.dropout": 0.2,
        "objective.mmd_weight": 0.3,
        "objective.mmd_balance": "gradient",
        "negatives.random": 1,
    }
    measured = run(changes, tiny_dataset, tmp_path / "measured")
    for name in ("before_backward", "after_backward"):
        monkeypatch.setattr(health.Probe, name, lambda *_: None)
    monkeypatch.setattr(health.DevLoss, "measure", lambda *_: {})
    plain = run(changes, tiny_dataset, tmp_path / "plain")
    assert [r.train for r in plain.records] == [r.train for r in measured.records]
    bits = [
        (tmp_path / n / "checkpoint/model.safetensors").read_bytes() for n in ("measured", "plain")
    ]
    assert bits[0] == bits[1]
    assert "columns" not in plain.records[0].health  # it was off


def test_a_resumed_training_has_the_same_health(tiny_dataset, tmp_path) -> None:
    whole = run({"model.dropout": 0.1}, tiny_dataset, tmp_path / "whole")
    parts = tmp_path / "parts"
    recipe = tiny.recipe(**{"model.dropout": 0.1})
    first = train(recipe, tiny_dataset, parts, validate=lambda *_: {})
    list(itertools.islice(first, 2))
    resumed = run({"model.dropout": 0.1}, tiny_dataset, parts)
    assert [r.health for r in resumed.records] == [r.health for r in whole.records]
    assert all(r.health["dev_loss"] > 0 for r in resumed.records)


def test_epochs_of_an_older_version_still_load(tiny_dataset, tmp_path) -> None:
    recipe = tiny.recipe()
    list(itertools.islice(train(recipe, tiny_dataset, tmp_path, validate=lambda *_: {}), 1))
    path = tmp_path / "epochs.jsonl"
    old = json.loads(path.read_text())
    del old["health"]
    path.write_text(json.dumps(old) + "\n")
    (record,) = read_epochs(tmp_path)
    assert record.health == {}
    log = training_log(tmp_path / "checkpoint")
    assert training_findings(log) == []
    assert too_early(log) is None
    for code in ("UNDERTRAINED", "DEAD_PARAMETERS", "OVERFIT", "LOSS_SCALE", "NEGATIVES_FEWER"):
        with pytest.raises(NotEvaluable, match="the training records lack"):
            list(CHECKS.get(code).look(SimpleNamespace(training=log, checkpoint=None)))
    assert len(run({}, tiny_dataset, tmp_path).records) == 3  # and training goes on from it


def test_flat_records_of_a_journal_make_the_same_log(tiny_dataset, tmp_path) -> None:
    log = run({}, tiny_dataset, tmp_path)
    flat = [
        {"epoch": r.epoch, "backend": "dual", **r.train, "seconds": 1.0, "health": dict(r.health)}
        for r in log.records
    ]
    rebuilt = log_from_epochs(log.recipe, reversed(flat), ended=StopReason.PRUNED)
    assert rebuilt.updates_per_epoch == log.updates_per_epoch == 5
    assert [r.health for r in rebuilt.records] == [r.health for r in log.records]
    assert [r.train for r in rebuilt.records] == [r.train for r in log.records]
    without = [{"epoch": 0, "eval_cosine": 0.3}]  # a checkpoint that was only searched
    assert too_early(log_from_epochs(log.recipe, without)) is None


def test_the_warmup_of_the_log_is_that_of_the_loop(tiny_dataset, tmp_path) -> None:
    log = run({"training.warmup_fraction": 0.5}, tiny_dataset, tmp_path)
    assert log.warmup == log.records[0].health["warmup_updates"] == 8
    assert warmup_updates(tiny.recipe(**{"training.warmup_fraction": 0.0}).training, 5) == 1


def test_dev_batches_are_few_and_always_the_same() -> None:
    recipe = tiny.recipe()
    batches = health.dev_batches(recipe, 500, 1024)
    assert [len(b) for b in batches] == [32, 32]
    assert len(set(np.concatenate(batches).tolist())) == 64
    again = health.dev_batches(recipe, 500, 1024)
    assert all((a == b).all() for a, b in zip(batches, again, strict=True))
    assert [len(b) for b in health.dev_batches(recipe, 10, 10**6)] == [10]
    assert len(health.dev_batches(recipe, 500, 10**6)) == health.MAX_DEV_BATCHES
    assert health.dev_batches(recipe, 1, 100) == []


@pytest.mark.parametrize("code", CODES)
def test_without_a_training_no_check_counts_as_passed(code) -> None:
    with pytest.raises(NotEvaluable, match="no training was given") as caught:
        list(CHECKS.get(code).look(SimpleNamespace(training=None, checkpoint=None)))
    assert "--checkpoint" in caught.value.next


def test_no_finding_blocks_and_each_says_what_to_do() -> None:
    assert len(checks._JUDGES) == len(CODES)
    log = made_up(
        {},
        ended=StopReason.DIVERGED,
        updates_per_epoch=1,
        contrastive=[5.0] * 6,
        num_negatives=[15.0] * 6,
        columns=[16.0] * 6,
        configured_negatives=[31.0] * 6,
        first_contrastive=[2.7] * 6,
        dead_all=[0.5] * 6,
        gradient_ratio_ar=[1e-4] * 6,
        dev_contrastive=[3.0, 3.3, 3.6, 3.9, 4.0, 4.1],
    )
    found = training_findings(log)
    assert sorted(f.code for f in found) == sorted(CODES)
    for f in found:
        assert f.severity is Severity.WARN
        assert len(f.next) > 20
        assert f.meaning.endswith(".")
        assert f.where["input"] == "training"
        assert all(isinstance(v, float) and math.isfinite(v) for v in f.values.values())
