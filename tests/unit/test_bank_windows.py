"""Banks in memory, and windows cut from them."""

import itertools

import numpy as np
import pytest

from lvm.core.errors import DataError
from lvm.data.bank import Bank, check_vectors
from lvm.data.windows import (
    MIN_ARTICLES,
    SPLITS,
    Windows,
    article_windows,
    dataset_from_bank,
    ranked_articles,
    split_articles,
)


def make_bank(num_articles=12, num_chunks=8, width=6, dtype=np.float32, **more):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(num_articles * num_chunks, width))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    keys = np.array(list(itertools.product(range(num_articles), range(num_chunks))), np.int32)
    return Bank(vectors.astype(dtype), keys, **more)


def slow_windows(keys, context_length):
    """Windows by looking up every key by hand: the reference of article_windows."""
    row_of = {}
    for row, key in enumerate(map(tuple, keys.tolist())):
        row_of.setdefault(key, row)
    found = set()
    for article, chunk in row_of:
        run = [row_of.get((article, chunk + step)) for step in range(context_length + 1)]
        if None not in run:
            found.add(tuple(run))
    return found


# --- bank -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4)])
def test_bank_refuses_wrong_rank(shape):
    with pytest.raises(DataError, match=r"expected \[N, D\]"):
        Bank(np.ones(shape, np.float32), np.zeros((shape[0], 2), np.int32))


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.dtype(">f4")])
def test_bank_refuses_other_types(dtype):
    with pytest.raises(DataError, match="float16 or float32"):
        Bank(np.ones((3, 2), dtype), np.zeros((3, 2), np.int32))


def test_bank_refuses_no_rows():
    with pytest.raises(DataError, match="is empty"):
        Bank(np.ones((0, 2), np.float32), np.zeros((0, 2), np.int32))


@pytest.mark.parametrize("keys", [np.zeros((2, 2), int), np.zeros((3, 3), int), np.zeros((3, 2))])
def test_bank_refuses_keys_that_do_not_fit(keys):
    with pytest.raises(DataError, match="keys have shape"):
        Bank(np.ones((3, 2), np.float32), keys)


@pytest.mark.parametrize("size", [0, -1, 97])
def test_bank_refuses_a_pool_beyond_its_rows(size):
    with pytest.raises(DataError, match=rf"1 to 96 rows \(got {size}\)"):
        make_bank(pool_size=size)


def test_pool_is_every_row_unless_limited():
    assert make_bank().pool_rows.tolist() == list(range(96))
    assert make_bank(pool_size=5).pool_rows.tolist() == [0, 1, 2, 3, 4]


def test_fingerprint_sees_vectors_keys_and_pool():
    bank = make_bank()
    vectors, keys = bank.vectors.copy(), bank.keys.copy()
    vectors[-1, -1] += 1e-3
    keys[-1, -1] += 1
    prints = {
        bank.fingerprint,
        Bank(vectors, bank.keys).fingerprint,
        Bank(bank.vectors, keys).fingerprint,
        make_bank(pool_size=90).fingerprint,
        make_bank(dtype=np.float16).fingerprint,
    }
    assert len(prints) == 5
    assert make_bank().fingerprint == bank.fingerprint


def test_rows_and_tensor_are_float32_of_the_same_numbers():
    bank = make_bank(dtype=np.float16)
    assert bank.rows(slice(3, 5)).dtype == np.float32
    np.testing.assert_array_equal(bank.tensor.numpy(), bank.vectors.astype(np.float32))


def test_duplicate_group_is_the_first_equal_row():
    bank = make_bank()
    vectors = bank.vectors.copy()
    vectors[[7, 50]] = vectors[3]
    groups = Bank(vectors, bank.keys).duplicate_group
    expected = np.arange(len(bank))
    expected[[7, 50]] = 3
    np.testing.assert_array_equal(groups, expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_good_rows_pass(dtype):
    bank = make_bank(dtype=dtype)
    check_vectors(bank.vectors, bank.source)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.nan, "2 of 96 vectors are NaN or infinite .first: row 4."),
        (np.inf, "2 of 96 vectors are NaN or infinite .first: row 4."),
        (0.0, "2 of 96 vectors are zero .first: row 4."),
    ],
)
def test_bad_rows_are_named(value, words):
    bank = make_bank()
    bank.vectors[4] = value
    bank.vectors[90] = value
    with pytest.raises(DataError, match=words):
        check_vectors(bank.vectors, bank.source)


def test_one_nan_in_a_row_is_enough_and_large_numbers_are_fine_while_they_can_be_squared():
    bank = make_bank()
    bank.vectors[0] = 3e15
    check_vectors(bank.vectors, bank.source)
    bank.vectors[1] = 3e30  # numbers, and yet no search can use them
    with pytest.raises(DataError, match="row 1"):
        check_vectors(bank.vectors, bank.source)
    bank.vectors[1] = 1
    bank.vectors[95, 5] = np.nan
    with pytest.raises(DataError, match="row 95"):
        check_vectors(bank.vectors, bank.source)


