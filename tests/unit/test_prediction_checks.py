"""Predictions: what each defect raises, and what honest, bad and misjudged models do not."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import planted
import pytest
import tiny
import torch
import worlds

from lvm.audit import index as of_index
from lvm.audit import predictions as of_predictions
from lvm.audit import queries as asking
from lvm.audit import retrieval
from lvm.audit.finding import NotEvaluable, Severity, Status
from lvm.audit.location import unit
from lvm.audit.material import Material, Side
from lvm.audit.run import run_checks
from lvm.core.config.recipe import Recipe
from lvm.data.windows import Windows, dataset_from_bank
from lvm.evaluation.index import build_index
from lvm.evaluation.ladder import fit_ladder
from lvm.models.predictor import Predictor
from lvm.training.checkpoint import load_checkpoint
from lvm.training.loop import train

CODES = ("IGNORES_INPUT", "COLLAPSE", "LOW_RANK", "HUBNESS", "SPLIT_SPACE", "ANN_LOSS")
BLOCKING = ("IGNORES_INPUT", "COLLAPSE")
HONEST = ("copy_last", "mean_context", "weighted_mix", "ridge")
SMALL = planted.Family(articles=80, chunks=25)


@functools.cache
def parts(seed: int, family: planted.Family = SMALL) -> planted.Parts:
    return planted.clean(seed, family)


@functools.cache
def ladder(seed: int, family: planted.Family = SMALL) -> Mapping[str, np.ndarray]:
    """What the ladder, fitted on the train split, says of every eval window."""
    data = parts(seed, family)
    dataset = dataset_from_bank(data.bank, planted.T)
    assert data.eval.truth_keys is not None
    find = data.material().by_key.find
    steps = np.column_stack([np.zeros(planted.T + 1), np.arange(-planted.T, 1)]).astype(np.int64)
    ids = np.column_stack([find(data.eval.truth_keys + step) for step in steps])
    windows = Windows(ids[:, :-1], ids[:, -1], data.eval.truth_keys[:, 0].astype(np.int64))
    fitted = fit_ladder(dataset, seed=seed, ridge_strength=0.3)
    return {name: np.array(rule(windows)) for name, rule in fitted.items()}


def noisy_targets(seed: int, noise: float, family: planted.Family = SMALL) -> np.ndarray:
    targets = ladder(seed, family)["oracle"]
    rng = np.random.default_rng(seed)
    return unit(targets + noise * rng.standard_normal(targets.shape) / targets.shape[1] ** 0.5)


def found(material: Material, codes: Any = CODES) -> dict[str, Severity]:
    """Return the codes that were raised; no check may break."""
    results = run_checks(material, codes=codes).results
    assert not [r.reason for r in results if r.status is Status.FAILED]
    return {f.code: f.severity for r in results for f in r.findings}


def judged(
    rows: np.ndarray, data: planted.Parts | None = None, *, codes: Any = CODES, **more: Any
) -> dict[str, Severity]:
    given = torch.tensor(rows, dtype=torch.float32)
    return found((data or parts(0)).material(predictions=given, **more), codes)


# --- honest predictors ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_honest_predictors_block_nothing_and_noisy_targets_raise_nothing(seed):
    for name in HONEST:
        raised = judged(ladder(seed)[name], parts(seed), codes=BLOCKING)
        assert Severity.BLOCK not in raised.values(), name
    assert judged(noisy_targets(seed, 1.0), parts(seed)) == {}


@pytest.mark.parametrize(
    "family",
    [
        planted.Family(articles=80, chunks=25, common=0.0, article=0.2, local=0.3),
        planted.Family(articles=80, chunks=25, common=0.8, article=0.06, local=0.06),
        planted.Family(articles=80, chunks=25, article=0.05, local=0.12),
        planted.Family(articles=17, chunks=20),
        planted.Family(articles=200, chunks=8, width=16),
    ],
    ids=["centred", "anisotropic", "hardly predictable", "17 articles", "short and narrow"],
)
def test_no_family_of_text_makes_an_honest_predictor_block(family):
    for name in HONEST:
        raised = judged(ladder(1, family)[name], parts(1, family))
        assert Severity.BLOCK not in raised.values(), name
    assert judged(noisy_targets(1, 1.0, family), parts(1, family)) == {}


# --- planted defects ------------------------------------------------------------------------------


def test_a_constant_output_ignores_its_input_and_is_collapsed():
    raised = judged(ladder(0)["constant"])
    assert raised["IGNORES_INPUT"] is Severity.BLOCK
    assert raised["COLLAPSE"] is Severity.BLOCK
    assert "HUBNESS" in raised


@pytest.mark.parametrize(
    ("share", "severity"), [(0.55, Severity.WARN), (0.8, Severity.BLOCK), (0.95, Severity.BLOCK)]
)
def test_a_blend_with_the_mean_collapses_but_still_depends_on_its_input(share, severity):
    mean = unit(parts(0).train.targets.mean(axis=0))
    raised = judged(unit(share * mean + (1 - share) * ladder(0)["mean_context"]))
    assert raised["COLLAPSE"] is severity
    assert "IGNORES_INPUT" not in raised
    assert "LOW_RANK" not in raised  # centring: shrinking loses no direction


def test_a_projection_to_eight_directions_is_low_rank_and_no_collapse():
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((64, 8)))[0]
    raised = judged(unit(noisy_targets(0, 0.5) @ axes @ axes.T))
    assert raised["LOW_RANK"] is Severity.WARN
    assert "COLLAPSE" not in raised
    assert Severity.BLOCK not in raised.values()


@pytest.mark.parametrize("kind", ["rows in another order", "noise"])
def test_outputs_that_vary_without_the_contexts_ignore_them(kind):
    rng = np.random.default_rng(0)
    rows = ladder(0)["weighted_mix"]
    rows = rng.permutation(rows) if kind != "noise" else unit(rng.standard_normal(rows.shape))
    assert judged(rows) == {"IGNORES_INPUT": Severity.BLOCK}


def test_a_bad_model_is_not_one_that_ignores_its_input():
    contexts = parts(0).eval.contexts
    weights = np.random.default_rng(0).standard_normal((planted.T * 64, 64))
    rows = unit(np.tanh(3 * contexts.reshape(len(contexts), -1) @ weights))
    targets = ladder(0)["oracle"]
    assert abs(np.einsum("md,md->m", rows, targets).mean()) < 0.05  # it is bad indeed
    assert "IGNORES_INPUT" not in judged(rows)


@pytest.mark.parametrize("plant", ["unpaired_targets", "unpaired_keys_kept"])
@pytest.mark.parametrize("name", ["mean_context", "copy_last"])
def test_a_broken_eval_side_is_not_laid_on_the_model(plant, name):
    data = planted.plant(plant, 0, family=SMALL)
    raised = judged(ladder(0)[name], data)  # the contexts are as they were
    assert "IGNORES_INPUT" not in raised
    assert "COLLAPSE" not in raised


def test_hubness_names_the_rows_that_answer_everything():
    bank = parts(0).bank
    hub = bank.vectors[17]
    given = torch.from_numpy(unit(0.75 * hub + 0.25 * ladder(0)["mean_context"]))
    (finding,) = retrieval.hubness(parts(0).material(predictions=given))
    assert finding.where["rows"][0] == 17
    assert finding.values["share"] > finding.values["usual_share"]


# --- effective rank and dispersion ----------------------------------------------------------------


def test_the_effective_rank_counts_equal_directions_and_does_not_see_shrinkage():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((4000, 6)) @ np.linalg.qr(rng.standard_normal((32, 6)))[0].T
    assert of_predictions.effective_rank(rows) == pytest.approx(6, abs=0.1)
    assert of_predictions.effective_rank(5 + 0.01 * rows) == pytest.approx(
        of_predictions.effective_rank(rows)
    )
    assert of_predictions.effective_rank(rows[:20]) <= 6  # more columns than rows


def test_dispersion_is_one_minus_the_mean_cosine_of_all_pairs():
    rows = unit(np.random.default_rng(0).standard_normal((40, 7)) + 1)
    cosines = rows @ rows.T
    pairs = (cosines.sum() - np.trace(cosines)) / (40 * 39)
    assert asking.dispersion(rows) == pytest.approx(1 - pairs, abs=1e-5)


# --- what is missing ------------------------------------------------------------------------------


def test_without_predictions_or_checkpoint_nothing_counts_as_passed():
    results = run_checks(parts(0).material(), codes=CODES).results
    assert {r.status for r in results} == {Status.NOT_EVALUABLE}
    assert all("--predictions" in r.next for r in results)


def test_the_problem_of_a_checkpoint_that_could_not_be_loaded_is_the_reason():
    part = SimpleNamespace(predictor=None, recipe=None, manifest={}, problem="other shapes")
    with pytest.raises(NotEvaluable, match="other shapes"):
        asking.queries(parts(0).material(checkpoint=part))


def test_predictions_of_other_windows_are_refused_by_shape():
    given = torch.ones(3, 64)
    with pytest.raises(NotEvaluable, match=r"\(3, 64\)"):
        asking.queries(parts(0).material(predictions=given))


def test_the_projected_space_needs_the_model():
    given = torch.from_numpy(noisy_targets(0, 1.0))
    with pytest.raises(NotEvaluable, match="needs the model") as missing:
        list(retrieval.split_space(parts(0).material(predictions=given)))
    assert "--checkpoint" in missing.value.next


# --- with the model -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The report's recipe on a world where its head finds what its raw prediction does not."""
    world = worlds.planted(0)
    folder = tmp_path_factory.mktemp("trained")
    recipe = worlds.base_config().recipe.with_changes({"training.epochs": 6})
    tiny.records(train(recipe, world.dataset, folder, validate=lambda *_: {"eval_cosine": 0.0}))
    predictor, recipe, manifest = load_checkpoint(folder / "checkpoint")
    return world.dataset, predictor, recipe, manifest


