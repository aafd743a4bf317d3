"""One full training in a folder that it alone writes to, and goes on in when started again."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from lvm.command import answering
from lvm.config import RunConfig, fingerprint
from lvm.data.load import DataRequest, load_dataset
from lvm.data.windows import Dataset
from lvm.errors import (
    ClusterError,
    ClusterLostError,
    ExitStatus,
    LvmError,
    NonFiniteLossError,
    ProgramError,
    UsageError,
)
from lvm.printed import eval_command, job_command, typed
from lvm.provenance import git_commit
from lvm.records import StopReason
from lvm.signals import held_signals, whole
from lvm.triage.address import check_address, check_growth
from lvm.triage.arm import ArmSpec
from lvm.triage.folder import training_folder
from lvm.triage.on_ray import RayExecutor
from lvm.triage.preflight import check_config, check_dataset
from lvm.triage.race import Lane, Race
from lvm.triage.step import Role
from tune_jobs.presets import load_config


def run(args: Any) -> int:
    """Train, judge on the test split, print the result; return the exit status."""
    check_address(args.address)
    if args.workers < 1:
        raise UsageError(f"--workers must be at least 1 (got {args.workers}).")
    config = load_config(args.preset, args.recipe)
    schedule = dataclasses.replace(config.schedule, confirm_workers=args.workers)
    config = dataclasses.replace(config, schedule=schedule)
    check_growth(config.schedule, args.address)
    dataset, source = load_dataset(DataRequest(bank=args.data), config.recipe.context_length)
    check_config(config, dataset.bank.width)
    check_dataset(config, dataset)
    then = f"go on with: {job_command('train')} {typed(vars(args))}"
    with training_folder(args.out) as folder:
        try:
            with answering(lambda: folder, lambda: then):
                spec = _spec(config, folder)
                print(f"{source}: training {folder} on {args.workers} workers", file=sys.stderr)
                _finished(_trained(spec, config, dataset, args.address), then)
        except KeyboardInterrupt:
            print(f"interrupted; {then}")
            return ExitStatus.INTERRUPTED
    _print_result(spec.folder, args.data)
    return ExitStatus.OK


def _trained(spec: ArmSpec, config: RunConfig, dataset: Dataset, address: str | None) -> Lane:
    """Train on Ray and return what became of it."""
    epochs = config.recipe.training.epochs
    race = Race("train", [spec], _progress(epochs), epochs=[epochs], schedule=schedule)
    executor = RayExecutor(spec.folder / "tune", address=address, schedule=config.schedule)
    try:
        executor.start()
        executor.run(race, dataset)
    finally:
        with whole(), held_signals():
            executor.stop()
    return race.lanes[spec.id]


def _finished(lane: Lane, then: str) -> None:
    """Raise what an early end of a training means."""
    reason = lane.ending.reason if lane.ending is not None else StopReason.LOST
    told = f"the training ended early ({reason}: {lane.detail})"
    match reason:
        case StopReason.FINISHED:
            return
        case StopReason.DIVERGED:
            raise NonFiniteLossError(f"{told}; lower training.learning_rate or change the loss.")
        case StopReason.CRASHED:
            raise ProgramError(f"{told}; {then}")
        case StopReason.LOST:
            raise ClusterLostError(f"{told}; {then}")
        case StopReason.STUCK | StopReason.UNPLACED:
            raise ClusterError(f"{told}; {then}")
    raise LvmError(f"{told}; change what it names and start again.")


def _print_result(folder: Path, data: Path | None) -> None:
    metrics = json.loads((folder / "test.json").read_text())["evaluation"]["masked"]
    print("test split, own contexts masked:")
    print("  ".join(f"{k} {v:.4f}" for k, v in metrics.items() if v is not None))
    print(f"next: {eval_command(folder / 'checkpoint', {'data': data})}")


def _spec(config: RunConfig, folder: Path) -> ArmSpec:
    return ArmSpec(
        id=fingerprint(config.recipe),
        step="train",
        name="train",
        role=Role.CONFIRM,
        recipe=config.recipe,
        folder=folder,
        gates=config.gates,
        evaluate_test=True,
        workers=config.schedule.confirm_workers,
        threads=config.schedule.threads_per_worker,
        device="cuda" if config.schedule.use_gpu else "cpu",
        commit=git_commit(),
    )


def _progress(epochs: int) -> Any:
    def note(event: str, **values: Any) -> None:
        if event == "epoch":
            left = (epochs - values["epoch"]) * values["seconds"]
            print(
                f"epoch {values['epoch']}/{epochs}  loss {values['loss']:.4f}  dev cosine "
                f"{values['eval_cosine']:.4f}  R@5 {values['r_at_5']:.4f}  about {left:.0f} s left",
                file=sys.stderr,
            )

    return note
