"""One full training in its own folder, resumed when started again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TextIO

from lvm.core.command import answering, lvm_command
from lvm.core.config.plain import fingerprint
from lvm.core.config.run import RunConfig
from lvm.core.errors import (
    ClusterError,
    ClusterLostError,
    ExitStatus,
    LvmError,
    NonFiniteLossError,
    ProgramError,
    RunInterrupted,
    UsageError,
)
from lvm.core.plugins import load_given
from lvm.core.printed import eval_command, job_command, typed
from lvm.core.provenance import git_commit
from lvm.core.records import StopReason
from lvm.core.signals import held_signals, whole
from lvm.core.text import number
from lvm.data.load import DataRequest, load_dataset
from lvm.data.windows import Dataset, drawn
from lvm.jobs.audience import Audience, at_terminal
from lvm.jobs.judging import print_evaluation, read_test
from lvm.jobs.options import TrainOptions
from lvm.jobs.presets import load_config
from lvm.jobs.results import TrainResult
from lvm.triage.address import check_address, check_growth
from lvm.triage.arm import ArmSpec
from lvm.triage.events import Epoch, Event
from lvm.triage.folder import training_folder
from lvm.triage.local import LocalExecutor
from lvm.triage.on_ray import RayExecutor
from lvm.triage.preflight import check_config, check_dataset
from lvm.triage.race import Lane, Note, Race
from lvm.triage.step import Role


def run(options: TrainOptions) -> int:
    """Train, judge on the test split, print the result; return the exit status."""
    try:
        result = train(options, at_terminal())
    except RunInterrupted as end:
        print(end)
        return ExitStatus.INTERRUPTED
    print_evaluation(result.evaluation)
    print(f"next: {result.next}")
    return ExitStatus.OK


def train(options: TrainOptions, audience: Audience) -> TrainResult:
    """Train and judge on the test split; RunInterrupted says how to continue."""
    config = _configuration(options)
    whole, source = load_dataset(DataRequest(bank=options.data), config.recipe.context_length)
    dataset = drawn(whole, config.gates.dev_windows, config.recipe.seed)
    check_config(config, dataset.bank.width)
    check_dataset(config, dataset)
    command = job_command("train") if options.on_ray else f"{lvm_command()} train"
    then = f"continue with: {command} {typed(vars(options))}"
    workers = config.schedule.confirm_workers
    where = f"on {workers} workers" if options.on_ray else "in this process"
    with training_folder(options.out) as folder:
        try:
            with answering(lambda: folder, lambda: then):
                spec = _spec(config, folder)
                print(f"{source}: training {folder} {where}", file=audience.progress)
                _finished(_trained(spec, options, config, dataset, audience.progress), then)
        except KeyboardInterrupt:
            raise RunInterrupted(f"interrupted; {then}") from None
    checkpoint = spec.folder / "checkpoint"
    return TrainResult(
        checkpoint=checkpoint,
        source=source,
        evaluation=read_test(spec.folder),
        next=eval_command(checkpoint, vars(options), config.plugins),
    )


def _configuration(options: TrainOptions) -> RunConfig:
    """Return the preset, changed by the recipe, with the requested workers."""
    check_address(options.address)
    workers = 1 if options.workers is None else options.workers
    if workers < 1:
        raise UsageError(f"--workers must be at least 1 (got {workers}).")
    load_given(options.plugin)
    config = load_config(options.preset, options.recipe)
    if config.recipe.trainer is not None:
        raise UsageError(
            f"{options.recipe} has its own trainer, {config.recipe.trainer.title}, which this "
            "command does not run; run it yourself on the files of lvm windows."
        )
    schedule = dataclasses.replace(config.schedule, confirm_workers=workers)
    config = dataclasses.replace(config, schedule=schedule)
    if options.on_ray:
        check_growth(config.schedule, options.address)
    return config


def _trained(
    spec: ArmSpec, options: TrainOptions, config: RunConfig, dataset: Dataset, progress: TextIO
) -> Lane:
    """Train here or on Ray, as requested, and return the outcome."""
    epochs = config.recipe.training.epochs
    race = Race(
        "train", [spec], _progress(epochs, progress), epochs=[epochs], schedule=config.schedule
    )
    executor = _executor(spec, options, config)
    try:
        executor.start()
        executor.run(race, dataset)
    finally:
        with whole(), held_signals():
            executor.stop()
    return race.lanes[spec.id]


def _executor(
    spec: ArmSpec, options: TrainOptions, config: RunConfig
) -> LocalExecutor | RayExecutor:
    if not options.on_ray:
        return LocalExecutor()
    storage = spec.folder / "tune"
    return RayExecutor(storage, address=options.address, schedule=config.schedule)


def _finished(lane: Lane, then: str) -> None:
    """Raise the error that an early end of a training means."""
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
    raise LvmError(f"{told}; fix this and start again.")


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


def _progress(epochs: int, stream: TextIO) -> Note:
    def note(event: Event) -> None:
        if isinstance(event, Epoch):
            left = (epochs - event.epoch) * event.seconds
            loss, cosine, r_at_5 = (
                number(event.measured(name), 4) for name in ("loss", "eval_cosine", "r_at_5")
            )
            print(
                f"epoch {event.epoch}/{epochs}  loss {loss}  dev cosine {cosine}  R@5 {r_at_5}  "
                f"about {left:.0f} s left",
                file=stream,
            )

    return note
