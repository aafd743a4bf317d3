"""Phase 1 again, small: a good model, a broken eval set. BLOCKED, repaired, and good all along."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from replica import SMALL, Replica, make_replica

import lvm.cli
import tune_jobs.triage
from lvm.audit import session
from lvm.core.command import run_command
from lvm.core.config.recipe import ModelConfig, Recipe, TrainingConfig
from lvm.data.load import DataRequest, load_dataset
from lvm.data.npz import open_npz
from lvm.data.windows import Dataset
from lvm.evaluation.evaluate import evaluate
from lvm.evaluation.inference import predict
from lvm.models.predictor import Predictor
from lvm.training.loop import train
from lvm.triage.on_ray import RayExecutor

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
RECIPE = Recipe(
    model=ModelConfig(hidden=64, num_layers=1, state=16, head_dim=32, residual=True),
    training=TrainingConfig(epochs=3, batch_size=128, learning_rate=2e-3),
).ar_only()


@dataclass(frozen=True, kw_only=True)
class Audited:
    """What the two commands left."""

    replica: Replica
    run: Path
    repaired: Path
    statuses: tuple[int, int]
    printed: str


def flags(replica: Replica, eval_: Path | None = None) -> list[str]:
    eval_ = eval_ or replica.eval
    return ["--train", str(replica.train), "--eval", str(eval_), "--payload", str(replica.payload)]


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Audited:
    """The triage of the broken files, then their repair."""
    import contextlib
    import io

    folder = tmp_path_factory.mktemp("replica")
    replica = make_replica(folder / "files", SMALL)

    def start(executor: RayExecutor) -> None:
        raise AssertionError("Ray was started though the audit blocks")

    patch = pytest.MonkeyPatch()
    patch.setattr(RayExecutor, "start", start)
    patch.chdir(folder)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        blocked = run_command(
            tune_jobs.triage.main, [*flags(replica), "--out", str(folder / "run")]
        )
        fixed = run_command(
            lvm.cli.main,
            ["audit", *flags(replica), "--repair", "fixed/eval.npz", "--out", "audit"],
        )
    patch.undo()
    return Audited(
        replica=replica,
        run=folder / "run",
        repaired=folder / "fixed" / "eval.npz",
        statuses=(blocked, fixed),
        printed=printed.getvalue(),
    )


def test_the_triage_says_blocked_and_trains_nothing(audited: Audited):
    verdict = json.loads((audited.run / "verdict.json").read_text())
    assert audited.statuses[0] == 3
    assert verdict["verdict"] == "BLOCKED"
    assert {"KEYS_WRONG", "EVAL_UNPAIRED"} <= set(verdict["codes"])
    assert verdict["cause"] == "KEYS_WRONG"
    assert verdict["compute"]["train_seconds"] == 0
    assert verdict["compute"]["trials"] == 0
    assert not (audited.run / "arms").exists()
    audit = json.loads((audited.run / "audit.json").read_text())
    blocking = {f["code"] for f in audit["findings"] if f["severity"] == "block"}
    assert blocking == {"KEYS_WRONG", "EVAL_UNPAIRED"}  # and nothing unrelated
    assert audited.printed.startswith("BLOCKED: KEYS_WRONG, EVAL_UNPAIRED\n")


def test_of_large_files_a_sample_blocks_alike_and_ray_is_not_even_begun(
    audited: Audited, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Ray's processes would take the processor from the audit, for a run that never needs them."""

    def begin(executor: RayExecutor) -> None:
        raise AssertionError("Ray was begun though the quick look blocks")

    monkeypatch.setattr(RayExecutor, "begin", begin)
    monkeypatch.setattr(session, "LARGE_BYTES", 0)
    run = tmp_path / "run"
    given = [*flags(audited.replica), "--out", str(run)]
    assert run_command(tune_jobs.triage.main, given) == 3
    quick, whole = (json.loads((at / "audit.json").read_text()) for at in (run, audited.run))
    assert quick["quick"]
    assert quick["route"]["blocked"] == whole["route"]["blocked"] == ["KEYS_WRONG", "EVAL_UNPAIRED"]


def test_the_repair_is_offered_as_a_command_and_finds_every_target(audited: Audited):
    assert "--repair repaired" in audited.printed
    assert audited.statuses[1] == 0  # the audit of the repaired files
    keys = open_npz(audited.repaired)["truth_keys"]
    payload_keys = open_npz(audited.replica.payload)["keys"]
    assert np.array_equal(keys, payload_keys[audited.replica.true_targets])


def dataset_of(replica: Replica, eval_: Path) -> Dataset:
    request = DataRequest(train=replica.train, evaluation=eval_, payload=replica.payload)
    return load_dataset(request, 5)[0]


def measured(predictor: Any, dataset: Dataset, split: str) -> dict[str, Any]:
    windows = dataset.split(split)
    rows = predict(predictor, dataset, windows, "raw")
    found, _ = evaluate(rows, windows, dataset.bank, space="raw", split=split)
    return dict(found.masked)


def test_the_model_was_good_all_along(audited: Audited, tmp_path: Path):
    """Its own validation is fine; only the eval file decided that it fails."""
    torch.set_num_threads(1)
    broken = dataset_of(audited.replica, audited.replica.eval)
    model: list[Predictor] = []

    def keep(predictor: Predictor, epoch: int) -> dict[str, float]:
        model[:] = [predictor]
        return {"eval_cosine": measured(predictor, broken, "dev")["eval_cosine"]}

    records = list(train(RECIPE, broken, tmp_path, validate=keep))
    before = measured(model[0], broken, "test")
    after = measured(model[0], dataset_of(audited.replica, audited.repaired), "test")
    assert float(records[-1].dev["eval_cosine"]) > 0.5
    assert before["eval_cosine"] < 0.3
    assert before["r_at_5"] < 0.01
    assert after["eval_cosine"] > 0.5
    assert after["r_at_5"] > 10 * max(before["r_at_5"], 0.005)
