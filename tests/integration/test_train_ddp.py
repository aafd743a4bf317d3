"""Two Ray Train workers make the same training as one process: same losses, same model."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import made
import pytest
import safetensors.torch
import tiny
import torch

import tune_jobs.train
from lvm.core.command import run_command
from lvm.core.config.recipe import Recipe
from lvm.core.config.run import GateConfig, ScheduleConfig
from lvm.core.device import claim
from lvm.data.load import DataRequest, load_dataset
from lvm.evaluation.evaluate import evaluate
from lvm.evaluation.inference import predict
from lvm.jobs.presets import load_config
from lvm.training.epochs import EpochRecord, read_epochs
from lvm.training.loop import train
from lvm.triage.arm import ArmSpec
from lvm.triage.events import Epoch
from lvm.triage.step import Role

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

# Each worker takes half of the rows; the sums of their losses and gradients have another order.
LOSS_TOLERANCE = 1e-5
WEIGHT_TOLERANCE = 1e-4
EPOCHS = 3


@dataclass(frozen=True, kw_only=True)
class Trained:
    folder: Path
    epochs: list[EpochRecord]
    status: int = 0
    printed: str = ""
    told: str = ""


@pytest.fixture(scope="module")
def recipe_file(world, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world's recipe with sampled negatives and more epochs: every draw is shared by rows."""
    path = tmp_path_factory.mktemp("ddp") / "recipe.toml"
    text = world.recipe.read_text().replace("epochs = 2", f"epochs = {EPOCHS}", 1)
    path.write_text(text + "[negatives]\nrandom = 2\nsame_article = 1\n")
    return path


@pytest.fixture(scope="module")
def one(world, recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The training in this process."""
    folder = tmp_path_factory.mktemp("one")
    recipe: Recipe = load_config("laptop", recipe_file).recipe
    dataset, _ = load_dataset(DataRequest(bank=world.bank), recipe.context_length)

    def validate(predictor: Any, epoch: int) -> dict[str, float]:
        queries = predict(predictor, dataset, dataset.dev, "raw")
        evaluation, _ = evaluate(queries, dataset.dev, dataset.bank, space="raw", split="dev")
        return {key: evaluation.masked[key] for key in ("eval_cosine", "r_at_5", "mrr")}

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    epochs = list(train(recipe, dataset, folder, validate=validate))
    torch.set_num_threads(threads)
    return Trained(folder=folder, epochs=epochs)


@pytest.fixture(scope="module")
def two(world, cluster, recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The same training as a job on two workers."""
    folder = tmp_path_factory.mktemp("two") / "run"
    flags = ["--workers", "2", "--data", world.bank, "--recipe", recipe_file, "--out", folder]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run_command(tune_jobs.train.main, list(map(str, flags)))
    assert status == 0, err.getvalue()
    return Trained(
        folder=folder,
        epochs=read_epochs(folder),
        status=status,
        printed=out.getvalue(),
        told=err.getvalue(),
    )


def test_the_losses_of_every_epoch_are_equal(one: Trained, two: Trained):
    assert [record.epoch for record in two.epochs] == list(range(1, EPOCHS + 1))
    for ours, theirs in zip(two.epochs, one.epochs, strict=True):
        assert ours.train.keys() == theirs.train.keys()
        for term in ("loss", "contrastive", "ar"):
            assert ours.train[term] == pytest.approx(theirs.train[term], abs=LOSS_TOLERANCE), term
    losses = [record.train["loss"] for record in one.epochs]
    assert losses == sorted(losses, reverse=True)  # it does learn


def test_the_negatives_are_those_of_the_global_batch(one: Trained, two: Trained):
    for ours, theirs in zip(two.epochs, one.epochs, strict=True):
        assert ours.train["num_negatives"] == pytest.approx(theirs.train["num_negatives"])
        assert ours.negatives == theirs.negatives
        assert ours.train["num_negatives"] > 16  # a worker alone has 16 rows of a batch


def test_what_dev_says_is_equal(one: Trained, two: Trained):
    for ours, theirs in zip(two.epochs, one.epochs, strict=True):
        for key, value in theirs.dev.items():
            assert ours.dev[key] == pytest.approx(value, abs=WEIGHT_TOLERANCE), key


def test_the_weights_are_equal(one: Trained, two: Trained):
    ours, theirs = (
        safetensors.torch.load_file(run.folder / "checkpoint" / "model.safetensors")
        for run in (two, one)
    )
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=WEIGHT_TOLERANCE, rtol=0)


