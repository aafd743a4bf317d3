"""The gates tried on an oracle, blind predictors and the ladder; pool and power."""

from __future__ import annotations

import dataclasses

import numpy as np
import planted
import pytest
import torch
from made import reported
from planted import Family
from planted_suite import QUICK

from lvm.audit import samples
from lvm.audit.finding import Finding, NotEvaluable, Severity
from lvm.audit.gates import below_trivial, gate_below_trivial, gate_invalid, invalid, pool
from lvm.audit.material import Material
from lvm.audit.ranking import PoolRows
from lvm.audit.region import underpowered
from lvm.audit.samples import other_article, sample_by_article
from lvm.audit.selftest import Bench, GateUnderTest, bench, ladder
from lvm.core.config.run import GateConfig
from lvm.core.records import Verdict
from lvm.data.bank import Bank
from lvm.data.sample import load_sample
from lvm.data.windows import Windows, dataset_from_bank
from lvm.evaluation.gates import stage_gate, success_gates
from lvm.evaluation.metrics import target_ranks

below_trivial = reported("GATE_BELOW_TRIVIAL", below_trivial)
gate_below_trivial = reported("GATE_BELOW_TRIVIAL", gate_below_trivial)
gate_invalid = reported("GATE_INVALID", gate_invalid)
invalid = reported("GATE_INVALID", invalid)
pool = reported("POOL", pool)
underpowered = reported("UNDERPOWERED", underpowered)

CENTRED = Family(common=0.0, article=0.25)
ANISOTROPIC = Family(common=0.8, article=0.05, local=0.07)


@pytest.fixture(scope="module")
def material() -> Material:
    """Clean data, with all that was measured on it by one test there for the others."""
    return planted.clean(0).material()


@pytest.fixture(scope="module")
def tried(material: Material) -> Bench:
    return bench(material)


def stage(tried: Bench) -> GateUnderTest:
    return next(gate for gate in tried.gates() if gate.name == "stage")


def with_bound(tried: Bench, bound: float) -> GateUnderTest:
    config = dataclasses.replace(tried.config, stage_eval_cosine=bound)
    return stage(dataclasses.replace(tried, config=config))


def of_stage(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.where.get("gate") == "stage"]


# --- GATE_INVALID ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_the_gates_of_a_clean_run_are_valid(seed: int) -> None:
    assert list(gate_invalid(planted.clean(seed, QUICK).material())) == []


@pytest.mark.parametrize(
    "family",
    [CENTRED, Family(width=16), Family(articles=20, chunks=200), Family(articles=300, chunks=9)],
)
def test_the_gates_are_valid_for_other_kinds_of_text(family: Family) -> None:
    assert list(gate_invalid(planted.clean(3, family).material())) == []


def test_random_pairs_pass_the_default_gate_in_an_anisotropic_space() -> None:
    found = list(gate_invalid(planted.clean(0, ANISOTROPIC).material()))
    assert [(f.code, f.severity, f.where["gate"]) for f in found] == [
        ("GATE_INVALID", Severity.BLOCK, "stage")
    ]
    assert found[0].values["random_eval_cosine"] > 0.75
    assert found[0].values["shuffled_eval_cosine"] > 0.75
    assert "set gates.stage_eval_cosine to 0.9" in found[0].next


def test_raising_the_bound_as_advised_makes_an_anisotropic_gate_valid() -> None:
    material = planted.clean(0, ANISOTROPIC).material(gates=GateConfig(stage_eval_cosine=0.93))
    assert list(gate_invalid(material)) == []
    assert of_stage(list(gate_below_trivial(material))) == []


def shifted(windows: Windows) -> Windows:
    return dataclasses.replace(windows, targets=windows.targets + 1)


def test_a_cosine_gate_that_compares_with_the_next_target_is_invalid(tried: Bench) -> None:
    def off_by_one(predictions, windows):
        return [stage_gate(tried.cosine(predictions, shifted(windows)), tried.config)]

    gate = dataclasses.replace(stage(tried), judge=off_by_one)
    (found,) = invalid(tried, gate)
    assert found.severity == Severity.BLOCK
    # Neighbours are alike enough for the bound of .35, so the verdict alone would not tell.
    assert "rates the oracle PASS: eval_cosine 0.4" in found.seen
    assert "eval_cosine 1.000" in found.allowed


