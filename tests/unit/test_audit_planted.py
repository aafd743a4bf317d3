"""The planted suite: a defect raises its code, alone and beside another; clean data never blocks.

`benchmarks/audit_limits.py` runs the same with more seeds, all pairs, and smaller shares of rows.
"""

from __future__ import annotations

import pytest
from planted import PLANTS, Family, clean, plant
from planted_suite import (
    FAMILIES,
    IMPOSSIBLE,
    LAYERS,
    QUICK,
    audit,
    audit_of,
    blocking,
    codes,
    hidden,
    pairs,
    stacked,
    unrelated,
)

from lvm.audit.finding import Status
from lvm.audit.run import Audit

# One plant of most codes, all pairs of which are tried here.
PAIRED = (
    "easy_region",
    "windows_across_articles",
    "target_is_last",
    "order_reversed",
    "unpaired_targets",
    "keys_next_chunk",
    "eval_rotated",
    "unnormalised",
    "nan",
)
POSSIBLE = [pair for pair in pairs(PAIRED) if frozenset(pair) not in IMPOSSIBLE]


def assert_none_failed(found: Audit) -> None:
    assert [(r.code, r.reason) for r in found.results if r.status is Status.FAILED] == []


@pytest.mark.parametrize("name", PLANTS)
def test_a_defect_raises_its_code_and_blocks_for_nothing_else(name: str) -> None:
    found = audit_of(name)
    assert PLANTS[name].code in codes(found)
    assert unrelated((name,), found) == set()
    assert_none_failed(found)


def test_a_defect_that_no_training_can_fix_blocks() -> None:
    """Without this a suite of warnings would pass, and nothing would ever be stopped."""
    warned = {name for name in PLANTS if PLANTS[name].code not in blocking(audit_of(name))}
    assert warned == {
        "unnormalised",
        "duplicates",
        "rows_dropped",
        "easy_region",
        "reworded_in_bank",
        "chunks_overlap",
    }


@pytest.mark.parametrize("pair", POSSIBLE, ids=" + ".join)
def test_two_defects_do_not_hide_each_other(pair: tuple[str, str]) -> None:
    found = audit(stacked(pair, family=QUICK))
    assert hidden(pair, found) == set()
    assert unrelated(pair, found) == set()
    assert_none_failed(found)


def test_impossible_pairs_are_listed_with_a_reason_and_name_plants() -> None:
    assert set(LAYERS) == set(PLANTS)
    for pair, reason in IMPOSSIBLE.items():
        assert pair <= set(PLANTS)
        assert len(pair) == 2
        assert len(reason.split()) >= 5


def test_fifty_clean_seeds_block_at_most_once() -> None:
    blocked = {seed: found for seed in range(50) if (found := blocking(audit(clean(seed, QUICK))))}
    assert len(blocked) <= 1, blocked


@pytest.mark.parametrize("name", FAMILIES)
def test_no_other_kind_of_clean_text_blocks(name: str) -> None:
    for seed in range(2):
        found = audit(clean(seed, FAMILIES[name]))
        assert blocking(found) == set()
        assert_none_failed(found)


@pytest.mark.parametrize("name", ["unpaired_targets", "eval_rotated", "order_reversed"])
def test_the_gravest_defects_are_found_in_centred_and_in_anisotropic_spaces(name: str) -> None:
    """A fixed threshold on a cosine would fail in one of the two."""
    for family in ("centred", "anisotropic"):
        found = audit(plant(name, 0, family=FAMILIES[family]))
        assert PLANTS[name].code in blocking(found)
        assert unrelated((name,), found) == set()


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("keys_next_chunk", 0.05),
        ("eval_order_shuffled", 0.05),
        ("target_is_last", 0.05),
        ("windows_across_articles", 0.05),
        ("split_leak", 0.05),
        ("nan", 0.05),
        ("unpaired_targets", 0.05),
        ("order_interleaved", 0.2),
        ("index_rolled", 0.05),
        ("reworded_in_bank", 0.2),
        ("reworded_across", 0.2),
        ("articles_cut_in_two", 0.5),
        ("eval_partly_centred", 0.5),
        ("chunks_overlap", 0.5),
    ],
)
def test_what_can_be_counted_is_found_in_a_small_part_of_the_rows(name: str, share: float) -> None:
    assert PLANTS[name].code in codes(audit(plant(name, 0, share)))


def test_a_small_data_set_of_one_kind_of_article_stays_quiet() -> None:
    """About the least that can be split: sixteen short articles."""
    found = audit(clean(3, Family(articles=16, chunks=12)))
    assert blocking(found) == set()
    assert_none_failed(found)
