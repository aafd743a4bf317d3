"""How a trained model is judged on the test split, and how that is printed."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from lvm.audit.lineage import read_lineage, seen_articles
from lvm.audit.loaded import names_data
from lvm.config.run import GateConfig
from lvm.data.load import DataRequest, load_dataset
from lvm.data.windows import Dataset
from lvm.errors import ExitStatus, UsageError
from lvm.jobs.options import EvalOptions
from lvm.plugins import load_given
from lvm.training.checkpoint import load_checkpoint
from lvm.triage.arm import ArmSpec, evaluate_test
from lvm.triage.step import Role


def judge(options: EvalOptions) -> int:
    """Judge a checkpoint, print the result; return the exit status."""
    checkpoint = options.checkpoint
    load_given(options.plugin)
    predictor, recipe, manifest = load_checkpoint(checkpoint)
    asked = DataRequest(
        bank=options.data, train=options.train, evaluation=options.eval, payload=options.payload
    )
    dataset, source = load_dataset(asked, recipe.context_length)
    if dataset.bank.width != manifest["width"]:
        raise UsageError(
            f"{source} has width {dataset.bank.width}, but the checkpoint has "
            f"{manifest['width']}; use the bank it was trained on, or one from the same encoder."
        )
    own = names_data(manifest, dataset.bank, dataset)
    if not own and not options.other_data:
        raise UsageError(
            f"{checkpoint} was not trained on {source}; give its own data with --data BANK, or "
            "add --other-data to evaluate it here anyway."
        )
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
        print(f"{checkpoint} on {source}{'' if own else ', which it was not trained on'}")
        _print_seen(checkpoint, manifest, dataset)
        print_test(spec.folder)
    return ExitStatus.OK


def _print_seen(path: Path, manifest: dict[str, Any], dataset: Dataset) -> None:
    """Say which test articles a checkpoint was trained on, or that nobody can tell."""
    bank, test = dataset.bank, dataset.test
    lineage = read_lineage(manifest, path)
    seen = seen_articles(lineage, bank, dataset, bank.rows(test.contexts[:, -1]), test.articles)
    if len(seen.articles):
        print(
            f"warning: {len(seen.articles)} of {test.num_articles} test articles were in its "
            "training data, so these numbers say little about unread text"
        )
    for name, why in seen.unknown.items():
        print(f"warning: it is unknown whether {name} has read the test text: {why}")


def print_test(folder: Path) -> None:
    """Print what an arm in this folder reached on the test split, raw and masked."""
    evaluation = json.loads((folder / "test.json").read_text())["evaluation"]
    pool = evaluation["pool"]
    print(
        f"test split: {evaluation['num_windows']} windows of {evaluation['num_articles']} "
        f"articles, pool {pool['id']} of {pool['size']} rows, {evaluation['space']} space"
    )
    print(f"{'':14} {'masked':>8} {'raw':>8}")
    for name, value in evaluation["masked"].items():
        cells = [
            f"{v:8.4f}" if v is not None else "    null" for v in (value, evaluation["raw"][name])
        ]
        print(f"{name:14} {' '.join(cells)}")
    for name, value in evaluation["latency"].items():
        print(f"{name:14} {value:8.2f}")