# --- windows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("context_length", [1, 2, 5, 7])
def test_windows_equal_the_slow_reference_on_gappy_shuffled_keys(context_length):
    rng = np.random.default_rng(context_length)
    keys = np.array(list(itertools.product(range(9), range(15))), np.int32)
    keys = rng.permutation(keys[rng.random(len(keys)) < 0.85])
    windows = article_windows(keys, context_length)
    rows = np.column_stack([windows.contexts, windows.targets])
    assert {tuple(row) for row in rows.tolist()} == slow_windows(keys, context_length)
    assert len(rows) > 0
    np.testing.assert_array_equal(keys[rows][:, :, 0], windows.articles[:, None] + 0 * rows)


def test_windows_never_cross_articles_even_when_chunk_numbers_run_on():
    keys = np.array([[0, 0], [0, 1], [0, 2], [1, 3], [1, 4], [1, 5]])
    windows = article_windows(keys, 2)
    assert windows.contexts.tolist() == [[0, 1], [3, 4]]
    assert windows.targets.tolist() == [2, 5]


def test_a_missing_chunk_hidden_by_a_repeated_one_is_no_window():
    keys = np.array([[0, 0], [0, 1], [0, 1], [0, 3]])  # distance 3 over 4 rows, but not 3 steps
    assert len(article_windows(keys, 3)) == 0


@pytest.mark.parametrize("num_chunks", [1, 5])
def test_articles_shorter_than_a_window_give_none(num_chunks):
    keys = make_bank(num_chunks=num_chunks).keys
    assert len(article_windows(keys, 5)) == 0


def test_windows_refuse_shapes_that_disagree():
    with pytest.raises(ValueError, match="wanted"):
        Windows(np.zeros((3, 5), int), np.zeros(3, int), np.zeros(2, int))


@pytest.mark.parametrize("count", [9, 10, 57, 400])
def test_split_covers_all_articles_once(count):
    parts = split_articles(range(100, 100 + count))
    assert sorted(itertools.chain(*parts.values())) == list(range(100, 100 + count))
    assert all(len(parts[name]) >= MIN_ARTICLES[name] for name in SPLITS)


def test_split_depends_on_the_ids_alone():
    ids = list(range(40))
    assert split_articles(ids) == split_articles(ids[::-1] + ids)
    assert ranked_articles([3, 1, 3, 2]) == ranked_articles(np.array([1, 2, 3]))


def test_too_few_articles():
    with pytest.raises(DataError, match="8 articles have windows, but at least 9"):
        split_articles(range(8))


def test_dataset_splits_are_disjoint_and_complete():
    bank = make_bank(num_articles=30)
    data = dataset_from_bank(bank, 5)
    articles = [set(data.split(name).articles.tolist()) for name in SPLITS]
    assert not any(a & b for a, b in itertools.combinations(articles, 2))
    assert sum(len(data.split(name)) for name in SPLITS) == 30 * (8 - 5)
    for name in SPLITS:
        part = data.split(name)
        rows = np.column_stack([part.contexts, part.targets])
        assert (np.diff(bank.keys[rows][:, :, 1], axis=1) == 1).all()
        assert (bank.keys[rows][:, :, 0] == part.articles[:, None]).all()


def test_given_split_is_obeyed_and_the_manifest_comes_second():
    ids = list(range(12))
    own = {"train": ids[:6], "dev": ids[6:8], "test": ids[8:]}
    other = {"train": ids[6:], "dev": ids[:2], "test": ids[2:6]}
    bank = make_bank(manifest={"split": own})
    assert set(dataset_from_bank(bank, 5).dev.articles) == {6, 7}
    assert set(dataset_from_bank(bank, 5, other).dev.articles) == {0, 1}


def test_shared_article_is_refused():
    split = {"train": range(6), "dev": [6, 7], "test": [7, 8, 9]}
    with pytest.raises(DataError, match="article 7 is in the splits dev and test"):
        dataset_from_bank(make_bank(), 5, split)


def test_thin_split_is_refused():
    split = {"train": range(6), "dev": [6], "test": [7, 8, 9]}
    with pytest.raises(DataError, match="the dev split has 1 articles"):
        dataset_from_bank(make_bank(), 5, split)


def test_no_window_at_all_is_refused():
    with pytest.raises(DataError, match="9 consecutive chunks"):
        dataset_from_bank(make_bank(num_chunks=8), 8)


def test_dataset_fingerprint_follows_the_windows():
    bank = make_bank()
    assert dataset_from_bank(bank, 5).fingerprint == dataset_from_bank(bank, 5).fingerprint
    assert dataset_from_bank(bank, 5).fingerprint != dataset_from_bank(bank, 4).fingerprint