def test_a_success_gate_that_looks_for_the_next_target_is_invalid(tried: Bench) -> None:
    def off_by_one(predictions, windows):
        arm, baseline = (
            tried.measure(rows, shifted(windows))
            for rows in (predictions, tried.test.predictions["constant"])
        )
        return success_gates(arm, baseline, tried.config, 0)[1]

    gate = next(gate for gate in tried.gates() if gate.name == "success")
    (found,) = invalid(tried, dataclasses.replace(gate, judge=off_by_one))
    assert found.severity == Severity.BLOCK
    assert found.values["oracle_r_at_5"] < 0.5


def test_a_gate_that_random_rows_pass_is_invalid(tried: Bench) -> None:
    found = list(invalid(tried, with_bound(tried, 0.1)))
    assert [f.severity for f in found] == [Severity.BLOCK]
    assert "random pairs" in found[0].seen
    assert "shuffled pairs" in found[0].seen


def test_a_gate_out_of_reach_of_the_oracle_is_invalid(tried: Bench) -> None:
    config = dataclasses.replace(tried.config, success_r_at_5=0.999, success_mrr=0.999)
    harsh = dataclasses.replace(tried, config=config)
    gate = next(gate for gate in harsh.gates() if gate.name == "success")
    assert "oracle" in next(iter(invalid(harsh, gate))).seen


def test_a_gate_whose_judge_never_passes_is_invalid(tried: Bench) -> None:
    def sulky(predictions, windows):
        results = stage(tried).judge(predictions, windows)
        return [dataclasses.replace(r, verdict=Verdict.FAIL) for r in results]

    assert len(list(invalid(tried, dataclasses.replace(stage(tried), judge=sulky)))) == 1


def test_an_eval_side_of_two_articles_is_not_evaluable() -> None:
    parts = planted.clean(0)
    first = np.flatnonzero(np.isin(parts.eval.truth_keys[:, 0], parts.eval.truth_keys[[0, -1], 0]))
    file = planted.change(
        parts.eval,
        contexts=parts.eval.contexts[first],
        targets=parts.eval.targets[first],
        truth_keys=parts.eval.truth_keys[first],
    )
    with pytest.raises(NotEvaluable, match="articles"):
        list(gate_invalid(dataclasses.replace(parts, eval=file).material()))


def test_without_a_bank_the_gates_are_not_evaluable() -> None:
    material = planted.clean(0).material(bank=None)
    for look in (gate_invalid, gate_below_trivial, pool, underpowered):
        with pytest.raises(NotEvaluable):
            list(look(material))


# --- GATE_BELOW_TRIVIAL ---------------------------------------------------------------------------


def test_a_gate_below_the_constant_names_the_constant_first(tried: Bench) -> None:
    found = list(below_trivial(tried, stage(tried)))
    assert [(f.code, f.severity) for f in found] == [("GATE_BELOW_TRIVIAL", Severity.WARN)]
    names = ("constant", "copy_last", "mean_context", "weighted_mix", "ridge")
    places = [found[0].seen.index(name) for name in names]
    assert places == sorted(places)
    assert found[0].values["constant_eval_cosine"] > 0.35


def test_only_predictors_that_attain_the_gate_are_named(tried: Bench) -> None:
    (found,) = below_trivial(tried, with_bound(tried, 0.5))
    assert "constant" not in found.seen
    assert "weighted_mix" in found.seen


def test_a_gate_above_the_ladder_is_silent(tried: Bench) -> None:
    assert list(below_trivial(tried, with_bound(tried, 0.7))) == []


def test_an_interval_that_reaches_the_bound_is_enough(tried: Bench) -> None:
    (passed,) = stage(tried).judge(tried.dev.predictions["weighted_mix"], tried.dev.windows)
    bound = (passed.estimate.value + passed.estimate.upper) / 2
    (found,) = below_trivial(tried, with_bound(tried, bound))
    assert "weighted_mix" in found.seen


def test_a_gain_over_the_constant_is_only_worth_knowing(tried: Bench) -> None:
    success = next(gate for gate in tried.gates() if gate.name == "success")
    (found,) = below_trivial(tried, success)
    assert found.severity == Severity.INFO
    assert "constant (" not in found.seen