def test_the_job_says_how_it_goes_and_what_came_out(two: Trained):
    for epoch in range(1, EPOCHS + 1):
        assert f"epoch {epoch}/{EPOCHS}  loss " in two.told
    stored = json.loads((two.folder / "test.json").read_text())["evaluation"]["masked"]
    (row,) = [line for line in two.printed.splitlines() if "eval_cosine" in line]
    assert f"{stored['eval_cosine']:.4f}" in row.split()
    assert "eval" in two.printed.splitlines()[-1]
    assert list((two.folder / "ray_train").iterdir())  # it went through Ray Train


def test_what_is_said_right_before_the_end_is_not_lost(cluster, monkeypatch, tmp_path: Path):
    """Ray's own queue from Train to Tune lost the last record when the workers ended right then."""
    import ray

    from lvm.triage.on_ray.reports import Workers, to_text
    from lvm.triage.on_ray.shared import ArmBroke, Common, Task
    from lvm.triage.on_ray.workers import Work, from_workers

    spec = ArmSpec(
        id="arm",
        step="step",
        name="name",
        role=Role.CONFIRM,
        recipe=Recipe(),
        folder=tmp_path,
        gates=GateConfig(),
        workers=2,
    )
    written = [made.event(Epoch, epoch=epoch, eval_cosine=0.1 * epoch) for epoch in (1, 2, 3)]
    signs = [Workers(waits=True), Workers(waits=False, placement_group="ab")]

    def fit(worker: Any, work: Work, **_: Any) -> None:
        mailbox = work.mailbox
        ray.get(mailbox.put.remote(to_text(signs[1])))
        for epoch in written:
            ray.get(mailbox.wait_for.remote(epoch.epoch))
            ray.get(mailbox.put.remote(to_text(epoch)))
        if spec.folder.name == "broken":
            raise RuntimeError("a worker died")

    monkeypatch.setattr("lvm.training.distributed.fit", fit)
    common = Common(data=ray.put(None), plugins=None, schedule=ScheduleConfig(), spare=0)
    task = Task(pickled=pickle.dumps(spec), known=0, common=common)
    assert list(from_workers(task)) == [*signs, *written]
    spec = dataclasses.replace(spec, folder=tmp_path / "broken")
    records = from_workers(dataclasses.replace(task, pickled=pickle.dumps(spec)))
    assert [next(records) for _ in (*signs, *written)] == [*signs, *written]
    with pytest.raises(ArmBroke, match="RuntimeError: a worker died"):
        next(records)


@pytest.mark.filterwarnings("ignore:`use_:DeprecationWarning")
def test_no_process_is_started_that_serves_nobody():
    """The names are Ray's own: where they change, a start would silently cost seconds again."""
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    from lvm.training.distributed import _UNUSED, _lean_trainer

    def names(trainer: type) -> set[str]:
        made = trainer(print, scaling_config=ScalingConfig(num_workers=1))
        return {type(callback).__name__ for callback in made._create_default_callbacks()}

    assert names(TorchTrainer) - names(_lean_trainer()) == set(_UNUSED)


def test_each_worker_of_a_node_takes_the_gpu_that_ray_train_gave_it(monkeypatch):
    """All see every GPU of their node: "cuda" alone would be GPU 0 for each of them."""
    import ray.train.torch

    current = [0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[-1])
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda device: current.append(getattr(device, "index", device))
    )
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cuda:3"))
    with ray.train.torch.TorchConfig().train_func_context():  # around every worker's function
        assert claim("cuda") == torch.device("cuda:3")
    assert current == [0, 3, 3]


def test_a_gpu_that_a_worker_lacks_says_nothing_of_its_arm(tmp_path: Path):
    from lvm.triage.on_ray.shared import ArmBroke, epochs_or_reason

    spec = ArmSpec(
        id="arm",
        step="step",
        name="name",
        role=Role.ARM,
        recipe=tiny.recipe(),
        folder=tmp_path,
        gates=GateConfig(),
        device="cuda",
    )
    with pytest.raises(ArmBroke, match="has no cuda for this process"):
        list(epochs_or_reason(spec, tiny.dataset()))


def test_workers_that_cannot_share_a_batch(world, recipe_file: Path, tmp_path: Path, capsys):
    argv = [
        "--workers",
        "3",
        "--data",
        world.bank,
        "--recipe",
        recipe_file,
        "--out",
        tmp_path / "x",
    ]
    assert run_command(tune_jobs.train.main, list(map(str, argv))) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("error: training.batch_size must be a multiple of")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--workers", "0", "--out", "x"], "--workers must be at least 1 (got 0)"),
        (["--workers", "2"], "--out"),
    ],
)
def test_flags_that_cannot_work(flags: list[str], said: str, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_command(tune_jobs.train.main, flags) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
