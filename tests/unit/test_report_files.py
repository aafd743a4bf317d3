"""From the report's three files to row ids, and back."""

import itertools
import logging

import numpy as np
import pytest
from report_form import write_report_files, write_window_file

from lvm.core.errors import DataError
from lvm.data.bank import Bank
from lvm.data.copies import RowFinder, prefer_matching_keys
from lvm.data.report_files import dataset_from_report_files
from lvm.data.windows import MIN_ARTICLES, SPLITS, article_windows, dataset_from_bank

D, T = 6, 3


def make_bank(num_articles=14, num_chunks=8, dtype=np.float32, duplicates=()):
    vectors = np.random.default_rng(1).normal(size=(num_articles * num_chunks, D))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)
    for copy, original in duplicates:
        vectors[copy] = vectors[original]
    keys = np.array(list(itertools.product(range(num_articles), range(num_chunks))), np.int32)
    texts = [f"text {i}" for i in range(len(vectors))]
    return Bank(vectors, keys, {"embedder": "e"}, lambda: texts)


def window_vectors(data, name):
    part = data.split(name)
    return data.bank.vectors[np.column_stack([part.contexts, part.targets])]


def write_files(
    folder, bank, *, cast=None, truth=True, in_payload=slice(None), train=range(10), order=None
):
    """Windows of articles `train` and of the others, and a payload of the rows `in_payload`."""
    windows = article_windows(bank.keys, T)
    if order is not None:
        windows = windows.select(order(len(windows)))
    paths = []
    in_train = np.isin(windows.articles, list(train))
    for name, part in (("train", windows.select(in_train)), ("eval", windows.select(~in_train))):
        vectors = bank.vectors.astype(cast or bank.vectors.dtype)
        truth_keys = bank.keys[part.targets] if truth else None
        paths.append(folder / f"{name}.npz")
        write_window_file(paths[-1], vectors[part.contexts], vectors[part.targets], truth_keys)
    paths.append(folder / "payload.npz")
    np.savez(paths[-1], vectors=bank.vectors[in_payload], keys=bank.keys[in_payload])
    return paths


def notes(data):
    return data.bank.manifest["report_files"]


# --- round trip -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_round_trip_gives_the_same_windows(tmp_path, pickled, dtype):
    data = dataset_from_bank(make_bank(dtype=dtype, duplicates=[(20, 3), (50, 3), (51, 4)]), T)
    paths = write_report_files(data, tmp_path / "files", pickled=pickled)
    assert paths[2].suffix == (".npy" if pickled else ".npz")
    back = dataset_from_report_files(*paths, T)
    np.testing.assert_array_equal(back.bank.vectors, data.bank.vectors)
    np.testing.assert_array_equal(back.bank.keys, data.bank.keys)
    np.testing.assert_array_equal(back.test.contexts, data.test.contexts)
    np.testing.assert_array_equal(back.test.targets, data.test.targets)
    np.testing.assert_array_equal(back.test.articles, data.test.articles)

    def all_rows(dataset):
        parts = [dataset.train, dataset.dev]
        return sorted(
            r for p in parts for r in np.column_stack([p.contexts, p.targets, p.articles]).tolist()
        )

    assert all_rows(back) == all_rows(data)
    assert back.bank.pool_size is None
    assert back.bank.manifest["embedder" if not pickled else "format"]
    assert (back.bank.load_texts() == data.bank.load_texts()) == pickled
    if not pickled:
        assert isinstance(back.bank.vectors, np.memmap)
    assert notes(back)["extra_rows"] == notes(back)["shared_articles"] == 0


def test_round_trip_with_rows_outside_the_pool(tmp_path):
    bank = make_bank(duplicates=[(70, 69)])
    hidden = np.array([10, 69, 70, 100, 109])
    keep = np.setdiff1d(np.arange(len(bank)), hidden)
    first = dataset_from_report_files(*write_files(tmp_path, bank, in_payload=keep), T)
    for pickled in (False, True):
        paths = write_report_files(first, tmp_path / "again", pickled=pickled)
        second = dataset_from_report_files(*paths, T)
        np.testing.assert_array_equal(second.bank.pool_rows, first.bank.pool_rows)
        assert len(second.bank) == len(first.bank) > len(first.bank.pool_rows)
        for name in SPLITS:
            expected = window_vectors(first, name)
            np.testing.assert_array_equal(window_vectors(second, name), expected)


