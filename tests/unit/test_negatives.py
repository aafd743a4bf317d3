from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lvm.core.config.recipe import NegativesConfig
from lvm.core.errors import ConfigError
from lvm.data.bank import Bank
from lvm.data.copies import ROUNDING
from lvm.data.windows import article_windows
from lvm.losses.infonce import infonce
from lvm.training.negatives import NUM_NEARBY, NegativeSampler

TRAIN = range(100, 124)  # article ids; 200 to 204 belong to other splits
MIXED = NegativesConfig(same_article=2, nearby_article=3, random=2)
BANK = NegativesConfig(candidates="bank")
T = 5


def make_bank(seed=0, *, width=12, duplicates=True):
    """Articles around a centre of their own; rows in shuffled order; copies planted on purpose.

    One article in three has 7 rows: one row outside each window. Copies go within an article, to
    another train article and to one that is in no train window. Half of them have other last
    digits, as the same text has in another batch.
    """
    rng = np.random.default_rng(seed)
    lengths = {
        a: 7 if a % 3 == 0 else int(rng.integers(10, 30)) for a in (*TRAIN, *range(200, 205))
    }
    keys = np.array([(a, c) for a, n in lengths.items() for c in range(n)], dtype=np.int32)
    centres = {a: rng.standard_normal(width) for a in lengths}
    vectors = np.stack([centres[a] + rng.standard_normal(width) for a in keys[:, 0].tolist()])
    if duplicates:
        for _ in range(60):
            source, copy = rng.integers(len(keys), size=2)
            vectors[copy] = vectors[source] + 1e-4 * (copy % 2) * rng.standard_normal(width)
        for article in (101, 104, 107):  # neighbours within one article
            first = np.flatnonzero(keys[:, 0] == article)[0]
            vectors[first + 3] = vectors[first]
    order = rng.permutation(len(keys))
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return Bank(vectors[order].astype(np.float32), keys[order])


def train_windows(bank):
    windows = article_windows(bank.keys, T)
    return windows.select(np.isin(windows.articles, list(TRAIN)))


@pytest.fixture(scope="module")
def bank():
    return make_bank()


@pytest.fixture(scope="module")
def windows(bank):
    return train_windows(bank)


def drawn_negatives(sampler, windows, epoch, sampled):
    """Return the table [M, S] through the public door: one batch that holds every window."""
    sampler.refresh(epoch)
    everything = np.arange(len(windows))
    ids = sampler.candidates(everything, slice(0, 1)).ids
    assert np.array_equal(ids[: len(windows)], windows.targets)
    return ids[len(windows) :].reshape(len(windows), sampled)


def forbidden_rows(bank, windows, m):
    """Copies of the target or a context of window m, found by comparing vectors."""
    own = bank.rows(np.append(windows.contexts[m], windows.targets[m]))
    apart = ((bank.rows(slice(None))[:, None] - own) ** 2).sum(-1)
    return set(np.flatnonzero((apart <= 2 * ROUNDING).any(1)).tolist())


def excluded_by_brute_force(bank, windows, batch, rows, candidates):
    pairs = set()
    for b, m in enumerate(batch[rows]):
        bad = forbidden_rows(bank, windows, m)
        for column, row in enumerate(candidates.ids.tolist()):
            if row in bad and column != candidates.positive[b]:
                pairs.add((b, column))
    return pairs


def nearest_articles(bank, article):
    """The 8 train articles whose centroid has the highest cosine, by a plain loop."""
    centroid = {a: bank.rows(bank.articles == a).mean(axis=0) for a in TRAIN}

    def cosine(a):
        x, y = centroid[a], centroid[article]
        return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))

    return set(sorted((a for a in TRAIN if a != article), key=cosine)[-NUM_NEARBY:])


# --- the table ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["same_article", "nearby_article", "random"])
def test_no_draw_is_a_target_a_context_or_their_copy(bank, windows, tier):
    sampler = NegativeSampler(bank, windows, NegativesConfig(**{tier: 20}), seed=0)
    bad = [forbidden_rows(bank, windows, m) for m in range(len(windows))]
    for epoch in range(5):
        table = drawn_negatives(sampler, windows, epoch, 20)
        for m, drawn in enumerate(table):
            assert not bad[m].intersection(drawn.tolist())


def test_same_article_negatives_come_from_every_other_place(bank, windows):
    sampler = NegativeSampler(bank, windows, NegativesConfig(same_article=200), seed=0)
    table = drawn_negatives(sampler, windows, 0, 200)
    fell_back = sampler.refresh(0)["num_fell_back"]
    outside = 0
    for m, drawn in enumerate(table):
        article = windows.articles[m]
        allowed = set(np.flatnonzero(bank.articles == article)) - forbidden_rows(bank, windows, m)
        inside = drawn[bank.articles[drawn] == article]
        outside += len(drawn) - len(inside)
        # 200 draws out of at most 24 rows miss a given one with a chance of 2e-4; allow a few.
        assert len(allowed - set(inside.tolist())) <= 1
    assert outside == fell_back


