"""Files of predictions that are broken in part: what is found, from which share on, and what not.

The windows are those of a bank's test split. Honest predictors, bad ones and trained networks must
never be accused: a model is not judged here, only whether its rows stand where they belong.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import planted
import pytest
import tiny
import torch
import worlds

from lvm.audit import queries
from lvm.audit.check import causes_first
from lvm.audit.finding import Finding, Severity, Status
from lvm.audit.location import unit
from lvm.audit.material import Material, Side
from lvm.audit.rows_given import MOST_ROWS, RUN, chosen_rows, given_rows
from lvm.audit.run import route, run_checks
from lvm.audit.shifts import known_orders
from lvm.data.sample import load_sample
from lvm.data.windows import Dataset, dataset_from_bank
from lvm.evaluation.ladder import fit_ladder
from lvm.training.checkpoint import load_checkpoint
from lvm.training.loop import train
from lvm.triage.step import steps_in_order

CODES = ("PREDICTIONS_LEAKED", "PREDICTIONS_REPEATED", "PREDICTIONS_MISALIGNED")
HONEST = ("copy_last", "mean_context", "weighted_mix", "ridge")
BASE = planted.Family(articles=100, chunks=30)
FAMILIES = {
    "base": BASE,
    "centred": planted.Family(articles=80, chunks=25, common=0.0, article=0.2, local=0.3),
    "anisotropic": planted.Family(articles=80, chunks=25, common=0.8, article=0.06, local=0.06),
    "weak": planted.Family(articles=80, chunks=25, article=0.05, local=0.06),
    "slow fade": planted.Family(articles=80, chunks=25, fade=0.9),
    "16 wide": planted.Family(articles=120, chunks=20, width=16),
    "17 articles": planted.Family(articles=17, chunks=30),
}


@functools.cache
def data(name: str, seed: int = 0) -> Dataset:
    if name == "world":
        return worlds.planted(seed).dataset
    bank = load_sample() if name == "sample" else planted.clean(seed, FAMILIES[name]).bank
    return dataset_from_bank(bank, planted.T)


@functools.cache
def said(name: str, seed: int = 0) -> Mapping[str, np.ndarray]:
    dataset = data(name, seed)
    fitted = fit_ladder(dataset, seed=seed, ridge_strength=0.3)
    return {rule: np.array(predict(dataset.test)) for rule, predict in fitted.items()}


def found(dataset: Dataset, rows: np.ndarray) -> list[Finding]:
    sides = {
        side: Side(side, "bank", bank=dataset.bank, windows=dataset.split(split))
        for side, split in (("train", "train"), ("eval", "test"))
    }
    given = torch.tensor(np.asarray(rows), dtype=torch.float32)
    results = run_checks(
        Material(bank=dataset.bank, dataset=dataset, predictions=given, **sides), codes=CODES
    ).results
    assert not [r.reason for r in results if r.status is Status.FAILED]
    return [finding for result in results for finding in result.findings]


def only(dataset: Dataset, rows: np.ndarray, code: str) -> Finding:
    (finding,) = found(dataset, rows)
    assert (finding.code, finding.severity) == (code, Severity.BLOCK)
    assert finding.where["input"] == "predictions"
    return finding


def noisy(name: str, noise: float) -> np.ndarray:
    targets = said(name)["oracle"]
    drawn = np.random.default_rng(0).standard_normal(targets.shape) / targets.shape[1] ** 0.5
    return unit(targets + noise * drawn)


# --- ways to mix up rows --------------------------------------------------------------------------


def by_name(rows: np.ndarray, shards: int) -> np.ndarray:
    parts = np.array_split(np.arange(len(rows)), shards)
    return rows[np.concatenate([parts[i] for i in sorted(range(shards), key=str)])]


def by_worker(rows: np.ndarray, workers: int) -> np.ndarray:
    return rows[np.concatenate([np.arange(k, len(rows), workers) for k in range(workers)])]


def shuffled(rows: np.ndarray, share: float, *, tail: bool = False) -> np.ndarray:
    rng = np.random.default_rng(1)
    count = round(share * len(rows))
    places = np.arange(len(rows) - count, len(rows))
    if not tail:
        places = np.sort(rng.choice(len(rows), count, replace=False))
    mixed = rows.copy()
    mixed[places] = rows[rng.permutation(places)]
    return mixed


def stuck(rows: np.ndarray, share: float) -> np.ndarray:
    first = len(rows) - round(share * len(rows))
    mixed = rows.copy()
    mixed[first:] = rows[first]
    return mixed


# --- nobody is accused wrongly --------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_no_honest_and_no_bad_predictor_is_accused(name: str) -> None:
    for seed in range(2 if name == "base" else 1):
        dataset, rows = data(name, seed), said(name, seed)
        for rule in (*HONEST, "constant", "random"):
            assert found(dataset, rows[rule]) == [], (rule, seed)
    rng = np.random.default_rng(0)
    assert found(data(name), rng.standard_normal(said(name)["ridge"].shape)) == []
    for noise in (0.3, 1.0, 2.0):  # good models of every degree
        assert found(data(name), noisy(name, noise)) == []


def test_nobody_is_accused_on_real_text() -> None:
    for rule in (*HONEST, "constant", "random"):
        assert found(data("sample"), said("sample")[rule]) == [], rule
    assert found(data("sample"), noisy("sample", 1.0)) == []


@pytest.mark.parametrize("objective", ["AR-only", "as the report"])
@pytest.mark.parametrize("name", ["world", "base"])
def test_a_trained_network_is_not_accused(name: str, objective: str, tmp_path) -> None:
    dataset = data(name)
    recipe = worlds.base_config().recipe.with_changes({"training.epochs": 3})
    recipe = recipe.ar_only() if objective == "AR-only" else recipe
    tiny.records(train(recipe, dataset, tmp_path, validate=lambda *_: {"eval_cosine": 0.0}))
    predictor, _, _ = load_checkpoint(tmp_path / "checkpoint")
    contexts = dataset.bank.rows(dataset.test.contexts)
    rows = queries.run(predictor, contexts, "raw")
    assert found(dataset, rows) == []
    assert "name" in only(dataset, by_name(rows, 16), "PREDICTIONS_MISALIGNED").seen


def test_a_model_that_is_good_on_half_of_the_articles_alone_is_not_accused() -> None:
    dataset, rows = data("base"), said("base")["weighted_mix"].copy()
    articles = np.unique(dataset.test.articles)
    hard = np.isin(dataset.test.articles, articles[: len(articles) // 2])
    noise = np.random.default_rng(0).standard_normal(rows.shape)
    assert found(dataset, np.where(hard[:, None], noise, rows)) == []  # it says nothing there
    blend = unit(0.8 * said("base")["constant"] + 0.2 * rows)
    assert found(dataset, np.where(hard[:, None], blend, rows)) == []  # or little


@pytest.mark.parametrize("plant", ["unpaired_targets", "target_is_last", "eval_order_shuffled"])
@pytest.mark.parametrize("rule", ["mean_context", "weighted_mix"])
def test_a_broken_eval_side_is_not_laid_on_the_predictions(plant: str, rule: str) -> None:
    """Its contexts are what the model read, whatever the targets are."""
    parts = planted.plant(plant, 0, family=BASE)
    contexts = parts.eval.contexts
    rows = contexts.mean(axis=1)
    if rule == "weighted_mix":
        rows = np.einsum("t,mtd->md", np.linspace(0.1, 0.5, planted.T), contexts)
    material = parts.material(predictions=torch.tensor(rows, dtype=torch.float32))
    for result in run_checks(material, codes=CODES).results:
        assert result.findings == (), result.findings


def test_a_model_with_few_outputs_repeats_itself_and_is_not_accused() -> None:
    """Rows of a bank, right now and then, and the words of a code book."""
    for name in ("base", "sample"):
        dataset, rows = data(name), said(name)["ridge"]
        bank = unit(np.asarray(dataset.bank.vectors, dtype=np.float32))
        assert found(dataset, bank[(rows @ bank.T).argmax(axis=1)]) == []
        book = bank[np.random.default_rng(0).choice(len(bank), 64, replace=False)]
        assert found(dataset, book[(rows @ book.T).argmax(axis=1)]) == []
        retrieved = bank[(noisy(name, 4.0) @ bank.T).argmax(axis=1)]
        assert 0.01 < (retrieved == said(name)["oracle"]).all(axis=1).mean() < 0.95
        assert found(dataset, retrieved) == []
        stuck_rows = stuck(bank[(rows @ bank.T).argmax(axis=1)], 0.2)
        assert only(dataset, stuck_rows, "PREDICTIONS_REPEATED").values["share"] > 0.15


# --- rows in another order ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["base", "world"])
@pytest.mark.parametrize("shards", [12, 16, 40])
def test_shards_joined_in_the_order_of_their_names_are_recognised(name: str, shards: int) -> None:
    rows = said(name)["ridge"]
    finding = only(data(name), by_name(rows, shards), "PREDICTIONS_MISALIGNED")
    assert f"{shards} shards joined in the order of their names" in finding.seen
    parts = np.array_split(np.arange(len(rows)), shards)
    first = len(parts[0]) + len(parts[1])  # 0 and 1 stay, 10 comes next
    tens = np.concatenate(parts[10 : min(shards, 20)])
    assert f"rows {first} to {first + len(tens) - 1} hold" in finding.seen
    assert f"windows {tens[0]} to {tens[-1]}" in finding.seen
    assert finding.where["blocks"][0] == [first, first + len(tens) - 1]


def test_the_best_predictor_of_a_planted_world_in_shard_order_is_not_called_sound() -> None:
    """It resembles no context and no article: only its targets tell where a row belongs."""
    world = worlds.planted(0)
    rows = world.key_alone(world.dataset.test)
    assert found(world.dataset, rows) == []
    only(world.dataset, by_name(rows, 16), "PREDICTIONS_MISALIGNED")


@pytest.mark.parametrize("rule", HONEST)
@pytest.mark.parametrize("workers", [2, 8])
def test_rows_joined_worker_by_worker_are_recognised(rule: str, workers: int) -> None:
    finding = only(data("base"), by_worker(said("base")[rule], workers), "PREDICTIONS_MISALIGNED")
    assert f"distributed over {workers} workers" in finding.seen


def test_rows_in_an_order_without_a_name_are_told_by_their_blocks() -> None:
    rows = said("base")["weighted_mix"]
    parts = np.array_split(np.arange(len(rows)), 6)
    order = np.concatenate([parts[i] for i in (0, 4, 2, 1, 3, 5)])
    finding = only(data("base"), rows[order], "PREDICTIONS_MISALIGNED")
    first, last = finding.where["blocks"][0]
    assert len(parts[0]) - 20 < first < last
    rolled = only(data("base"), np.roll(rows, 150, axis=0), "PREDICTIONS_MISALIGNED")
    assert "rows shifted by 150, row i holding that of window i - 150" in rolled.seen


def test_an_order_says_which_window_stands_in_which_row() -> None:
    orders = {order.words: order.windows for order in known_orders(103)}
    rows = np.arange(103)
    for words, windows in orders.items():
        assert sorted(windows) == rows.tolist(), words
    name = "16 shards joined in the order of their names (0, 1, 10, ...)"
    assert (by_name(rows, 16) == orders[name]).all() or len(set(map(len, orders))) > 1
    assert (
        by_worker(rows, 4) == orders["rows distributed over 4 workers and joined worker by worker"]
    ).all()


def test_a_file_with_window_files_is_read_as_a_bank_is() -> None:
    parts = planted.clean(0, BASE)
    rows = by_worker(parts.eval.contexts.mean(axis=1), 4)
    material = parts.material(predictions=torch.tensor(rows, dtype=torch.float32))
    result = run_checks(material, codes=["PREDICTIONS_MISALIGNED"]).results[0]
    assert "4 workers" in result.findings[0].seen


# --- a part of the rows mixed up: how small a part is found ---------------------------------------


@pytest.mark.parametrize("rule", HONEST)
@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_rows_shuffled_in_a_part_of_the_file_are_found_and_their_share_told(
    rule: str, share: float
) -> None:
    for name in ("base", *(["sample"] if share == 0.1 else [])):
        mixed = shuffled(said(name)[rule], share)
        finding = only(data(name), mixed, "PREDICTIONS_MISALIGNED")
        assert finding.values["share"] == pytest.approx(share, rel=0.35, abs=0.01)


def test_a_shuffled_end_of_the_file_is_found_and_located() -> None:
    rows = said("base")["weighted_mix"]
    finding = only(data("base"), shuffled(rows, 0.4, tail=True), "PREDICTIONS_MISALIGNED")
    assert min(first for first, _ in finding.where["blocks"]) >= 0.5 * len(rows)
    assert max(last for _, last in finding.where["blocks"]) >= 0.9 * len(rows)


# --- off by some rows -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["base", "weak", "slow fade", "sample"])
@pytest.mark.parametrize("by", [-2, -1, 1, 2])
def test_rows_off_by_one_or_two_are_found_with_their_direction(name: str, by: int) -> None:
    for rule in ("mean_context", "weighted_mix", *(["ridge"] if name != "weak" else [])):
        moved = np.roll(said(name)[rule], -by, axis=0)  # row i holds that of window i + by
        finding = only(data(name), moved, "PREDICTIONS_MISALIGNED")
        assert finding.values["by"] == by, rule


def test_the_rows_of_a_good_model_off_by_one_are_found_both_ways() -> None:
    world = worlds.planted(0)
    for model in (world.key_alone, world.expected):
        for by in (-1, 1):
            moved = np.roll(model(world.dataset.test), -by, axis=0)
            finding = only(world.dataset, moved, "PREDICTIONS_MISALIGNED")
            assert finding.values["by"] == by


def test_a_row_that_was_skipped_in_the_middle_is_found_behind_it() -> None:
    rows = said("sample")["weighted_mix"]
    half = len(rows) // 2
    finding = only(
        data("sample"),
        np.concatenate([rows[:half], rows[half + 1 :], rows[-1:]]),
        "PREDICTIONS_MISALIGNED",
    )
    assert finding.values["by"] == 1
    assert finding.where["blocks"][0][0] >= half - len(rows) // 8


# --- the answers themselves -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_predictions_that_are_their_targets_are_a_leak(kind: type) -> None:
    for name in ("base", "world", "sample"):
        finding = only(data(name), said(name)["oracle"].astype(kind), "PREDICTIONS_LEAKED")
        assert finding.values["share"] == pytest.approx(1.0)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_a_leak_of_a_part_is_found_and_counted(share: float) -> None:
    rows, targets = said("base")["ridge"], said("base")["oracle"]
    leaked = np.random.default_rng(0).random(len(rows)) < share
    finding = only(data("base"), np.where(leaked[:, None], targets, rows), "PREDICTIONS_LEAKED")
    assert finding.values["leaked"] == leaked.sum()
    assert finding.where["rows"] == np.flatnonzero(leaked)[:10].tolist()


# --- one row again and again ----------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
def test_one_row_for_the_end_of_the_file_is_found_and_counted(share: float) -> None:
    for name in ("base", "sample"):
        rows = said(name)["ridge"]
        finding = only(data(name), stuck(rows, share), "PREDICTIONS_REPEATED")
        count = round(share * len(rows))
        assert finding.where["count"] == pytest.approx(count, abs=1)
        assert finding.where["blocks"][-1][1] == len(rows) - 1


# --- what is looked at ----------------------------------------------------------------------------


def test_a_large_file_is_looked_at_in_runs_spread_over_all_of_it() -> None:
    rows = chosen_rows(100_000)
    assert len(rows) == MOST_ROWS
    assert (rows[0], rows[-1]) == (0, 99_999)
    assert (np.diff(rows) == 1).mean() > 1 - 2 / RUN


def test_a_model_that_was_run_here_stands_in_its_rows(monkeypatch) -> None:
    dataset = data("base")
    recipe = worlds.base_config().recipe
    from types import SimpleNamespace

    from lvm.models.predictor import Predictor

    part = SimpleNamespace(
        predictor=Predictor(recipe, dataset.bank.width), recipe=recipe, manifest={}, problem=""
    )
    sides = {"eval": Side("eval", "bank", bank=dataset.bank, windows=dataset.test)}
    material = Material(bank=dataset.bank, dataset=dataset, checkpoint=part, **sides)
    assert given_rows(material) is None
    assert {r.status for r in run_checks(material, codes=CODES).results} == {Status.PASS}


def test_the_codes_block_and_stand_before_what_follows_from_them() -> None:
    places = [causes_first().index(code) for code in (*CODES, "IGNORES_INPUT")]
    assert places == sorted(places)
    assert list(route(CODES, steps_in_order()).order) == [1, 2, 3, 4, 5]
