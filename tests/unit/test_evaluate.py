from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from msgspec import convert

from lvm.core.errors import DataError
from lvm.core.metrics import METRICS
from lvm.core.records import Evaluation, to_plain
from lvm.data.bank import Bank
from lvm.data.windows import Windows, article_windows
from lvm.evaluation.evaluate import ann_loss, evaluate, measure_latency
from lvm.evaluation.index import build_index


def make_bank(articles: int = 6, chunks: int = 12, width: int = 16, **kwargs) -> Bank:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((articles * chunks, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = np.stack([np.repeat(np.arange(articles), chunks), np.tile(np.arange(chunks), articles)])
    return Bank(vectors, ids.T.astype(np.int32), **kwargs)


@pytest.fixture(scope="module")
def bank() -> Bank:
    return make_bank()


@pytest.fixture(scope="module")
def windows(bank: Bank) -> Windows:
    return article_windows(bank.keys, 5)


def test_the_oracle_is_perfect_and_copy_last_is_seen_only_unmasked(bank, windows) -> None:
    truth = bank.tensor[torch.from_numpy(windows.targets)]
    evaluation, per_query = evaluate(truth, windows, bank, space="raw", split="test")
    for name in ("eval_cosine", "r_at_1", "r_at_5", "mrr", "contain_at_50", "percentile"):
        assert evaluation.masked[name] == pytest.approx(1, abs=1e-6)
        assert evaluation.raw[name] == pytest.approx(1, abs=1e-6)
    assert (evaluation.num_windows, evaluation.num_articles) == (len(windows), 6)
    assert (evaluation.split, evaluation.space) == ("test", "raw")
    assert (evaluation.pool.size, evaluation.pool.mask) == (72, "own contexts")
    assert set(evaluation.masked) <= set(METRICS.names())
    np.testing.assert_array_equal(per_query.articles, windows.articles)

    last = bank.tensor[torch.from_numpy(windows.contexts[:, -1])]
    evaluation, per_query = evaluate(last, windows, bank, space="raw", split="test")
    assert evaluation.raw["r_at_1"] == 0  # the copied context itself is at rank 1
    assert (per_query.raw_rank > per_query.rank).all()
    want = (last * truth).sum(dim=1).mean().item()
    assert evaluation.masked["eval_cosine"] == pytest.approx(want, abs=1e-6)


def test_ranks_equal_a_plain_loop(bank, windows) -> None:
    predictions = bank.tensor[torch.from_numpy(windows.contexts)].mean(dim=1)
    _, per_query = evaluate(predictions, windows, bank, space="raw", split="dev")
    scores = predictions.numpy() @ bank.vectors.T
    for i, (target, own) in enumerate(zip(windows.targets, windows.contexts, strict=True)):
        rest = np.setdiff1d(np.arange(len(bank)), own)
        assert per_query.rank[i] == 1 + (scores[i, rest] > scores[i, target]).sum()


def test_in_the_projected_space_the_target_is_projected(bank, windows) -> None:
    turn = torch.linalg.qr(torch.randn(16, 7, generator=torch.Generator().manual_seed(1)))[0]
    pool = torch.nn.functional.normalize(bank.tensor @ turn, dim=1)
    predictions = pool[torch.from_numpy(windows.targets)]
    evaluation, per_query = evaluate(
        predictions, windows, bank, pool_vectors=pool, space="projected", split="dev"
    )
    assert per_query.space == evaluation.space == "projected"
    assert evaluation.masked["r_at_1"] == 1
    assert evaluation.masked["eval_cosine"] == pytest.approx(1, abs=1e-6)


def test_rows_behind_the_pool_only_serve_as_contexts(bank, windows) -> None:
    small = make_bank(pool_size=60)  # the last article is not to be retrieved
    inside = windows.select(windows.articles < 5)
    predictions = torch.randn(len(inside), 16, generator=torch.Generator().manual_seed(2))
    evaluation, cut = evaluate(predictions, inside, small, space="raw", split="dev")
    _, whole = evaluate(predictions, inside, bank, space="raw", split="dev")
    assert evaluation.pool.size == 60
    assert evaluation.pool.id != bank.fingerprint
    assert (cut.rank <= whole.rank).all()
    assert (cut.rank < whole.rank).any()
    same = evaluate(predictions, inside, small, pool_vectors=bank.tensor, space="raw", split="dev")[
        1
    ]
    np.testing.assert_array_equal(same.rank, cut.rank)
    with pytest.raises(DataError, match=r"7 of 42 targets are missing from the 60-row pool"):
        evaluate(torch.zeros(len(windows), 16), windows, small, space="raw", split="dev")


def test_duplicate_chunks_of_the_bank_are_ties(windows) -> None:
    bank = make_bank()
    vectors = bank.vectors.copy()
    vectors[20] = vectors[40]
    bank = Bank(vectors, bank.keys)
    chosen = windows.select(windows.targets == 20)
    _, per_query = evaluate(bank.tensor[[40]], chosen, bank, space="raw", split="dev")
    assert (per_query.rank[0], per_query.hit(1)[0]) == (1.5, 0.5)
    rounded = bank.tensor.clone()
    rounded[40] *= 1 + 1e-6  # a projection may round equal rows apart
    _, per_query = evaluate(
        bank.tensor[[40]], chosen, bank, pool_vectors=rounded, space="projected", split="dev"
    )
    assert per_query.rank[0] == 1.5


def test_shapes_that_do_not_fit_are_refused(bank, windows) -> None:
    good = torch.zeros(len(windows), 16)
    for predictions in (good[1:], good[:, 1:]):
        with pytest.raises(DataError, match="the predictions have shape"):
            evaluate(predictions, windows, bank, space="raw", split="dev")
    with pytest.raises(DataError, match="the pool has 70 vectors but needs 72"):
        evaluate(good, windows, bank, pool_vectors=bank.tensor[:70], space="raw", split="dev")


def test_no_windows_give_nulls_and_records_survive_json(bank, windows) -> None:
    none = windows.select(np.array([], dtype=np.int64))
    evaluation, _ = evaluate(torch.zeros(0, 16), none, bank, space="raw", split="dev")
    assert set(evaluation.masked.values()) == {None}
    full, _ = evaluate(torch.ones(len(windows), 16), windows, bank, space="raw", split="dev")
    assert convert(to_plain(full), Evaluation) == full


def test_latency_counts_model_and_search_per_single_query(bank) -> None:
    shapes = []

    def predict(context: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(context.shape))
        time.sleep(0.03 if len(shapes) <= 4 else 0.002)  # cold start, then warm
        return context[:, -1]

    contexts = bank.tensor[:50].reshape(10, 5, 16)
    index = build_index(bank.tensor, "exact")
    latency = measure_latency(predict, index, contexts, warmup=4)
    assert shapes == [(1, 5, 16)] * 14
    assert 2 <= latency["p50_ms"] <= latency["p95_ms"]
    assert latency["p50_ms"] < 30


def test_ann_loss_keeps_a_target_that_is_its_own_context(bank, windows) -> None:
    contexts = np.concatenate([windows.contexts[:, :4], windows.targets[:, None]], axis=1)
    own = Windows(contexts, windows.targets, windows.articles)
    index = build_index(bank.tensor, "exact")
    truth = bank.tensor[torch.from_numpy(windows.targets)]
    assert ann_loss(truth, index, index, own)["contain_at_50_exact"] == 1


def test_ann_loss_is_zero_where_every_list_is_probed_and_above_where_few_are() -> None:
    bank = make_bank(articles=60, chunks=60)
    windows = article_windows(bank.keys, 5)
    noise = torch.randn(len(windows), 16, generator=torch.Generator().manual_seed(3))
    truth = bank.tensor[torch.from_numpy(windows.targets)]
    predictions = torch.nn.functional.normalize(truth + 0.3 * noise, dim=1)
    exact = build_index(bank.tensor, "exact")
    evaluation, _ = evaluate(predictions, windows, bank, space="raw", split="dev")
    everywhere = ann_loss(predictions, exact, build_index(bank.tensor, "ivf", nprobe=9999), windows)
    few = ann_loss(predictions, exact, build_index(bank.tensor, "ivf", nprobe=2), windows)
    assert everywhere["difference"] == 0
    assert few["difference"] > 0.1
    assert few["contain_at_50_exact"] == pytest.approx(evaluation.masked["contain_at_50"], abs=1e-3)
    want = few["contain_at_50_exact"] - few["contain_at_50_approximate"]
    assert few["difference"] == pytest.approx(want)