def test_same_article_draws_are_uniform(bank, windows):
    sampler = NegativeSampler(bank, windows, NegativesConfig(same_article=4000), seed=0)
    table = drawn_negatives(sampler, windows, 0, 4000)
    m = int(np.argmax([(bank.articles == a).sum() for a in windows.articles]))
    rows, counts = np.unique(table[m], return_counts=True)
    expected = 4000 / len(rows)
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert len(rows) > 10
    assert chi_squared < 3 * len(rows)  # mean len - 1, standard deviation sqrt(2 len)


def test_nearby_negatives_come_from_the_most_similar_train_articles(bank, windows):
    sampler = NegativeSampler(bank, windows, NegativesConfig(nearby_article=300), seed=0)
    table = drawn_negatives(sampler, windows, 0, 300)
    for article in TRAIN:
        drawn = bank.articles[table[windows.articles == article]]
        assert set(drawn.ravel().tolist()) == nearest_articles(bank, article)


def test_random_negatives_come_from_every_other_train_article(bank, windows):
    sampler = NegativeSampler(bank, windows, NegativesConfig(random=300), seed=0)
    table = drawn_negatives(sampler, windows, 0, 300)
    for article in TRAIN:
        drawn = bank.articles[table[windows.articles == article]]
        assert set(drawn.ravel().tolist()) == set(TRAIN) - {article}


def test_refresh_changes_with_the_epoch_and_repeats_with_the_seed(bank, windows):
    first = NegativeSampler(bank, windows, MIXED, seed=3)
    again = NegativeSampler(bank, windows, MIXED, seed=3)
    other = NegativeSampler(bank, windows, MIXED, seed=4)
    tables = [drawn_negatives(first, windows, epoch, 7) for epoch in (0, 1)]
    assert np.mean(tables[0] == tables[1]) < 0.3
    # A resumed run draws epoch 1 without having drawn epoch 0.
    assert np.array_equal(drawn_negatives(again, windows, 1, 7), tables[1])
    assert np.mean(drawn_negatives(other, windows, 1, 7) == tables[1]) < 0.3


def test_refresh_reports_the_shares():
    bank = make_bank(duplicates=False)
    windows = train_windows(bank)
    shares = NegativeSampler(bank, windows, MIXED, seed=0).refresh(0)
    assert shares == {
        "in_batch": pytest.approx(1 / 8),
        "same_article": pytest.approx(2 / 8),
        "nearby_article": pytest.approx(3 / 8),
        "random": pytest.approx(2 / 8),
        "num_fell_back": 0,
        "num_unusable": 0,
    }


def test_an_article_as_short_as_its_window_falls_back_to_other_articles():
    rng = np.random.default_rng(0)
    lengths = {100: T + 1, 101: T + 1, 102: 20}  # the first two hold one window and nothing else
    keys = np.array([(a, c) for a, n in lengths.items() for c in range(n)], dtype=np.int32)
    bank = Bank(rng.standard_normal((len(keys), 4)).astype(np.float32), keys)
    windows = article_windows(keys, T)
    sampler = NegativeSampler(bank, windows, NegativesConfig(same_article=5), seed=0)
    shares = sampler.refresh(0)
    assert shares["num_fell_back"] == 10
    assert shares["random"] == pytest.approx(10 / (6 * len(windows)))
    assert shares["num_unusable"] == 0
    table = drawn_negatives(sampler, windows, 0, 5)
    short = windows.articles != 102
    assert (bank.articles[table[short]] != windows.articles[short, None]).all()
    assert (bank.articles[table[~short]] == 102).all()


def test_a_bank_of_copies_yields_no_negative_at_all():
    keys = np.array([(a, c) for a in range(4) for c in range(8)], dtype=np.int32)
    bank = Bank(np.ones((32, 4), dtype=np.float32) / 2, keys)
    windows = article_windows(keys, T)
    sampler = NegativeSampler(bank, windows, MIXED, seed=0)
    shares = sampler.refresh(0)
    assert shares["num_unusable"] == 7 * len(windows)
    drawn = sampler.candidates(np.arange(4), slice(0, 4))
    assert len(drawn.excluded) == 4 * (len(drawn.ids) - 1)


def test_a_bank_of_one_article_has_no_other_articles():
    rng = np.random.default_rng(0)
    keys = np.array([(7, c) for c in range(20)], dtype=np.int32)
    bank = Bank(rng.standard_normal((20, 4)).astype(np.float32), keys)
    windows = article_windows(keys, T)
    shares = NegativeSampler(bank, windows, MIXED, seed=0).refresh(0)
    assert shares["num_unusable"] == 5 * len(windows)  # 3 nearby and 2 random per window


# --- the candidates of a batch --------------------------------------------------------------------