def test_the_bundled_sample_passes_its_stage_gate_without_a_model(monkeypatch) -> None:
    monkeypatch.setattr(samples, "NUM_TRAIN", 1500)
    bank = load_sample()
    material = Material(bank=bank, dataset=dataset_from_bank(bank, 5), quick=True)
    assert list(gate_invalid(material)) == []
    (found,) = of_stage(list(gate_below_trivial(material)))
    for name in ("copy_last", "mean_context", "weighted_mix", "ridge"):
        assert name in found.seen
    assert "constant" not in found.seen


# --- POOL -----------------------------------------------------------------------------------------


def test_contexts_left_in_the_pool_take_rank_1() -> None:
    (found,) = pool(planted.clean(0).material(mask="none"))
    assert found.severity == Severity.WARN
    assert found.values["share_copy_last"] > 0.99
    assert found.where["pool"]["mask"] == "none"
    assert found.where["pool"]["chance_at_5"] == pytest.approx(5 / found.values["pool_size"])


def test_masked_contexts_do_not(material: Material) -> None:
    assert list(pool(material)) == []


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_copies_of_contexts_do_not_get_past_the_mask(noise: float) -> None:
    """Every text stands twice in the bank, the second time with other last digits."""
    parts = planted.clean(0)
    bank, rng = parts.bank, np.random.default_rng(0)
    keys = np.concatenate([bank.keys, bank.keys + np.array([9999, 0], dtype=np.int32)])
    moved = bank.vectors + noise * rng.standard_normal(bank.vectors.shape) / bank.width**0.5
    moved = (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)
    again = Bank(np.concatenate([bank.vectors, moved]), keys)
    material = dataclasses.replace(parts, bank=again).material()
    assert list(pool(material)) == []
    _, placed = bench(material).ranked["copy_last"]
    assert placed.context_first.mean() > 0.99  # where nothing is masked
    assert (placed.masked.greater < placed.raw.greater).mean() > 0.99
    alone, _ = bench(parts.material()).ranked["copy_last"]
    assert np.median(placed.masked.greater) <= 2 * np.median(alone.masked.greater) + 1


def test_predictions_of_the_person_are_looked_at_in_their_order() -> None:
    parts = planted.clean(0)
    given = torch.tensor(parts.eval.targets)
    tried = bench(parts.material(predictions=given))
    assert tried.ranked["predictions"][0].cosine.min() > 0.999
    dataset = dataset_from_bank(parts.bank, planted.T)
    targets = torch.from_numpy(parts.bank.vectors[dataset.test.targets])
    tried = bench(parts.material(dataset=dataset, predictions=targets))
    assert tried.ranked["predictions"][0].cosine.min() > 0.999


# --- UNDERPOWERED ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_fifteen_articles_are_too_few(seed: int) -> None:
    found = list(underpowered(planted.clean(seed, Family(articles=15)).material()))
    assert "UNDERPOWERED" in {f.code for f in found}
    assert all(f.severity == Severity.WARN for f in found)
    assert all(f.values["half_width"] > f.values["distance"] for f in found)
    assert all(f.values["more_articles"] >= 1 for f in found)


def test_many_articles_are_enough() -> None:
    assert list(underpowered(planted.clean(0, Family(articles=250)).material())) == []


def test_a_value_on_the_bound_asks_for_another_bound_not_for_articles(material: Material) -> None:
    cosine = ladder(material)["weighted_mix"]["eval_cosine"]
    on_it = dataclasses.replace(material, gates=GateConfig(stage_eval_cosine=cosine))
    (found,) = of_stage(list(underpowered(on_it)))
    assert "move the bound" in found.next


def test_a_sample_tells_the_half_width_of_the_whole_split(monkeypatch) -> None:
    # Some 45 articles in all, of which a sample of 96 windows shows at most 3 windows each.
    family, gates = Family(articles=250), GateConfig(success_r_at_5=0.001)
    whole = list(underpowered(planted.clean(0, family).material(gates=gates)))
    monkeypatch.setattr(samples, "NUM_EVAL", 96)
    part = list(underpowered(planted.clean(0, family).material(gates=gates)))
    ratio = part[-1].values["half_width"] / whole[-1].values["half_width"]
    assert 0.5 < ratio < 2
    assert part[-1].values["articles"] == whole[-1].values["articles"]


# --- the ladder, samples and ranks ----------------------------------------------------------------


