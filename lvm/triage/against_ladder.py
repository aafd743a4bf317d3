"""The models of a run compared with the front of untrained baselines, window by window.

Two means with an interval each do not say whether one is larger: both move with the articles. The
difference on the same windows does.
"""

from __future__ import annotations

from pathlib import Path

from lvm.core.records import LIMITS, FrontPosition
from lvm.evaluation.evaluate import evaluate
from lvm.evaluation.front import front_position
from lvm.evaluation.metrics import PerQuery
from lvm.evaluation.predictions import predictions_of
from lvm.triage.events import Compared, Ladder, TestJudged, event_of
from lvm.triage.runner import Runner
from lvm.triage.step import Role
from lvm.triage.subject import PREDICTIONS


def rung_file(out: Path, name: str, split: str = "test") -> Path:
    """Return where the results of a trivial predictor on a split are kept."""
    return out / "ladder" / (f"{name}.npz" if split == "test" else f"{split}_{name}.npz")


def compare_with_ladder(runner: Runner) -> None:
    """Note where every model judged on test lies against the front; a repeated seed is none."""
    arms = [e.arm for e in runner.journal.events.of(TestJudged) if e.role != Role.REPEAT]
    rungs = rungs_on(runner, "test")
    found = {arm: position for arm in arms if (position := position_of(runner, arm, rungs))}
    runner.once(event_of(Compared, of="+".join(found), front=found), "of")


def rungs_on(runner: Runner, split: str) -> dict[str, PerQuery]:
    """Return the results of the rungs that a model competes with, on dev or on test.

    A rung whose results are gone (a run that an older version began) is left out.
    """
    measured = runner.journal.events.last(Ladder, split=split)
    rows = measured.rows if measured is not None else {}
    files = {
        name: rung_file(runner.request.out, name, split) for name in rows if name not in LIMITS
    }
    return {name: PerQuery.load(path) for name, path in files.items() if path.exists()}


def position_of(runner: Runner, arm: str, rungs: dict[str, PerQuery]) -> FrontPosition | None:
    """Return where an arm that was judged on test lies against the front of `rungs`.

    None where the arm left no results. Without rungs the position is NOT_EVALUABLE.
    """
    found = _results(runner, arm)
    if found is None:
        return None
    return front_position(found, rungs, runner.gates)


def _results(runner: Runner, arm: str) -> PerQuery | None:
    given = runner.request.predictions
    if arm == PREDICTIONS:
        if given is None:
            return None
        dataset = runner.dataset
        rows = predictions_of(given, dataset, runner.base.context_length)
        return evaluate(rows, dataset.test, dataset.bank, space="raw", split="test")[1]
    path = runner.request.out / "arms" / arm / "test.npz"
    return PerQuery.load(path) if path.exists() else None