def a_batch(windows, size, seed=0):
    """Positions of a global batch: random ones and two windows of one article in a row."""
    batch = np.random.default_rng(seed).permutation(len(windows))[:size]
    batch[1] = (batch[0] + 1) % len(windows)
    return batch


@pytest.mark.parametrize("config", [NegativesConfig(), MIXED, BANK])
def test_excluded_pairs_equal_those_found_by_comparing_vectors(bank, windows, config):
    sampler = NegativeSampler(bank, windows, config, seed=0)
    sampler.refresh(0)
    for seed in range(3):
        batch, rows = a_batch(windows, 40, seed), slice(8, 32)
        drawn = sampler.candidates(batch, rows)
        assert np.array_equal(drawn.ids[drawn.positive], windows.targets[batch[rows]])
        pairs = [tuple(pair) for pair in drawn.excluded.tolist()]
        assert len(pairs) == len(set(pairs))
        assert set(pairs) == excluded_by_brute_force(bank, windows, batch, rows, drawn)
        assert len(pairs) > 0


def test_batch_candidates_are_the_targets_and_then_the_sampled_rows(bank, windows):
    sampler = NegativeSampler(bank, windows, MIXED, seed=0)
    table = drawn_negatives(sampler, windows, 0, 7)
    batch = a_batch(windows, 32)
    drawn = sampler.candidates(batch, slice(0, 32))
    assert np.array_equal(drawn.ids[:32], windows.targets[batch])
    assert np.array_equal(drawn.ids[32:], table[batch].ravel())
    assert np.array_equal(drawn.positive, np.arange(32))


def test_bank_candidates_are_the_rows_of_train_articles_alone(bank, windows):
    sampler = NegativeSampler(bank, windows, BANK, seed=0)
    assert sampler.refresh(0)["bank"] == 1.0
    ids = sampler.candidates(a_batch(windows, 8), slice(0, 8)).ids
    assert sorted(ids.tolist()) == np.flatnonzero(np.isin(bank.articles, list(TRAIN))).tolist()


@pytest.mark.parametrize("config", [MIXED, BANK])
def test_two_ranks_give_the_rows_of_one_process(bank, windows, config):
    one, *ranks = (NegativeSampler(bank, windows, config, seed=0) for _ in range(3))
    batch = a_batch(windows, 33)
    slices = [slice(0, 17), slice(17, 33)]
    for sampler in (one, *ranks):
        sampler.refresh(2)
    whole = one.candidates(batch, slice(0, 33))
    parts = [rank.candidates(batch, rows) for rank, rows in zip(ranks, slices, strict=True)]
    for part in parts:
        assert np.array_equal(part.ids, whole.ids)
    assert np.array_equal(np.concatenate([p.positive for p in parts]), whole.positive)
    offsets = [np.array([rows.start, 0]) for rows in slices]
    shifted = [part.excluded + offset for part, offset in zip(parts, offsets, strict=True)]
    assert np.array_equal(np.concatenate(shifted), whole.excluded)


@pytest.mark.parametrize("config", [MIXED, BANK])
@pytest.mark.parametrize("row_block", [5, 24])
def test_the_loss_counts_the_negatives_that_are_left(bank, windows, config, row_block):
    sampler = NegativeSampler(bank, windows, config, seed=0)
    sampler.refresh(0)
    batch, rows = a_batch(windows, 32), slice(4, 28)
    drawn = sampler.candidates(batch, rows)
    pairs = excluded_by_brute_force(bank, windows, batch, rows, drawn)
    vectors = torch.from_numpy(bank.rows(drawn.ids))
    result = infonce(
        F.normalize(torch.randn(24, 12, generator=torch.Generator().manual_seed(0)), dim=1),
        vectors,
        torch.from_numpy(drawn.positive),
        temperature=0.1,
        excluded=torch.from_numpy(drawn.excluded),
        row_block=row_block,
    )
    wanted = len(drawn.ids) - 1 - len(pairs) / 24
    assert float(result.num_negatives) == pytest.approx(wanted, abs=1e-9)


def test_arrays_are_what_torch_wants(bank, windows):
    sampler = NegativeSampler(bank, windows, MIXED, seed=0)
    sampler.refresh(0)
    drawn = sampler.candidates(a_batch(windows, 8), slice(0, 8))
    for array in (drawn.ids, drawn.positive, drawn.excluded):
        assert array.dtype == np.int64
        assert array.flags.writeable
    alone = sampler.candidates(np.array([3]), slice(0, 1))
    assert alone.excluded.shape[1] == 2


def test_sampled_negatives_beside_the_whole_bank_are_refused(bank, windows):
    config = NegativesConfig(candidates="bank", same_article=1)
    with pytest.raises(ConfigError, match="'bank' with 1 sampled"):
        NegativeSampler(bank, windows, config, seed=0)


def test_candidates_before_the_first_refresh_are_refused(bank, windows):
    with pytest.raises(ValueError, match="refresh"):
        NegativeSampler(bank, windows, MIXED, seed=0).candidates(np.arange(2), slice(0, 2))
