"""The quick look at large files: it ends the audit where it blocks, and says what all rows say."""

from __future__ import annotations

import pytest
from planted import Parts, clean, plant

from lvm.audit import session
from lvm.audit.check import CHECKS
from lvm.audit.run import Audit
from lvm.audit.session import run_audit
from lvm.triage.step import steps_in_order

THOROUGH = {row.code for row in CHECKS if row.thorough}

# One that every file shows in a sample, per kind of thing that is looked at.
SEEN_AT_ONCE = (
    "keys_made_up",
    "unpaired_targets",
    "eval_not_in_bank",
    "eval_rotated",
    "target_is_last",
    "order_reversed",
    "windows_across_articles",
    "nan",
)


@pytest.fixture(autouse=True)
def every_file_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "LARGE_BYTES", 0)


def looked_at(parts: Parts, *, thorough: bool = False) -> tuple[Audit, bool, list[str]]:
    """Return the audit, whether its document is of a quick look, and the calls before all rows."""
    calls: list[str] = []
    audit, document = run_audit(
        parts.material(),
        allowed=(),
        progress=lambda code, number, total: None,
        steps=steps_in_order(),
        thorough=thorough,
        then=lambda: calls.append("every row"),
    )
    return audit, document.quick, calls


@pytest.mark.parametrize("name", SEEN_AT_ONCE)
def test_where_it_blocks_nothing_more_is_read_or_started_and_no_block_is_missing(name: str) -> None:
    quick, is_quick, calls = looked_at(plant(name, 0))
    assert (is_quick, calls) == (True, [])
    assert {result.code for result in quick.results}.isdisjoint(THOROUGH)
    whole, _, _ = looked_at(plant(name, 0), thorough=True)
    assert set(quick.blocking) == set(whole.blocking) - THOROUGH


def test_where_it_does_not_block_every_row_is_read_once_and_whatever_waits_for_it_starts() -> None:
    audit, is_quick, calls = looked_at(clean(0))
    assert (is_quick, calls) == (False, ["every row"])
    assert {result.code for result in audit.results} >= THOROUGH
    assert set(audit.blocking) == set()


def test_what_only_every_row_shows_is_found_after_it() -> None:
    audit, is_quick, calls = looked_at(plant("reworded_across", 0))
    assert (is_quick, calls) == (False, ["every row"])
    assert "SPLIT_LEAK" in audit.blocking
