from __future__ import annotations

import math

import ir_measures
import numpy as np
import pytest
import torch
from ir_measures import RR, R

from lvm.core.errors import DataError
from lvm.core.records import Pool
from lvm.data.copies import ROUNDING, copy_groups
from lvm.evaluation.metrics import PerQuery, Ranks, summarise, target_ranks


def unit(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    rows = rng.standard_normal(shape).astype(np.float32)
    return torch.from_numpy(rows / np.linalg.norm(rows, axis=-1, keepdims=True))


def alike(pool: np.ndarray) -> np.ndarray:
    """Slow reference: which pairs of rows are copies, [N, N]."""
    pool = pool.astype(np.float64)
    lengths = (pool**2).sum(axis=1)
    squared = lengths[:, None] + lengths - 2 * pool @ pool.T
    return squared <= 2 * ROUNDING * np.median(lengths)


def by_hand(
    scores: np.ndarray, target: int, own: set[int], same: np.ndarray | None = None
) -> tuple[int, int, int]:
    """Slow reference: one query, one loop over the rows; copies score as their first one does."""
    same = np.eye(len(scores), dtype=bool) if same is None else same
    scores = scores[same.argmax(axis=1)]
    masked = {row for row in range(len(scores)) if any(same[row, c] for c in own)}
    greater = equal = ranked = 0
    for row, score in enumerate(scores):
        if row in masked and row != target:
            continue
        ranked += 1
        greater += bool(score > scores[target])
        equal += bool(score == scores[target] and row != target)
    return greater, equal, ranked


def per_query(masked: Ranks, raw: Ranks | None = None) -> PerQuery:
    m = len(masked.greater)
    return PerQuery(
        cosine=np.linspace(-1, 1, m).astype(np.float32),
        masked=masked,
        raw=raw or masked,
        articles=np.arange(m),
        space="raw",
        pool=Pool(id="abc", size=100, mask="own contexts"),
    )


def ranks(greater: list[int], equal: list[int], size: int = 100) -> Ranks:
    return Ranks(
        np.array(greater, dtype=np.int64),
        np.array(equal, dtype=np.int64),
        np.full(len(greater), size),
    )


def test_ranks_equal_the_loop_with_masks_ties_and_ids_outside_the_pool() -> None:
    rng = np.random.default_rng(0)
    # Whole numbers: every product is exact, so that ties between distinct rows are real ties.
    pool = torch.from_numpy(rng.integers(-2, 3, (83, 4)).astype(np.float32))
    queries = torch.from_numpy(rng.integers(-2, 3, (700, 4)).astype(np.float32))
    targets = rng.integers(0, 83, 700)
    contexts = rng.integers(-1, 90, (700, 6))  # -1 and 83.. lie outside; some repeat
    contexts[:50, 3] = targets[:50]  # a context that is the target stays
    raw, masked = target_ranks(queries, pool, targets, contexts)
    scores, same = (queries @ pool.T).numpy(), alike(pool.numpy())
    assert (masked.equal > 0).mean() > 0.5
    for i in range(700):
        want_raw = by_hand(scores[i], targets[i], set(), same)
        inside = {c for c in contexts[i].tolist() if 0 <= c < 83}
        want = by_hand(scores[i], targets[i], inside, same)
        assert (raw.greater[i], raw.equal[i], raw.candidates[i]) == want_raw
        assert (masked.greater[i], masked.equal[i], masked.candidates[i]) == want


def test_blocks_do_not_change_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    queries, pool = unit(rng, 60, 32), unit(rng, 200, 32)
    targets, contexts = rng.integers(0, 200, 60), rng.integers(0, 200, (60, 5))
    whole = target_ranks(queries, pool, targets, contexts)[1]
    monkeypatch.setattr("lvm.evaluation.metrics._BLOCK_QUERIES", 7)
    pieces = target_ranks(queries, pool, targets, contexts)[1]
    np.testing.assert_array_equal(whole.greater, pieces.greater)


@pytest.mark.parametrize("given", [True, False])
def test_copies_of_the_target_are_ties_whatever_the_product_rounds(given: bool) -> None:
    rng = np.random.default_rng(2)
    pool = unit(rng, 501, 77)  # odd sizes: the kernel sums edge rows in another order
    copies = np.array([1, 250, 499, 500])
    pool[copies] = pool[0].clone()
    queries = unit(rng, 300, 77)
    pool[499] *= 1 + 1e-6  # what another order of summing may do, whatever this machine does
    pool[250] *= 1 - 1e-6
    group = copy_groups(pool.numpy())
    assert group[copies].tolist() == [0, 0, 0, 0]
    own = np.tile([7, 7], (300, 1))
    raw, masked = target_ranks(
        queries, pool, np.full(300, 250), own, duplicate_group=group if given else None
    )
    assert raw.equal.tolist() == [4] * 300
    assert masked.equal.tolist() == [4] * 300
    own = np.tile([500, 7], (300, 1))  # one of the copies is an own context, and so are all
    _, masked = target_ranks(queries, pool, np.full(300, 250), own, duplicate_group=group)
    assert masked.equal.tolist() == [0] * 300
    assert masked.candidates.tolist() == [501 - 4 - 1] * 300


@pytest.mark.parametrize("noise", [1e-7, 3e-5, 1e-3])
def test_ranks_in_a_pool_of_near_copies_equal_the_loop(noise: float) -> None:
    """A third of the pool are rows again, embedded in another batch; each is a tie of the first."""
    rng = np.random.default_rng(7)
    first = unit(rng, 120, 24)
    again = first[rng.integers(0, 120, 60)].numpy()
    again = again + noise * rng.standard_normal(again.shape) / 24**0.5
    again = (again / np.linalg.norm(again, axis=1, keepdims=True)).astype(np.float32)
    pool = torch.cat([first, torch.from_numpy(again)])[torch.from_numpy(rng.permutation(180))]
    targets, contexts = rng.integers(0, 180, 300), rng.integers(0, 180, (300, 5))
    contexts[:40, 1] = targets[:40]
    queries = pool[targets].clone()
    queries[150:] += 0.3 * unit(rng, 150, 24)
    same = alike(pool.numpy())
    assert same.sum() > 180 + 2 * 60 - 1
    assert (pool[:, None] == pool).all(dim=2).sum() < same.sum()  # bits say less
    raw, masked = target_ranks(queries, pool, targets, contexts)
    scores = (queries @ pool.T).numpy()
    for i in range(300):
        want_raw = by_hand(scores[i], targets[i], set(), same)
        want = by_hand(scores[i], targets[i], set(contexts[i].tolist()), same)
        assert (raw.greater[i], raw.equal[i], raw.candidates[i]) == want_raw
        assert (masked.greater[i], masked.equal[i], masked.candidates[i]) == want


def test_an_oracle_shares_rank_1_with_the_copies_of_its_target() -> None:
    """One bit apart they took it from each other: R@1 was .09 on such a pool."""
    pool = unit(np.random.default_rng(8), 1000, 64)
    pool = torch.cat([pool, pool[:500] * (1 + 1e-7)])
    targets, none = np.arange(1000), np.full((1000, 1), -1)
    raw, masked = target_ranks(pool[:1000], pool, targets, none)
    assert raw.hit(1).tolist() == [0.5] * 500 + [1.0] * 500
    assert masked.hit(2).tolist() == [1.0] * 1000


def test_an_own_context_takes_its_copies_out_of_the_pool_and_leaves_the_target() -> None:
    first = unit(np.random.default_rng(9), 100, 32)
    pool = torch.cat([first, first * (1 - 1e-7)])  # row i + 100 is a copy of row i
    targets = np.arange(1, 100)
    contexts = np.arange(99)[:, None] + 100  # the copy stands in the window, the row in the pool
    raw, masked = target_ranks(first[:99], pool, targets, contexts)  # copy-last
    assert (raw.greater >= 2).all()
    assert (masked.greater == raw.greater - 2).all()
    assert (masked.candidates == 198).all()
    _, masked = target_ranks(first[1:], pool, targets, targets[:, None] + 100)
    assert (masked.greater.sum(), masked.equal.sum()) == (0, 0)  # the target's copy was a context
    assert (masked.candidates == 199).all()


def test_a_context_outside_the_pool_masks_its_copy_within() -> None:
    rows = unit(np.random.default_rng(10), 50, 16)
    group = copy_groups(torch.cat([rows, rows[:10] * (1 + 1e-7)]).numpy())
    targets, contexts = np.full(10, 20), np.arange(50, 60)[:, None]
    raw, masked = target_ranks(rows[:10], rows, targets, contexts, duplicate_group=group)
    assert (masked.candidates == 49).all()
    assert (masked.greater == raw.greater - 1).all()


def test_a_predictor_without_opinion_gets_chance() -> None:
    size, m = 40, 25
    rng = np.random.default_rng(3)
    pool = unit(rng, size, 8)
    none = np.empty((m, 0), dtype=np.int64)
    _, masked = target_ranks(torch.zeros(m, 8), pool, rng.integers(0, size, m), none)
    metrics, _ = summarise(per_query(masked))
    assert metrics["r_at_1"] == pytest.approx(1 / size)
    assert metrics["r_at_5"] == pytest.approx(5 / size)
    assert metrics["percentile"] == pytest.approx(0.5)
    assert metrics["mrr"] == pytest.approx(sum(1 / r for r in range(1, size + 1)) / size)
    assert metrics["contain_at_50"] == 1.0


def test_nan_query_ranks_its_target_last() -> None:
    pool = unit(np.random.default_rng(4), 30, 8)
    raw, masked = target_ranks(
        torch.full((1, 8), math.nan), pool, np.array([3]), np.array([[1, 2, 3]])
    )
    assert (raw.rank[0], masked.rank[0]) == (30, 28)
    assert (raw.percentile[0], masked.percentile[0]) == (0, 0)


def test_hits_and_reciprocal_ranks_under_ties_by_hand() -> None:
    r = ranks([0, 4, 3, 5, 0], [0, 0, 3, 0, 1])
    assert r.rank.tolist() == [1, 5, 5.5, 6, 1.5]
    assert r.hit(5).tolist() == [1, 1, 0.5, 0, 1]
    assert r.hit(1).tolist() == [1, 0, 0, 0, 0.5]
    want = [1, 1 / 5, (1 / 4 + 1 / 5 + 1 / 6 + 1 / 7) / 4, 1 / 6, (1 + 1 / 2) / 2]
    np.testing.assert_allclose(r.reciprocal_rank, want, rtol=1e-12)


def test_metrics_agree_with_ir_measures_on_distinct_scores() -> None:
    rng = np.random.default_rng(5)
    pool, queries = unit(rng, 150, 16), unit(rng, 90, 16)
    targets = rng.integers(0, 150, 90)
    queries = torch.nn.functional.normalize(queries + 0.4 * pool[targets], dim=1)
    contexts = rng.integers(0, 150, (90, 5))
    raw, masked = target_ranks(queries, pool, targets, contexts)
    scores = (queries.double() @ pool.double().T).numpy()
    assert (masked.equal == 0).all()
    qrels = [ir_measures.Qrel(str(i), str(t), 1) for i, t in enumerate(targets)]
    got = dict(zip(("masked", "raw"), summarise(per_query(masked, raw)), strict=True))
    for name, hidden in (("masked", contexts), ("raw", np.empty((90, 0), dtype=int))):
        run = [
            ir_measures.ScoredDoc(str(i), str(row), float(scores[i, row]))
            for i in range(90)
            for row in range(150)
            if row == targets[i] or row not in hidden[i]
        ]
        want = ir_measures.calc_aggregate([R @ 1, R @ 5, R @ 10, R @ 50, RR], qrels, run)
        metrics = got[name]
        for metric, measure in (
            ("r_at_1", R @ 1),
            ("r_at_5", R @ 5),
            ("r_at_10", R @ 10),
            ("contain_at_50", R @ 50),
            ("mrr", RR),
        ):
            assert metrics[metric] == pytest.approx(want[measure], abs=1e-9), (name, metric)
        assert metrics["eff_at_5"] == pytest.approx(want[R @ 5] / want[R @ 50])
        assert 0 < want[R @ 1] < want[R @ 50] < 1  # the comparison says something


def test_eff_is_null_where_nothing_is_contained_and_everything_is_null_without_windows() -> None:
    metrics, _ = summarise(per_query(ranks([60, 70], [0, 0])))
    assert (metrics["r_at_5"], metrics["contain_at_50"], metrics["eff_at_5"]) == (0, 0, None)
    metrics, raw = summarise(per_query(ranks([], [])))
    assert set(metrics.values()) == set(raw.values()) == {None}


def test_masked_and_raw_are_not_mixed_up() -> None:
    both = per_query(ranks([0], [0]), ranks([9], [0]))
    assert (both.rank[0], both.raw_rank[0], both.hit(5)[0], both.reciprocal_rank[0]) == (
        1,
        10,
        1,
        1,
    )
    masked, raw = summarise(both)
    assert (masked["r_at_5"], raw["r_at_5"]) == (1, 0)


def test_save_and_load_keep_everything(tmp_path) -> None:
    before = per_query(ranks([0, 3], [1, 0]), ranks([2, 3], [0, 4]))
    before.save(tmp_path / "arm.npz")
    after = PerQuery.load(tmp_path / "arm.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["arm.npz"]
    assert (after.space, after.pool) == (before.space, before.pool)
    np.testing.assert_array_equal(after.cosine, before.cosine)
    np.testing.assert_array_equal(after.articles, before.articles)
    np.testing.assert_array_equal(after.hit(1), before.hit(1))
    np.testing.assert_array_equal(after.raw_rank, before.raw_rank)
    assert after.cosine.dtype == np.float32


def test_load_refuses_pickles_strangers_and_missing_files(tmp_path) -> None:
    np.savez(tmp_path / "pickled.npz", stated=np.array([{"a": 1}], dtype=object))
    np.savez(tmp_path / "other.npz", vectors=np.zeros(3))
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 cut")
    for name in ("pickled.npz", "other.npz", "cut.npz", "missing.npz"):
        with pytest.raises(DataError, match=name):
            PerQuery.load(tmp_path / name)
