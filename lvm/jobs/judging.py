"""How a trained model is judged on the test split, and how that is printed."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch

from lvm.audit.lineage import read_lineage, seen_articles, unknown_lineage
from lvm.audit.loaded import names_data
from lvm.core.config.run import GateConfig, RunConfig
from lvm.core.errors import ExitStatus, UsageError
from lvm.core.plugins import load_given
from lvm.core.records import Evaluation
from lvm.data.load import DataRequest, load_dataset
from lvm.data.windows import Dataset
from lvm.evaluation.evaluate import evaluate
from lvm.evaluation.gates import success_gates
from lvm.evaluation.ladder import fit_ladder, judge_ladder
from lvm.evaluation.metrics import PerQuery
from lvm.evaluation.predictions import read_predictions, unit_predictions
from lvm.jobs.options import EvalOptions
from lvm.jobs.results import EvaluationResult
from lvm.training.checkpoint import load_checkpoint
from lvm.training.manifest import Manifest, Stated
from lvm.triage.arm import ArmSpec, evaluate_test
from lvm.triage.step import Role

Model = Path | np.ndarray | torch.Tensor  # a checkpoint or .npy file; predictions, [M, D]


@dataclass(frozen=True, kw_only=True, eq=False)
class OnTest:
    """A model on the test split of some data."""

    result: EvaluationResult
    per_query: PerQuery
    dataset: Dataset
    own: bool = True  # whether the model was trained on this data


def judge(options: EvalOptions) -> int:
    """Judge a checkpoint, print the result; return the exit status."""
    load_given(options.plugin)
    found = checkpoint_on_test(options.checkpoint, options.request, options.other_data)
    told = found.result
    print(f"{told.model} on {told.source}{'' if found.own else ', which it was not trained on'}")
    for warning in told.warnings:
        print(f"warning: {warning}")
    print_evaluation(told.evaluation)
    return ExitStatus.OK


def compared(
    model: Model,
    request: DataRequest,
    config: RunConfig,
    *,
    ar_only: Model | None = None,
    other_data: bool = False,
) -> EvaluationResult:
    """Judge a model and the ladder, and the success gate over AR-only where that is given.

    The gates and the context length of predictions are those of `config`; a checkpoint has its own
    context length.
    """
    found = _on_test(model, request, config, other_data)
    dataset, seed = found.dataset, config.recipe.seed
    predictors = fit_ladder(dataset, seed=seed)
    rungs = judge_ladder(predictors, dataset, "test", torch.device("cpu"))
    result = dataclasses.replace(found.result, ladder=rungs)
    if ar_only is None:
        return result
    baseline = _on_test(ar_only, request, config, other_data)
    verdict, gates = success_gates(found.per_query, baseline.per_query, config.gates, seed)
    about = [f"AR-only: {warning}" for warning in baseline.result.warnings]
    return dataclasses.replace(
        result, verdict=verdict, gates=gates, warnings=[*result.warnings, *about]
    )


def _on_test(model: Model, request: DataRequest, config: RunConfig, other_data: bool) -> OnTest:
    if isinstance(model, Path) and model.suffix != ".npy":
        return checkpoint_on_test(model, request, other_data)
    return predictions_on_test(model, request, config.recipe.context_length)


# --- predictions ----------------------------------------------------------------------------------


def predictions_on_test(given: Model, request: DataRequest, context_length: int) -> OnTest:
    """Judge predictions, one row per test window; DataError where they do not fit."""
    dataset, source = load_dataset(request, context_length)
    test, bank = dataset.test, dataset.bank
    if isinstance(given, Path):
        name, rows = str(given), read_predictions(given, len(test), bank.width)
    else:
        name = "the predictions"
        array = given.detach().cpu().numpy() if isinstance(given, torch.Tensor) else given
        rows = unit_predictions(np.asarray(array), len(test), bank.width, name)
    evaluation, per_query = evaluate(rows, test, bank, space="raw", split="test")
    warnings = [_unknown(*unread) for unread in unknown_lineage().unread.items()]
    result = EvaluationResult(model=name, source=source, evaluation=evaluation, warnings=warnings)
    return OnTest(result=result, per_query=per_query, dataset=dataset)


# --- checkpoints ----------------------------------------------------------------------------------


def checkpoint_on_test(checkpoint: Path, request: DataRequest, other_data: bool) -> OnTest:
    """Judge a checkpoint; UsageError for data that it was not trained on, unless `other_data`."""
    predictor, recipe, manifest = load_checkpoint(checkpoint)
    dataset, source = load_dataset(request, recipe.context_length)
    own = _checked(checkpoint, manifest, dataset, source, other_data)
    with tempfile.TemporaryDirectory() as folder:
        spec = ArmSpec(
            id="eval",
            step="eval",
            name="eval",
            role=Role.CONFIRM,
            recipe=recipe,
            folder=Path(folder),
            gates=GateConfig(),
            evaluate_test=True,
        )
        evaluate_test(spec, dataset, predictor)
        evaluation, per_query = read_test(spec.folder), PerQuery.load(spec.folder / "test.npz")
    result = EvaluationResult(
        model=str(checkpoint),
        source=source,
        evaluation=evaluation,
        warnings=_seen(checkpoint, manifest, dataset),
    )
    return OnTest(result=result, per_query=per_query, dataset=dataset, own=own)


def _checked(
    checkpoint: Path,
    manifest: Manifest,
    dataset: Dataset,
    source: str,
    other_data: bool,
) -> bool:
    """Return whether a checkpoint was trained on this data; UsageError where it cannot serve."""
    if dataset.bank.width != manifest.width:
        raise UsageError(
            f"{source} has width {dataset.bank.width}, but the checkpoint has "
            f"{manifest.width}; use the bank it was trained on, or one from the same encoder."
        )
    own = names_data(manifest, dataset.bank, dataset)
    if not own and not other_data:
        raise UsageError(
            f"{checkpoint} was not trained on {source}; give its own data with --data BANK, or "
            "add --other-data to evaluate it here anyway."
        )
    return own


def _seen(path: Path, manifest: Stated, dataset: Dataset) -> list[str]:
    """Return which test articles a checkpoint was trained on, or that this is unknown."""
    bank, test = dataset.bank, dataset.test
    lineage = read_lineage(manifest, path)
    seen = seen_articles(lineage, bank, dataset, bank.rows(test.contexts[:, -1]), test.articles)
    warnings = [_unknown(name, why) for name, why in seen.unknown.items()]
    if len(seen.articles):
        read = (
            f"{len(seen.articles)} of {test.num_articles} test articles were in its "
            "training data, so these numbers say little about unread text"
        )
        return [read, *warnings]
    return warnings


def _unknown(name: str, why: str) -> str:
    return f"it is unknown whether {name} has read the test text: {why}"


# --- what was measured ----------------------------------------------------------------------------


def read_test(folder: Path) -> Evaluation:
    """Return what an arm in this folder reached on the test split."""
    kept = json.loads((folder / "test.json").read_text())
    return msgspec.convert(kept["evaluation"], Evaluation)


def print_evaluation(evaluation: Evaluation) -> None:
    """Print what a model reached on the test split, raw and masked."""
    pool = evaluation.pool
    print(
        f"test split: {evaluation.num_windows} windows of {evaluation.num_articles} "
        f"articles, pool {pool.id} of {pool.size} rows, {evaluation.space} space"
    )
    print(f"{'':14} {'masked':>8} {'raw':>8}")
    for name, value in evaluation.masked.items():
        cells = [
            f"{v:8.4f}" if v is not None else "    null" for v in (value, evaluation.raw[name])
        ]
        print(f"{name:14} {' '.join(cells)}")
    for name, value in evaluation.latency.items():
        print(f"{name:14} {value:8.2f}")
