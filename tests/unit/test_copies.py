"""Rows that are one vector up to rounding are found, whatever the space and the file."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lvm.data.bank import Bank
from lvm.data.copies import ROUNDING, copy_groups
from lvm.data.rows import blocks


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def corpus(width: int, *, common: float = 0.0, rows: int = 3000, seed: int = 0) -> np.ndarray:
    """Random directions around a common one; the larger `common`, the more alike they are."""
    rng = np.random.default_rng(seed)
    return unit(rng.standard_normal((rows, width)) / width**0.5 + common * np.eye(width)[0])


def moved(rows: np.ndarray, distance: float, seed: int = 1) -> np.ndarray:
    """Every row, so far away from where it was."""
    step = np.random.default_rng(seed).standard_normal(rows.shape)
    return (rows + distance * step / np.linalg.norm(step, axis=1, keepdims=True)).astype(np.float32)


def by_hand(vectors: np.ndarray, limit: float) -> np.ndarray:
    """Slow reference: every row joins the first row that it is a copy of."""
    exact = vectors.astype(np.float64)
    group = np.arange(len(exact))
    for row in range(len(exact)):
        apart = ((exact[:row] - exact[row]) ** 2).sum(axis=1)
        near = np.flatnonzero((apart <= limit) & (group[:row] == np.arange(row)))
        group[row] = near[0] if len(near) else row
    return group


@pytest.mark.parametrize("common", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("width", [8, 64, 384])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_copies_are_those_of_the_loop(width: int, common: float, share: float) -> None:
    first = corpus(width, common=common, rows=300)
    distance = share * (2 * ROUNDING) ** 0.5
    again = [moved(first[::2], distance / 2, seed) for seed in (1, 2)]
    vectors = np.concatenate([first, *again])[np.random.default_rng(3).permutation(600)]
    group = copy_groups(vectors)
    assert np.array_equal(group, by_hand(vectors, 2 * ROUNDING))
    assert (group != np.arange(600)).sum() == 300


def test_rows_beyond_the_limit_are_no_copies() -> None:
    first = corpus(64)
    both = np.concatenate([first, moved(first, 1.1 * (2 * ROUNDING) ** 0.5)])
    assert np.array_equal(copy_groups(both), np.arange(len(both)))


def test_next_to_none_is_missed_right_below_the_limit() -> None:
    first = corpus(64, rows=20_000)
    both = np.concatenate([first, moved(first, 0.98 * (2 * ROUNDING) ** 0.5)])
    assert (copy_groups(both)[20_000:] != np.arange(20_000)).sum() <= 2


def test_where_all_rows_are_nearly_one_copies_are_nearer_still() -> None:
    """A mean cosine of .99999: the usual limit would make one row of them all."""
    rows = corpus(64, common=300.0, rows=500)
    assert (rows @ rows.T).min() > 1 - 1e-4
    assert np.array_equal(copy_groups(rows), np.arange(500))
    both = np.concatenate([rows, rows[:100]])
    assert copy_groups(both)[500:].tolist() == list(range(100))


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_a_row_that_went_through_another_precision_is_a_copy(precision: torch.dtype) -> None:
    first = corpus(64, rows=500)
    rounded = torch.from_numpy(first).to(precision).float().numpy()
    assert copy_groups(np.concatenate([first, rounded]))[500:].tolist() == list(range(500))
    half = np.concatenate([first, rounded]).astype(np.float16)  # and so is a bank in half precision
    assert copy_groups(half)[500:].tolist() == list(range(500))


def test_a_padding_row_of_many_forms_is_one_group() -> None:
    vectors = corpus(32, rows=5000)
    padding = np.arange(0, 5000, 2)
    vectors[padding] = moved(np.repeat(vectors[:1], len(padding), axis=0), 3e-4)
    group = copy_groups(vectors)
    assert (group[padding] == 0).all()
    assert (np.delete(group, padding) == np.delete(np.arange(5000), padding)).all()


def test_a_chain_of_copies_is_cut_where_it_leaves_its_first_row() -> None:
    """Rows on an arc, each a copy of the next: the ends are a hundred limits apart."""
    angle = 0.4 * (2 * ROUNDING) ** 0.5 * np.arange(300)
    arc = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    vectors = np.concatenate([arc, corpus(2, rows=50)])
    group = copy_groups(vectors)
    apart = ((vectors - vectors[group]).astype(np.float64) ** 2).sum(axis=1)
    assert (apart <= 2 * ROUNDING * (1 + 1e-5)).all()
    assert np.array_equal(group[group], group)
    assert (group <= np.arange(350)).all()


def test_rows_that_are_no_vectors_are_copies_of_equal_bits_alone() -> None:
    vectors = corpus(16, rows=60)
    vectors[3], vectors[7], vectors[9] = np.nan, np.inf, 0
    vectors[20], vectors[21], vectors[30] = vectors[3], vectors[9], 1e30
    group = copy_groups(vectors)
    assert (group[20], group[21]) == (3, 9)
    expected = np.arange(60)
    expected[20], expected[21] = 3, 9
    assert np.array_equal(group, expected)
    assert np.array_equal(copy_groups(np.full((4, 8), np.nan, np.float32)), np.zeros(4))


def test_a_mapped_bank_gives_the_same_groups(tmp_path) -> None:
    first = corpus(48, rows=3000)
    vectors = np.concatenate([first, moved(first[:700], 1e-4), first[:50]])
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    assert len(list(blocks(mapped, num_bytes=1 << 16))) > 5
    group = copy_groups(mapped)
    keys = np.column_stack([np.arange(3750), np.zeros(3750)]).astype(np.int32)
    assert np.array_equal(group, Bank(vectors, keys).duplicate_group)
    assert group[3000:].tolist() == [*range(700), *range(50)]