# --- rows outside the payload ---------------------------------------------------------------------


def test_missing_rows_are_appended_once_and_kept_out_of_the_pool(tmp_path):
    bank = make_bank(duplicates=[(70, 69)])
    hidden = np.array([10, 69, 70, 100, 109])  # 69 and 70 are one vector
    keep = np.setdiff1d(np.arange(len(bank)), hidden)
    paths = write_files(tmp_path, bank, in_payload=keep)
    data = dataset_from_report_files(*paths, T)
    assert len(data.bank) == len(keep) + 4
    assert data.bank.pool_rows.tolist() == list(range(len(keep)))
    np.testing.assert_array_equal(data.bank.vectors[: len(keep)], bank.vectors[keep])
    np.testing.assert_array_equal(
        np.unique(data.bank.vectors[len(keep) :], axis=0),
        np.unique(bank.vectors[hidden], axis=0),
    )
    with np.load(paths[1]) as eval_file:
        found = window_vectors(data, "test")
        np.testing.assert_array_equal(found[:, :-1], eval_file["context_sequences"])
        np.testing.assert_array_equal(found[:, -1], eval_file["target_vectors"])
    assert notes(data)["extra_rows"] == 4
    assert notes(data)["files"][1]["targets_outside_pool"] == 2
    extra_keys = data.bank.keys[len(keep) :]
    assert sorted(extra_keys[:, 0]) == sorted(bank.keys[[10, 69, 100, 109], 0])
    assert extra_keys[:, 1].tolist() == [-2, -4, -6, -8]
    assert not np.isin(article_windows(data.bank.keys, 1).targets, range(len(keep), 999)).any()


def test_texts_of_extra_rows_are_empty(tmp_path):
    bank = make_bank()
    paths = write_files(tmp_path, bank)
    short = Bank(bank.vectors[1:], bank.keys[1:], {}, lambda: bank.load_texts()[1:])
    windows = dataset_from_bank(short, T)
    payload = write_report_files(windows, tmp_path / "short", pickled=True)[2]
    data = dataset_from_report_files(paths[0], paths[1], payload, T)
    assert data.bank.load_texts() == [*bank.load_texts()[1:], ""]


# --- types ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bank_type", [np.float16, np.float32])
@pytest.mark.parametrize("file_type", [np.float16, np.float32, np.float64])
def test_types_of_windows_and_payload_may_differ(tmp_path, bank_type, file_type):
    bank = make_bank(dtype=bank_type)
    data = dataset_from_report_files(*write_files(tmp_path, bank, cast=file_type), T)
    expected = article_windows(bank.keys, T)
    expected = expected.select(expected.articles >= 10)
    np.testing.assert_array_equal(data.test.contexts, expected.contexts)
    assert len(data.bank) == len(bank)


def test_each_file_may_have_its_own_type(tmp_path):
    bank = make_bank()
    keep = np.setdiff1d(np.arange(len(bank)), [0, 1, 2, 3])
    (tmp_path / "half").mkdir()
    train, _, payload = write_files(tmp_path, bank, in_payload=keep)
    half = write_files(tmp_path / "half", bank, cast=np.float16, train=range(1, 10))
    data = dataset_from_report_files(train, half[1], payload, T)  # article 0 is in both files
    assert len(data.bank) == len(keep) + 4  # the float16 copies are found among the extra rows
    assert notes(data)["shared_articles"] == 1


# --- articles -------------------------------------------------------------------------------------