def with_model(dataset: Any, predictor: Predictor, recipe: Recipe, **more: Any) -> Material:
    part = SimpleNamespace(predictor=predictor, recipe=recipe, manifest={}, problem="")
    sides = {
        side: Side(side, "bank", bank=dataset.bank, windows=dataset.split(split))
        for side, split in (("train", "train"), ("eval", "test"))
    }
    return Material(bank=dataset.bank, dataset=dataset, checkpoint=part, **sides, **more)


def test_a_model_searched_outside_the_space_it_learned_in_is_found(trained):
    dataset, predictor, recipe, _ = trained
    material = with_model(dataset, predictor, recipe.with_changes({"search_space": "raw"}))
    (finding,) = retrieval.split_space(material)
    values = finding.values
    assert values["r_at_5_projected"] - values["r_at_5_raw"] == pytest.approx(values["gain"])
    assert values["lower"] > 0
    assert "projected" in finding.next
    assert Severity.BLOCK not in found(material).values()


def test_the_same_model_searched_where_it_learned_raises_nothing_blocking(trained):
    dataset, predictor, recipe, _ = trained
    material = with_model(dataset, predictor, recipe.with_changes({"search_space": "projected"}))
    raised = found(material)
    assert "SPLIT_SPACE" not in raised
    assert Severity.BLOCK not in raised.values()