def test_the_ladder_is_measured_once_with_the_oracle_at_the_top(material: Material) -> None:
    rungs = ladder(material)
    assert ladder(material) is rungs
    assert list(rungs) == [
        "constant",
        "copy_last",
        "mean_context",
        "weighted_mix",
        "ridge",
        "random",
        "oracle",
    ]
    assert rungs["oracle"]["r_at_1"] == pytest.approx(1, abs=0.01)
    assert rungs["weighted_mix"]["eval_cosine"] > rungs["copy_last"]["eval_cosine"] > 0.4


def test_a_sample_takes_whole_articles_where_there_is_room() -> None:
    articles = np.repeat(np.arange(100), 5)
    taken = sample_by_article(articles, 200, np.random.default_rng(0))
    assert len(taken) == 200
    assert set(np.unique(articles[taken], return_counts=True)[1]) == {5}


def test_a_sample_of_long_articles_is_spread_over_many() -> None:
    articles = np.repeat(np.arange(50), 400)
    taken = sample_by_article(articles, 512, np.random.default_rng(0))
    assert len(taken) == 512
    assert len(np.unique(articles[taken])) >= 30


def test_shuffled_pairs_never_join_an_article_with_itself() -> None:
    articles = np.array([7] * 90 + [8] * 2 + [9] * 3)
    partner = other_article(articles, np.random.default_rng(0))
    assert (articles[partner] != articles).all()


def crowded(noise: float = 0.0, pool_size: int | None = None) -> tuple[Bank, np.ndarray, Windows]:
    """Return a bank where a third of the rows are copies, its groups, and windows with repeats."""
    rng = np.random.default_rng(11)
    vectors = rng.standard_normal((300, 8)).astype(np.float32)
    vectors[200:] = vectors[rng.integers(200, size=100)]
    vectors[200:] += noise * rng.standard_normal((100, 8)) / 8**0.5
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    bank = Bank(
        vectors,
        np.column_stack([np.arange(300), np.arange(300)]).astype(np.int32),
        pool_size=pool_size,
    )
    contexts = rng.integers(300, size=(400, 4))
    targets = rng.integers(pool_size or 300, size=400)
    contexts[:50, 1] = targets[:50]
    contexts[50:100, 2] = contexts[50:100, 0]
    return bank, bank.duplicate_group, Windows(contexts, targets, targets)


@pytest.mark.parametrize("noise", [0.0, 1e-3])
@pytest.mark.parametrize("pool_size", [None, 260])
@pytest.mark.parametrize("use_contexts", [False, True])
def test_ranks_equal_those_of_the_evaluation(
    use_contexts: bool, pool_size: int | None, noise: float
) -> None:
    bank, group, windows = crowded(noise, pool_size)
    rows = windows.contexts[:, 0] if use_contexts else np.arange(400) % 300
    queries = bank.vectors[rows]
    placed = PoolRows(bank, group).place(queries, windows)
    raw, masked = target_ranks(
        torch.from_numpy(queries),
        bank.tensor[: len(bank.pool_rows)],
        windows.targets,
        windows.contexts,
        duplicate_group=group,
    )
    for mine, reference in ((placed.raw, raw), (placed.masked, masked)):
        assert np.array_equal(mine.greater, reference.greater)
        assert np.array_equal(mine.equal, reference.equal)
        assert np.array_equal(mine.candidates, reference.candidates)


def test_rank_1_is_found_to_be_a_context_as_a_full_search_finds_it() -> None:
    bank, group, windows = crowded()
    rng = np.random.default_rng(6)
    near = bank.vectors[windows.contexts[:, 3]] + 0.3 * rng.standard_normal((400, 8))
    queries = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)
    scores = (queries @ bank.vectors.T)[:, group]
    own = np.zeros_like(scores, dtype=bool)
    np.put_along_axis(own, windows.contexts, True, axis=1)
    own[np.arange(400), windows.targets] = False
    first = scores.argmax(axis=1)
    contexts = np.where(own, group, -1)
    expected = (contexts == group[first][:, None]).any(axis=1)
    expected &= group[first] != group[windows.targets]
    placed = PoolRows(bank, group).place(queries, windows)
    assert 0.02 < expected.mean() < 0.98
    assert np.array_equal(placed.context_first, expected)


def test_a_query_that_is_not_finite_ranks_its_target_last() -> None:
    bank, group, windows = crowded()
    queries = np.full((400, 8), np.nan, dtype=np.float32)
    placed = PoolRows(bank, group).place(queries, windows)
    assert (placed.raw.greater >= 300 - 10).all()