@pytest.mark.parametrize("truth", [False, True])
def test_articles_when_the_payload_knows_no_vector(tmp_path, truth):
    bank = make_bank()
    paths = write_files(tmp_path, bank, truth=truth)
    other = make_bank().vectors[:5] * 0.5
    np.savez(paths[2], vectors=other, keys=np.array([[500, c] for c in range(5)]))
    data = dataset_from_report_files(*paths, T)
    windows = article_windows(bank.keys, T)
    expected = windows.articles[windows.articles >= 10]
    if truth:
        np.testing.assert_array_equal(data.test.articles, expected)
        origin = {"payload": 0, "truth_keys": len(expected), "runs": 0}
    else:  # free numbers, one per run, after those of the payload and of the train file
        np.testing.assert_array_equal(data.test.articles, expected - 10 + 501 + 10)
        origin = {"payload": 0, "runs": len(expected)}
    assert notes(data)["files"][1]["articles_from"] == origin
    assert data.bank.pool_rows.tolist() == [0, 1, 2, 3, 4]


def test_unknown_target_takes_the_article_of_its_run(tmp_path):
    bank = make_bank()
    hidden = np.flatnonzero((bank.keys[:, 0] == 12) & (bank.keys[:, 1] > 4))
    keep = np.setdiff1d(np.arange(len(bank)), hidden)
    data = dataset_from_report_files(*write_files(tmp_path, bank, truth=False, in_payload=keep), T)
    windows = article_windows(bank.keys, T)
    np.testing.assert_array_equal(data.test.articles, windows.articles[windows.articles >= 10])


def test_shuffled_windows_without_keys_are_runs_of_their_own(tmp_path):
    bank = make_bank()
    paths = write_files(tmp_path, bank, truth=False, order=lambda m: np.arange(0, m, 2))
    np.savez(paths[2], vectors=make_bank().vectors[:5] * 0.5, keys=np.zeros((5, 2), int))
    data = dataset_from_report_files(*paths, T)
    assert data.test.num_articles == len(data.test)


def test_context_of_one_vector_chains_by_the_target(tmp_path):
    bank = make_bank()
    windows = article_windows(bank.keys, 1)
    for name, part in (("train", windows.articles < 10), ("eval", windows.articles >= 10)):
        part = windows.select(part)
        vectors = bank.vectors
        write_window_file(tmp_path / name, vectors[part.contexts], vectors[part.targets])
    np.savez(tmp_path / "p.npz", vectors=vectors[:3] * 0.5, keys=bank.keys[:3])
    data = dataset_from_report_files(tmp_path / "train", tmp_path / "eval", tmp_path / "p.npz", 1)
    assert data.test.num_articles == 4
    assert data.train.num_articles + data.dev.num_articles == 10


def test_dev_is_held_out_by_article(tmp_path):
    bank = make_bank(num_articles=50)
    data = dataset_from_report_files(*write_files(tmp_path, bank, train=range(40)), T)
    parts = [set(data.split(name).articles.tolist()) for name in SPLITS]
    assert not any(a & b for a, b in itertools.combinations(parts, 2))
    assert [len(part) for part in parts] == [34, 6, 10]
    assert len(data.train) + len(data.dev) == 40 * (8 - T)


def test_shared_articles_are_reported_and_kept(tmp_path, caplog):
    bank = make_bank()
    train = write_files(tmp_path, bank)[0]
    (tmp_path / "more").mkdir()
    _, eval_, payload = write_files(tmp_path / "more", bank, train=range(7))
    with caplog.at_level(logging.WARNING):
        data = dataset_from_report_files(train, eval_, payload, T)
    assert notes(data)["shared_articles"] == 3
    assert "3 articles have windows in both" in caplog.text
    assert data.test.num_articles == 7
    assert data.train.num_articles + data.dev.num_articles == 10


# --- refusals -------------------------------------------------------------------------------------


def test_other_context_length(tmp_path):
    paths = write_files(tmp_path, make_bank())
    with pytest.raises(
        DataError, match="contexts have 3 vectors, but the recipe's context_length is 5"
    ):
        dataset_from_report_files(*paths, 5)


def test_other_width(tmp_path):
    bank = make_bank()
    paths = write_files(tmp_path, bank)
    np.savez(paths[2], vectors=bank.vectors[:, 1:], keys=bank.keys)
    with pytest.raises(DataError, match=r"width 6, .* have 5"):
        dataset_from_report_files(*paths, T)


