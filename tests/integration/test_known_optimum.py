"""Where the best prediction is known, the model that is confirmed comes near it, and passes.

The world and why its best prediction is known are described in tests/linear_world.py. The table
over ten seeds comes from benchmarks/known_optimum.py.
"""

from __future__ import annotations

from pathlib import Path

import linear_world
import pytest
import tiny

from lvm.core.config.read import load_run_config
from lvm.core.records import RunVerdict, Verdict
from lvm.triage.events import Confirmed, Phase1Judged, TestJudged

pytestmark = pytest.mark.integration  # whole triages, for their seconds; they start no process

RECIPES = Path(__file__).parents[2] / "lvm" / "recipes"
NEAR = 0.95


def _near(world, judged) -> bool:
    """Whether a model judged on the test split reaches its share of the optimum's cosine."""
    test, evaluation = world.dataset.test, judged.evaluation
    assert evaluation.space == "raw"
    optimum = world.cosine(world.optimum(test), test)
    return NEAR * optimum <= evaluation.masked["eval_cosine"] <= optimum


@pytest.mark.parametrize("seed", [0, 1])
def test_the_reports_objective_in_the_raw_space_passes_near_the_optimum(seed, tmp_path) -> None:
    world = linear_world.linear(seed)
    stop, journal = tiny.triage(tmp_path, world.dataset, linear_world.base_config(seed))

    assert stop.verdict == RunVerdict.PASSED
    assert _near(world, journal.events.last(TestJudged, name="InfoNCE+AR"))
    # AR-only is nearer still: the success gate is held by retrieval, not by a weak baseline.
    assert _near(world, journal.events.last(TestJudged, name="AR-only"))


def test_what_mends_the_split_of_spaces_comes_near_the_optimum(tmp_path) -> None:
    world = linear_world.linear(0)
    base = linear_world.base_config(0)
    config = load_run_config(RECIPES / "wrong_head_only.toml", base)
    stop, journal = tiny.triage(tmp_path, world.dataset, config)

    assert journal.events.last(Phase1Judged).verdict != Verdict.PASS
    assert (stop.verdict, stop.cause) == (RunVerdict.FIXED, ("projection_head",))
    confirmed = journal.events.last(Confirmed)
    assert confirmed.verdict == Verdict.PASS
    assert _near(world, journal.events.last(TestJudged, arm=confirmed.spec))
    assert not _near(world, journal.events.last(TestJudged, name="InfoNCE+AR"))
