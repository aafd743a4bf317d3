from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from lvm.core.errors import ConfigError, MissingExtraError
from lvm.evaluation.index import FaissIndex, TorchIndex, build_index, exact_search_torch
from lvm.evaluation.metrics import target_ranks


def unit(seed: int, rows: int, width: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, width, generator=generator), dim=1)


def brute(vectors: torch.Tensor, queries: torch.Tensor, k: int, exclude=None):
    scores = (queries.double() @ vectors.double().T).numpy()
    if exclude is not None:
        for i, ids in enumerate(exclude):
            scores[i, ids[ids >= 0]] = -np.inf
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return ids, np.take_along_axis(scores, ids, axis=1)


@pytest.fixture(params=["faiss", "torch"])
def exact(request):
    vectors = unit(0, 500)
    index = build_index(vectors, "exact") if request.param == "faiss" else TorchIndex(vectors)
    assert isinstance(index, FaissIndex if request.param == "faiss" else TorchIndex)
    return vectors, index


def test_exact_equals_brute_force(exact) -> None:
    vectors, index = exact
    queries = unit(1, 40)
    ids, scores = index.search(queries, 10)
    want_ids, want_scores = brute(vectors, queries, 10)
    np.testing.assert_array_equal(ids, want_ids)
    np.testing.assert_allclose(scores, want_scores, atol=1e-6)
    assert index.size == 500


def test_excluded_rows_make_room_for_the_next_best(exact) -> None:
    vectors, index = exact
    queries = unit(1, 40)
    best = brute(vectors, queries, 8)[0]
    exclude = np.concatenate([best[:, [0, 3, 7]], np.full((40, 1), -1)], axis=1)
    ids, scores = index.search(queries, 10, exclude)
    want_ids, want_scores = brute(vectors, queries, 10, exclude)
    np.testing.assert_array_equal(ids, want_ids)
    np.testing.assert_allclose(scores, want_scores, atol=1e-6)


@pytest.mark.parametrize("make", [lambda v: build_index(v, "exact"), TorchIndex])
def test_a_small_pool_is_padded(make) -> None:
    index = make(unit(0, 4))
    ids, scores = index.search(unit(1, 3), 6, np.array([[0], [1], [-1]]))
    assert ids.shape == scores.shape == (3, 6)
    assert (ids == -1).sum(axis=1).tolist() == [3, 3, 2]
    assert np.isneginf(scores[ids == -1]).all()
    assert set(ids[0].tolist()) == {-1, 1, 2, 3}


def test_torch_search_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, queries = unit(0, 90), unit(1, 31)
    monkeypatch.setattr("lvm.evaluation.index._BLOCK_SCORES", 90 * 4)
    _, ids = exact_search_torch(vectors, queries, 5)
    np.testing.assert_array_equal(ids.numpy(), brute(vectors, queries, 5)[0])


def test_ivf_that_probes_every_list_is_exact_and_fewer_lose_rows() -> None:
    vectors, queries = unit(0, 4000), unit(1, 60)
    want = brute(vectors, queries, 10)[0]
    everywhere, _ = build_index(vectors, "ivf", nprobe=10_000, seed=3).search(queries, 10)
    np.testing.assert_array_equal(everywhere, want)
    few, _ = build_index(vectors, "ivf", nprobe=2, seed=3).search(queries, 10)
    overlap = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(few, want, strict=True)])
    assert 0.05 < overlap < 0.9


def test_ivf_training_depends_on_the_seed_alone() -> None:
    vectors, queries = unit(0, 3000), unit(1, 80)

    def found(seed: int) -> np.ndarray:
        return build_index(vectors, "ivf", nprobe=1, seed=seed).search(queries, 10)[0]

    first = found(5)
    np.testing.assert_array_equal(found(5), first)
    assert (found(6) != first).any()


def test_ivf_on_a_handful_of_rows() -> None:
    vectors = unit(0, 12)
    ids, _ = build_index(vectors, "ivf").search(vectors, 1)
    assert ids[:, 0].tolist() == list(range(12))


def test_recall_from_ranks_equals_recall_from_search() -> None:
    vectors, queries = unit(0, 800, 12), unit(1, 200, 12)
    rng = np.random.default_rng(2)
    targets, contexts = rng.integers(0, 800, 200), rng.integers(0, 800, (200, 5))
    queries = torch.nn.functional.normalize(queries + vectors[targets], dim=1)
    contexts[contexts == targets[:, None]] = -1
    _, masked = target_ranks(queries, vectors, targets, contexts)
    index = build_index(vectors, "exact")
    for k in (1, 5, 10, 50):
        ids, _ = index.search(queries, k, contexts)
        found = (ids == targets[:, None]).any(axis=1).astype(float)
        assert 0.02 < found.mean() < 1
        np.testing.assert_array_equal(masked.hit(k), found)


def test_without_faiss_exact_falls_back_and_ivf_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    vectors = unit(0, 50)
    index = build_index(vectors, "exact")
    assert isinstance(index, TorchIndex)
    np.testing.assert_array_equal(index.search(vectors, 1)[0][:, 0], np.arange(50))
    with pytest.raises(MissingExtraError, match="pip install faiss-cpu"):
        build_index(vectors, "ivf")


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"must be exact or ivf \(got 'hnsw'\)"):
        build_index(unit(0, 5), "hnsw")