@pytest.mark.parametrize(("train", "split"), [(range(5), "train"), (range(12), "test")])
def test_too_few_articles(tmp_path, train, split):
    paths = write_files(tmp_path, make_bank(), train=train)
    with pytest.raises(
        DataError, match=f"the {split} split has {MIN_ARTICLES[split] - 1} articles"
    ):
        dataset_from_report_files(*paths, T)


# --- matching -------------------------------------------------------------------------------------


@pytest.mark.parametrize("table_type", [np.float16, np.float32])
@pytest.mark.parametrize("type_", [np.float16, np.float32])
def test_finder_equals_exhaustive_comparison(table_type, type_):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 5)).astype(np.float32)
    table = values[rng.integers(0, 20, 40)].astype(table_type)
    searched = values[rng.integers(0, 30, 200)].astype(type_)
    finder = RowFinder(table)
    found = finder.find(searched)
    every = np.concatenate([table, finder.extra_rows])
    narrow = min(np.dtype(table_type), np.dtype(type_), key=lambda t: t.itemsize)
    equal = (searched.astype(narrow)[:, None] == every.astype(narrow)).all(axis=2)
    np.testing.assert_array_equal(found, equal.argmax(axis=1))
    assert equal.any(axis=1).all()
    assert equal[:, len(table) :].any(axis=0).all()
    assert len(np.unique(finder.extra_rows, axis=0)) == len(finder.extra_rows) > 0
    same = (table[:, None].astype(narrow) == table.astype(narrow)).all(axis=2)
    np.testing.assert_array_equal(finder.groups, same.argmax(axis=1))


def test_one_bit_is_a_different_vector():
    table = np.ones((2, 4), np.float32)
    table[1, 3] = np.nextafter(np.float32(1), np.float32(2))
    assert RowFinder(table).find(table[::-1].copy()).tolist() == [1, 0]


@pytest.mark.parametrize("with_truth", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_windows_full_of_duplicates_are_placed_as_one_run(with_truth, seed):
    rng = np.random.default_rng(seed)
    keys = np.array(list(itertools.product(range(6), range(9))), np.int32)
    keys = keys[rng.random(len(keys)) < 0.9]
    content = rng.integers(0, 25, len(keys))  # 25 distinct vectors over about 48 rows
    groups = np.array([np.flatnonzero(content == c)[0] for c in content])
    windows = article_windows(keys, T)
    true_rows = np.column_stack([windows.contexts, windows.targets])
    equal = groups[true_rows]
    truth = keys[windows.targets] if with_truth else None
    placed = prefer_matching_keys(equal, groups, keys, truth)
    np.testing.assert_array_equal(groups[placed], equal)
    assert (np.diff(keys[placed][:, :, 1], axis=1) == 1).all()
    assert (np.diff(keys[placed][:, :, 0], axis=1) == 0).all()
    if with_truth:
        np.testing.assert_array_equal(placed, true_rows)
    assert not np.array_equal(equal, true_rows)  # without the choice the test would fail


def test_extra_rows_and_strangers_stay_while_the_rest_is_placed():
    keys = np.array([[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]])
    groups = np.array([0, 1, 2, 0, 4, 2])  # rows 0 and 3 are equal, and rows 2 and 5
    rows = np.array([[0, 4, 2], [0, 1, 2], [0, 6, 2], [4, 4, 2], [6, 7, 8]])
    placed = prefer_matching_keys(rows, groups, keys)
    assert placed.tolist() == [[3, 4, 5], [0, 1, 2], [0, 6, 2], [4, 4, 5], [6, 7, 8]]
    truth = np.array([[1, 2], [0, 2], [1, 2], [0, 2], [1, 2]])
    placed = prefer_matching_keys(rows, groups, keys, truth)
    assert placed.tolist() == [[3, 4, 5], [0, 1, 2], [3, 6, 5], [4, 4, 5], [6, 7, 8]]
