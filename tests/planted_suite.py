"""What the audit is tried on: kinds of clean text, every plant, plants on top of each other."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable

import numpy as np
import planted_within  # noqa: F401  # registers its plants
from planted import PLANTS, Family, Parts, clean, plant

from lvm.audit.check import CHECKS
from lvm.audit.finding import Severity
from lvm.audit.run import Audit, run_checks

# The codes that look at the data alone; those of gates, models and training have their own tests.
DATA_CODES = (
    "SCHEMA",
    "NONFINITE",
    "ZERO_ROWS",
    "UNNORMALISED",
    "DUPLICATES",
    "KEYS_DEGENERATE",
    "KEYS_WRONG",
    "TARGET_NOT_IN_BANK",
    "ROWS_DROPPED",
    "EVAL_UNPAIRED",
    "SPACE_MISMATCH",
    "ORDER_BROKEN",
    "TARGET_SHIFTED",
    "EASY_REGION",
    "SPLIT_LEAK",
    "INDEX_MISMATCH",
)

BASE = Family()
# Kinds of clean text: nothing here may block.
FAMILIES = {
    "base": BASE,
    "384 wide": Family(width=384, articles=60),
    "16 wide": Family(width=16),
    "centred": Family(common=0.0, article=0.25),
    "anisotropic": Family(common=0.8, article=0.08, local=0.06),
    "short articles": Family(chunks=9, articles=300),
    "15 articles": Family(articles=15, chunks=100),
    "unequal lengths": Family(length_cv=1.2),
    "equal lengths": Family(length_cv=0.0),
    "little in common": Family(article=0.1, local=0.1),
    "weak coherence": Family(article=0.05, local=0.06),
    "slow fade": Family(fade=0.9),
    "float16": Family(dtype=np.float16),
}

# Half the articles, and shorter ones: harder to judge than the base, audited in half its time.
QUICK = Family(articles=60, chunks=25)


def audit(parts: Parts) -> Audit:
    """Run the data checks; only those block whose row in the catalogue says so."""
    found = run_checks(parts.material(), codes=DATA_CODES)
    assert blocking(found) <= {row.code for row in CHECKS if row.blocks}
    return found


@functools.cache
def audit_of(name: str) -> Audit:
    """Return the audit of one plant with seed 0, made once for all tests."""
    return audit(plant(name, 0))


def codes(found: Audit) -> set[str]:
    """Return every code with a finding."""
    return {finding.code for finding in found.findings}


def blocking(found: Audit) -> set[str]:
    """Return every code with a blocking finding."""
    return {finding.code for finding in found.findings if finding.severity is Severity.BLOCK}


# --- two defects at once --------------------------------------------------------------------------

# The order in which plants go on top of each other, so that none undoes what another did: the text
# itself, the cut into windows, what stands in them, their keys, their space, their values.
LAYERS = (
    "order_shuffled",
    "order_interleaved",
    "order_as_text",
    "order_pairs_swapped",
    "order_batches_shuffled",
    "order_merged_in_runs",
    "easy_region",
    "mixed_encoders",
    "reworded_across",
    "chunks_overlap",
    "eval_partly_centred",
    "articles_cut_in_two",
    "eval_signs_alone",
    "eval_cut_and_padded",
    "split_leak",
    "windows_across_articles",
    "target_two_ahead",
    "target_is_last",
    "eval_order_shuffled",
    "order_reversed",
    "eval_not_in_bank",
    "unpaired_targets",
    "unpaired_keys_kept",
    "keys_made_up",
    "keys_next_article",
    "keys_next_chunk",
    "keys_collapsed",
    "eval_and_its_rows_rotated",
    "eval_rotated",
    "eval_through_a_layer",
    "eval_mean_flipped",
    "contexts_in_another_space",
    "reworded_in_bank",
    "duplicates",
    "rows_dropped",
    "unnormalised",
    "zero_rows",
    "nan_in_bank",
    "nan",
    "keys_missing",
    "index_rolled",
)

ANOTHER_SPACE = ("eval_rotated", "eval_through_a_layer", "eval_mean_flipped")
UNPAIRED = ("unpaired_targets", "unpaired_keys_kept")


def _with(first: Iterable[str], second: Iterable[str], reason: str) -> dict[frozenset[str], str]:
    return {frozenset(pair): reason for pair in itertools.product(first, second)}


# Pairs of which one defect is gone, or has left no trace, once the other is there.
IMPOSSIBLE = {
    **_with(
        ["order_interleaved"],
        ["easy_region"],
        "no two neighbours are of one article any more, on either side",
    ),
    **_with(
        ["easy_region"], ["split_leak"], "a random split puts the same easy articles on both sides"
    ),
    **_with(
        ["windows_across_articles", "target_two_ahead", "keys_next_article", "keys_next_chunk"],
        ["eval_not_in_bank", *ANOTHER_SPACE],
        "only the rows of the bank tell which chunk a vector is",
    ),
    **_with(
        ["eval_not_in_bank"],
        [*ANOTHER_SPACE, "eval_and_its_rows_rotated"],
        "vectors of another space are in no bank, whatever it holds",
    ),
    **_with(
        ["target_two_ahead", "target_is_last"],
        UNPAIRED,
        "the second overwrites the targets of the first",
    ),
    **_with(
        ["keys_missing"],
        ["keys_made_up", "keys_next_article", "keys_next_chunk", "keys_collapsed"],
        "there are no keys left that could be wrong",
    ),
    **_with(
        ["eval_not_in_bank"],
        UNPAIRED,
        "the targets are then rows of the bank, if not the right ones",
    ),
}

# Pairs of which the two together make a third code true.
_STATED = "with no row to be found, articles are what the keys say, and those name train articles"
ALSO_TRUE = {
    **_with(
        ["unpaired_targets", "keys_next_article"], [*ANOTHER_SPACE, "eval_not_in_bank"], _STATED
    ),
}


def pairs(names: Iterable[str] = LAYERS) -> list[tuple[str, str]]:
    """Return all pairs of plants that raise two codes."""
    found = itertools.combinations(names, 2)
    return [(a, b) for a, b in found if PLANTS[a].code != PLANTS[b].code]


def stacked(names: tuple[str, ...], seed: int = 0, family: Family = BASE) -> Parts:
    """Return the clean data set of `seed` with several defects on top of each other."""
    parts = clean(seed, family)
    for name in sorted(names, key=LAYERS.index):
        parts = PLANTS[name].apply(parts, np.random.default_rng([seed, LAYERS.index(name)]), 1.0)
    return parts


def hidden(names: tuple[str, str], found: Audit) -> set[str]:
    """Return the codes of a pair that the audit missed."""
    return {PLANTS[name].code for name in names} - codes(found)


def unrelated(names: tuple[str, ...], found: Audit) -> set[str]:
    """Return blocking codes that none of the plants accounts for."""
    known = {code for name in names for code in (PLANTS[name].code, *PLANTS[name].related)}
    also = {"SPLIT_LEAK"} if frozenset(names) in ALSO_TRUE else set()
    return blocking(found) - known - also