def test_a_model_that_reads_nothing_is_found_by_running_it_on_other_contexts(trained):
    dataset, _, recipe, _ = trained
    deaf = Predictor(recipe, dataset.bank.width)
    last = deaf.model.encoder.project_out
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.ones_(last.bias)
    raised = found(with_model(dataset, deaf, recipe), ("IGNORES_INPUT", "COLLAPSE"))
    assert raised == {"IGNORES_INPUT": Severity.BLOCK, "COLLAPSE": Severity.BLOCK}


@pytest.mark.parametrize("seed", range(5))
def test_an_untrained_model_is_bad_but_reads_its_input(trained, seed):
    dataset, _, recipe, _ = trained
    fresh = Predictor(recipe.with_changes({"seed": seed}), dataset.bank.width)
    assert found(with_model(dataset, fresh, recipe), ("IGNORES_INPUT",)) == {}


def test_a_document_tower_is_searched_among_its_own_documents(trained):
    dataset, _, recipe, _ = trained
    towers = Predictor(
        recipe.with_changes({"model.name": "two_tower", "model.head_dim": 8}), dataset.bank.width
    )
    material = with_model(dataset, towers, recipe)
    asked = asking.queries(material)
    text = torch.from_numpy(asked.windows.targets)
    with torch.no_grad():
        assert np.allclose(asked.truth, towers.documents(text, "raw").numpy(), atol=1e-5)
    assert not np.allclose(asked.truth, asked.windows.targets, atol=1e-3)
    found(material)  # and no check breaks on it


# --- the index ------------------------------------------------------------------------------------


def test_an_index_that_looks_into_one_list_loses_answers():
    rows = parts(0).bank.tensor
    honest = noisy_targets(0, 2.0)
    assert "ANN_LOSS" in judged(honest, index=build_index(rows, "ivf", nprobe=1))
    assert "ANN_LOSS" not in judged(honest, index=build_index(rows, "exact"))
    assert "ANN_LOSS" not in judged(honest)  # the index that is built by default


def test_an_index_of_another_size_is_no_loss_of_the_index():
    index = build_index(parts(0).bank.tensor[:50], "exact")
    given = torch.from_numpy(noisy_targets(0, 1.0))
    with pytest.raises(NotEvaluable, match="50 rows"):
        list(of_index.index_loss(parts(0).material(predictions=given, index=index)))


def test_block_search_equals_exact_search_and_a_sampled_pool_keeps_the_targets(monkeypatch):
    given = torch.from_numpy(noisy_targets(0, 1.0))
    material = parts(0).material(predictions=given)
    queries = asking.queries(material)
    monkeypatch.setattr(
        of_index, "blocks", lambda rows: ((i, rows[i : i + 97]) for i in range(0, len(rows), 97))
    )
    exact = build_index(material.pool.tensor, "exact")
    block = of_index.BlockIndex(material.pool, queries)
    for ours, theirs in zip(block.search(given, 7), exact.search(given, 7), strict=True):
        assert np.allclose(ours, theirs, atol=1e-6)
    small = retrieval.search(material, 40, pool=100)
    places = queries.located.places[small.looked]
    assert (small.rows[small.windows.targets] == places[:, -1]).all()
    assert (small.rows[small.windows.contexts] == places[:, :-1]).all()
    assert 100 <= len(small.rows) < len(material.pool)


def test_the_same_seed_gives_the_same_findings():
    given = torch.from_numpy(np.array(ladder(0)["constant"]))
    first, second = (
        list(itertools.chain(*(r.findings for r in run_checks(m, codes=CODES).results)))
        for m in (parts(0).material(predictions=given) for _ in range(2))
    )
    assert first == second
