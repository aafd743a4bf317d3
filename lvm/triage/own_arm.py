"""One arm trained by a person's own code: judged by its predictions, epoch by epoch.

From the predictions on, everything is as for an arm that this program trains.
"""

from __future__ import annotations

from collections.abc import Generator

import torch
from jaxtyping import Float
from torch import Tensor

from lvm.core.device import claim
from lvm.core.files import write_json
from lvm.core.records import Evaluation, to_plain
from lvm.data.windows import Dataset, Windows
from lvm.evaluation.evaluate import evaluate
from lvm.evaluation.evidence import View, gather
from lvm.evaluation.metrics import PerQuery
from lvm.training.own.loop import Place, test_rows, train_own
from lvm.triage.arm import ArmSpec, dev_record, run_arm, trained_epoch
from lvm.triage.events import Epoch

BACKEND = "own"  # in the journal: not computed by this program


def run_trial(spec: ArmSpec, dataset: Dataset) -> Generator[Epoch, None, None]:
    """Run one arm, by this program or by the recipe's trainer; yield every epoch."""
    trained_elsewhere = spec.recipe.trainer is not None and spec.source is None
    return (_run_own if trained_elsewhere else run_arm)(spec, dataset)


def _run_own(spec: ArmSpec, dataset: Dataset) -> Generator[Epoch, None, None]:
    """Yield what `run_arm` does for an arm that the recipe's trainer trains."""
    torch.set_num_threads(spec.threads)
    spec.folder.mkdir(parents=True, exist_ok=True)
    read = dataset.narrowed(spec.recipe.context_length)
    place = place_of(spec)

    def validate(rows: Float[Tensor, "M D"], epoch: int) -> dict[str, float | str]:
        return dev_record(spec, *_measured(spec, dataset, rows, "dev"), epoch)

    budget = spec.recipe.training.epochs
    for record in train_own(spec.recipe, read, place, validate=validate, threads=spec.threads):
        if record.epoch == budget and spec.evaluate_test:
            _evaluate_test(spec, dataset, test_rows(read, place))
        yield trained_epoch(spec, record, BACKEND)


def place_of(spec: ArmSpec) -> Place:
    """Return where the trainer of an arm runs: a run holds arms/ID and what all of them share."""
    return Place(name=f"{spec.step}, {spec.name}", folder=spec.folder, run=spec.folder.parents[1])


def _measured(
    spec: ArmSpec, dataset: Dataset, rows: Float[Tensor, "M D"], split: str
) -> tuple[Evaluation, PerQuery]:
    """Judge predictions in the space of the bank, which is the only one known of them.

    The windows may be wider than what was read, so that every context length searches one pool.
    """
    windows: Windows = dataset.split(split)
    on_device = rows.to(claim(spec.device))
    return evaluate(on_device, windows, dataset.bank, space="raw", split=split)


def _evaluate_test(spec: ArmSpec, dataset: Dataset, rows: Float[Tensor, "M D"]) -> None:
    """Judge the predictions for test, once; writes test.npz and test.json to the arm's folder."""
    if (spec.folder / "test.json").exists():
        return
    bank = dataset.bank
    evaluation, per_query = _measured(spec, dataset, rows, "test")
    per_query.save(spec.folder / "test.npz")
    device = claim(spec.device)
    pool = bank.on(device)[: len(bank.pool_rows)]
    evidence = gather(View("raw", rows.to(device), pool, per_query), dataset, seed=spec.recipe.seed)
    stored = {"evaluation": to_plain(evaluation), "ann": {}, "evidence": to_plain(evidence)}
    write_json(spec.folder / "test.json", stored)
