"""The models of a run held against the ladder, window by window.

Two means with an interval each do not say whether one is larger: both move with the articles. The
difference on the same windows does.
"""

from __future__ import annotations

from pathlib import Path

from lvm.evaluation.evaluate import evaluate
from lvm.evaluation.metrics import PerQuery
from lvm.evaluation.predictions import read_predictions
from lvm.gates import gain
from lvm.records import GateResult
from lvm.report import LIMITS
from lvm.report.subject import PREDICTIONS
from lvm.triage.runner import Runner
from lvm.triage.step import Role

METRICS = ("r_at_5", "eval_cosine")


def rung_file(out: Path, name: str, split: str = "test") -> Path:
    """Return where the results of a trivial predictor on a split are kept."""
    return out / "ladder" / (f"{name}.npz" if split == "test" else f"{split}_{name}.npz")


def compare_with_ladder(runner: Runner) -> None:
    """Note for every model judged on test what it gains over each trivial predictor.

    A rung whose results are gone (a run that an older version began) is left out.
    """
    rungs = {
        name: PerQuery.load(path)
        for name in (runner.journal.find("ladder", split="test") or {"rows": {}})["rows"]
        if name not in LIMITS and (path := rung_file(runner.request.out, name)).exists()
    }
    tested = [e for e in runner.journal.all("test_judged") if e["role"] != Role.REPEAT]
    models = {}
    for event in tested:
        found = _results(runner, event["arm"])
        if found is not None and rungs:
            models[event["arm"]] = {m: _gains(runner, found, rungs, m) for m in METRICS}
    runner.once("compared", ("of",), of="+".join(models), models=models)


def _gains(
    runner: Runner, model: PerQuery, rungs: dict[str, PerQuery], metric: str
) -> dict[str, GateResult]:
    seed = runner.base.seed
    return {name: gain(model, rung, metric, runner.gates, seed) for name, rung in rungs.items()}


def _results(runner: Runner, arm: str) -> PerQuery | None:
    given = runner.request.predictions
    if arm == PREDICTIONS:
        if given is None:
            return None
        dataset = runner.dataset
        rows = read_predictions(given, len(dataset.test), dataset.bank.width)
        return evaluate(rows, dataset.test, dataset.bank, space="raw", split="test")[1]
    path = runner.request.out / "arms" / arm / "test.npz"
    return PerQuery.load(path) if path.exists() else None
