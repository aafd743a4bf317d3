"""Gaps in chunk numbers, text in turns, repeated and padded windows, and whose fault it is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import planted
import pytest
from made import reported
from planted import Parts, T, change, clean, parts_of
from planted_parts import alike, damaged, numbered
from planted_suite import FAMILIES, QUICK, audit, blocking, codes

from lvm.audit.blame import wrong_bank
from lvm.audit.finding import Finding, Severity
from lvm.audit.location import centre_and_spread, same_from
from lvm.audit.order import order_broken
from lvm.audit.repair import repair
from lvm.data.rows import KeyIndex, chunk_unit
from lvm.data.window_files import open_window_file
from lvm.data.windows import article_windows

order_broken = reported("ORDER_BROKEN", order_broken)

KEYS = np.array([[0, 20], [0, 0], [0, 10], [1, 5], [0, 10], [1, 7], [2, 0]], dtype=np.int32)


def finding(found: object, code: str, side: str) -> Finding:
    (one,) = [f for f in found.findings if f.code == code and f.where["input"] == side]  # type: ignore[attr-defined]
    return one


@pytest.mark.parametrize(
    ("key", "by", "row"),
    [
        ((0, 0), 1, 2),
        ((0, 0), 2, 0),
        ((0, 0), 3, -1),
        ((0, 20), -2, 1),
        ((0, 20), -3, -1),
        ((1, 5), -1, -1),
        ((1, 7), 1, -1),
        ((0, 0), 0, 1),
        ((0, 15), 1, 0),
        ((0, 15), -1, 2),
        ((0, 15), 0, -1),
        ((0, 99), 1, -1),
        ((0, 99), -1, 0),
    ],
)
def test_a_step_goes_to_the_chunk_that_comes_next_whatever_its_number(
    key: tuple[int, int], by: int, row: int
) -> None:
    assert KeyIndex(KEYS).step(np.array([key]), by).tolist() == [row]


def test_a_step_to_a_key_that_stands_twice_finds_both_rows() -> None:
    index = KeyIndex(KEYS)
    assert [int(index.step(KEYS[1:2], 1, copy)[0]) for copy in range(3)] == [2, 4, -1]


def test_ranks_of_neighbours_differ_by_one() -> None:
    assert KeyIndex(KEYS).ranks(KEYS).tolist() == [2, 0, 1, 3, 1, 4, 5]


@pytest.mark.parametrize(
    ("chunks", "unit"),
    [([0, 1, 2], 1), ([0, 10, 20], 10), ([3, 13, 43], 10), ([0, 4, 10], 2), ([7], 1)],
)
def test_the_unit_of_numbers_divides_every_distance(chunks: list[int], unit: int) -> None:
    keys = np.column_stack([np.zeros(len(chunks), int), chunks])
    assert chunk_unit(keys) == unit


def test_windows_of_chunks_counted_by_ten_are_those_of_chunks_counted_by_one() -> None:
    keys = clean(0, QUICK).bank.keys
    one, ten = article_windows(keys, 5), article_windows(keys * np.array([1, 10]), 5)
    np.testing.assert_array_equal(one.contexts, ten.contexts)
    np.testing.assert_array_equal(one.targets, ten.targets)
    without = np.delete(keys, 3, axis=0)
    left = article_windows(without * np.array([1, 10]), 5)
    assert len(left) < len(ten)  # none reaches across the gap
    np.testing.assert_array_equal(left.contexts, article_windows(without, 5).contexts)


@pytest.mark.parametrize("by", [1, 10])
def test_windows_across_gaps_are_counted_and_reported(by: int) -> None:
    parts = numbered(0, QUICK, missing=0.02, by=by)
    found = audit(parts)
    assert codes(found) == {"ROWS_DROPPED"}
    for side, file in (("eval", parts.eval), ("train", parts.train)):
        row_of = {tuple(key): row for row, key in enumerate(parts.bank.keys.tolist())}
        rows = np.array([row_of[tuple(key)] for key in file.truth_keys.tolist()])
        across = parts.bank.keys[rows, 1] - parts.bank.keys[rows - planted.T, 1] != by * planted.T
        one = finding(found, "ROWS_DROPPED", side)
        assert one.severity is Severity.INFO
        assert (one.where["count"], one.where["of"]) == (int(across.sum()), len(file))
        assert set(one.where["rows"]) <= set(np.flatnonzero(across).tolist())


@pytest.mark.parametrize("by", [1, 10])
def test_keys_of_a_file_with_gaps_are_still_found_wrong_and_put_right(
    by: int, tmp_path: Path
) -> None:
    parts = numbered(0, QUICK, missing=0.01, by=by)
    keys = parts.eval.truth_keys
    rows = np.arange(len(keys))
    made_up = np.column_stack([rows // 10, by * (rows % 10)]).astype(np.int32)
    broken = dataclasses.replace(parts, eval=change(parts.eval, truth_keys=made_up))
    assert finding(audit(broken), "KEYS_WRONG", "eval").severity is Severity.BLOCK
    done = repair(broken.material(), tmp_path / "out")
    assert list(done.files) == ["eval"]
    written = open_window_file(done.files["eval"])
    np.testing.assert_array_equal(written.truth_keys, keys)
    np.testing.assert_array_equal(written.targets, parts.eval.targets)


# --- thresholds that follow the spread of the vectors ---------------------------------------------


def test_the_last_context_as_target_is_found_where_all_vectors_are_alike() -> None:
    parts = alike(0, QUICK, 0.98)
    last = change(parts.eval, targets=parts.eval.contexts[:, -1].copy())
    found = audit(dataclasses.replace(parts, eval=last))
    assert finding(found, "TARGET_SHIFTED", "eval").severity is Severity.BLOCK


@pytest.mark.parametrize(("cosine", "limit"), [(0.0, 0.999), (0.5, 0.9995), (0.98, 0.99998)])
def test_two_vectors_are_one_by_a_share_of_what_any_two_differ_by(
    cosine: float, limit: float
) -> None:
    material = alike(0, dataclasses.replace(QUICK, article=0.0), cosine).material()
    spread = centre_and_spread(material.pool.vectors)[1]
    assert spread == pytest.approx(1 - cosine, abs=0.03)
    assert same_from(material) == pytest.approx(limit, abs=1e-4 * (1 - cosine) + 2e-6)


# --- the order of text that takes turns -----------------------------------------------------------


def with_tails(seed: int) -> Parts:
    """Pairs of documents merged chunk by chunk; what is left of the longer one follows."""
    bank = clean(seed).bank
    order, keys = [], []
    articles = np.unique(bank.articles)
    for a, b in zip(articles[::2], articles[1::2], strict=False):
        first, second = (np.flatnonzero(bank.articles == article) for article in (a, b))
        n = min(len(first), len(second))
        merged = np.column_stack([first[:n], second[:n]]).ravel()
        rows = np.concatenate([merged, first[n:], second[n:]])
        order.append(rows)
        keys.append(np.column_stack([np.full(len(rows), a), np.arange(len(rows))]))
    return parts_of(bank.vectors[np.concatenate(order)], np.concatenate(keys).astype(np.int32))


@pytest.mark.parametrize("seed", range(3))
def test_documents_merged_chunk_by_chunk_are_no_text_that_takes_turns(seed: int) -> None:
    found = [f for f in order_broken(with_tails(seed).material()) if f.where["input"] == "train"]
    assert [f.severity for f in found] == [Severity.BLOCK]
    assert found[0].seen.startswith("interleaved")


# --- whose fault ----------------------------------------------------------------------------------


def test_the_bank_is_not_blamed_for_what_windows_contradict_each_other_about() -> None:
    """Both window files are broken: each says so itself, and the bank is right."""
    parts = clean(0)
    for name in ("train", "eval"):
        file = getattr(parts, name)
        targets = file.targets.copy()
        rows = np.random.default_rng(1).choice(len(file), len(file) // 3, replace=False)
        targets[rows] = parts.bank.vectors[rows]
        parts = dataclasses.replace(parts, **{name: change(file, targets=targets)})
    assert wrong_bank(parts.material()) is None
    found = audit(parts)
    assert {f.where["input"] for f in found.findings if f.code == "KEYS_WRONG"} == {"train", "eval"}


@pytest.mark.parametrize("family", ["base", "short articles", "float16", "centred"])
def test_a_rolled_payload_is_the_payloads_fault_in_every_kind_of_text(family: str) -> None:
    parts = clean(1, FAMILIES[family])
    bank = dataclasses.replace(parts.bank, vectors=np.roll(parts.bank.vectors, -3, axis=0))
    found = audit(dataclasses.replace(parts, bank=bank))
    assert blocking(found) == {"KEYS_WRONG"}
    one = finding(found, "KEYS_WRONG", "bank")
    assert one.values["rows_off"] == -3


# --- windows that repeat, windows that are padded -------------------------------------------------


def test_repeated_windows_are_counted_and_no_fault_of_their_keys() -> None:
    found = audit(damaged("eval_windows_repeated"))
    assert codes(found) == {"DUPLICATES"}
    one = finding(found, "DUPLICATES", "eval")
    assert one.values == {"repeated": pytest.approx(0.8), "times": pytest.approx(5)}


def test_a_first_chunk_repeated_in_front_is_padding_and_no_wrong_key() -> None:
    found = audit(damaged("padded_with_first_chunks"))
    assert codes(found) == {"DUPLICATES"}
    assert blocking(found) == set()
    one = finding(found, "DUPLICATES", "eval")
    parts = clean(0)
    articles = len(np.unique(parts.eval.truth_keys[:, 0]))
    assert one.values["windows"] == (T - 1) * articles
    assert "padded" in one.meaning


def test_a_chunk_repeated_within_an_article_is_no_padding() -> None:
    parts = damaged("padded_with_first_chunks")
    file, rows = parts.eval, np.arange(len(parts.eval))
    contexts = file.contexts.copy()
    middle = np.isin(file.truth_keys[:, 1], range(2 * T, 3 * T)) & (rows < len(clean(0).eval))
    contexts[middle, :2] = contexts[middle, 2:3]
    found = audit(dataclasses.replace(parts, eval=change(file, contexts=contexts)))
    assert "KEYS_WRONG" in blocking(found)


def test_padding_in_the_bank_is_named() -> None:
    bank = clean(0).bank
    vectors, keys = np.array(bank.vectors), np.array(bank.keys)
    first = np.flatnonzero(np.concatenate([[True], np.diff(keys[:, 0]) != 0]))
    rows = np.sort(np.concatenate([np.arange(len(keys)), np.repeat(first, T - 1)]))
    start = np.searchsorted(keys[rows, 0], keys[rows, 0])
    again = np.column_stack([keys[rows, 0], np.arange(len(rows)) - start]).astype(np.int32)
    found = audit(parts_of(vectors[rows], again))
    assert codes(found) == {"DUPLICATES"}
    assert f"({len(first) * (T - 1)} rows)" in finding(found, "DUPLICATES", "bank").meaning


# --- whose keys are wrong ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train", "eval"])
def test_the_one_file_that_has_keys_is_named(name: str) -> None:
    parts = clean(0)
    other = "eval" if name == "train" else "train"
    mine, theirs = getattr(parts, name), getattr(parts, other)
    moved = change(mine, truth_keys=mine.truth_keys + np.array([0, 1], dtype=np.int32))
    found = audit(
        dataclasses.replace(parts, **{name: moved, other: change(theirs, truth_keys=None)})
    )
    one = finding(found, "KEYS_WRONG", name)
    assert one.values["offset_chunk"] == -1
    assert "payload" in one.meaning  # nobody else speaks against it
    both = audit(dataclasses.replace(parts, **{name: moved}))
    assert "payload" not in finding(both, "KEYS_WRONG", name).meaning


def test_zeros_in_front_of_an_article_are_padding_and_others_a_failed_encoder() -> None:
    padded = audit(damaged("padded_with_zeros"))
    assert codes(padded) == {"ZERO_ROWS"}
    assert "padded" in finding(padded, "ZERO_ROWS", "eval").meaning
    parts = clean(0)
    contexts = parts.eval.contexts.copy()
    contexts[::9, 0] = 0  # in front as well, but in the middle of articles
    failed = audit(dataclasses.replace(parts, eval=change(parts.eval, contexts=contexts)))
    assert finding(failed, "ZERO_ROWS", "eval").severity is Severity.BLOCK


@pytest.mark.parametrize("share", [0.03, 0.3, 1.0])
@pytest.mark.parametrize(("value", "code"), [(0, "ZERO_ROWS"), (np.nan, "NONFINITE")])
def test_rows_without_direction_are_neither_copies_nor_under_wrong_keys(
    value: float, code: str, share: float
) -> None:
    """One such row equals every other, and so says nothing of its key."""
    bank = clean(0).bank
    vectors = np.array(bank.vectors)
    some = np.random.default_rng(0).choice(len(bank), round(share * len(bank)), replace=False)
    vectors[some] = value
    assert blocking(audit(parts_of(vectors, np.array(bank.keys)))) == {code}
