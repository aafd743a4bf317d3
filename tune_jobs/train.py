"""One full training under Ray Train: `python tune_jobs/train.py --workers 2`.

The same loop as everywhere else; the candidates of the contrastive loss are those of the global
batch, so N workers see as many negatives as one process with the same batch size.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # started as a file: make the checkout importable
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lvm.command import Parser, lvm_command, run_command, shown
from lvm.config import RunConfig, fingerprint
from lvm.data.load import DataRequest, load_dataset
from lvm.errors import LvmError, UsageError
from lvm.provenance import git_commit
from lvm.records import StopReason
from lvm.triage.arm import ArmSpec
from lvm.triage.on_ray import RayExecutor
from lvm.triage.preflight import check_config, check_dataset
from lvm.triage.race import Race
from lvm.triage.step import Role
from tune_jobs.presets import PRESETS, load_config


def parser() -> Parser:
    """Return the flags of a training."""
    p = Parser(prog="python tune_jobs/train.py", description="Train one recipe in full.")
    p.add_argument("--data", type=Path, metavar="BANK", help="default: the bundled sample")
    p.add_argument("--recipe", type=Path, metavar="FILE", help="changes to the preset")
    p.add_argument("--preset", default="laptop", metavar="NAME", help=", ".join(PRESETS))
    p.add_argument("--workers", type=int, default=1, metavar="N", help="Ray Train workers (DDP)")
    p.add_argument("--out", type=Path, required=True, metavar="DIR")
    p.add_argument("--address", metavar="ADDR", help="a Ray cluster (default: start one here)")
    return p


def main(argv: Sequence[str]) -> int:
    """Train, judge on the test split, print the result."""
    args = parser().parse_args(argv)
    if args.workers < 1:
        raise UsageError(f"--workers is {args.workers}, allowed is 1 or more.")
    config = load_config(args.preset, args.recipe)
    schedule = dataclasses.replace(config.schedule, confirm_workers=args.workers)
    config = dataclasses.replace(config, schedule=schedule)
    dataset, source = load_dataset(DataRequest(bank=args.data), config.recipe.context_length)
    check_config(config, dataset.bank.width)
    check_dataset(config, dataset)
    spec = _spec(config, args.out)
    print(f"{source}: training {spec.folder} on {args.workers} workers", file=sys.stderr)
    epochs = config.recipe.training.epochs
    race = Race("train", [spec], _progress(epochs), epochs=[epochs], schedule=schedule)
    executor = RayExecutor(args.out / "tune", address=args.address, schedule=schedule)
    try:
        executor.start()
        executor.run(race, dataset)
    finally:
        executor.stop()
    lane = race.lanes[spec.id]
    if lane.ending is None or lane.ending.reason is not StopReason.FINISHED:
        raise LvmError(f"the training ended early: {lane.detail}")
    metrics = json.loads((spec.folder / "test.json").read_text())["evaluation"]["masked"]
    print("test split, own contexts masked:")
    print("  ".join(f"{k} {v:.4f}" for k, v in metrics.items() if v is not None))
    print(f"next: {lvm_command()} eval {shown(spec.folder / 'checkpoint')}")
    return 0


def _spec(config: RunConfig, out: Path) -> ArmSpec:
    return ArmSpec(
        id=fingerprint(config.recipe),
        step="train",
        name="train",
        role=Role.CONFIRM,
        recipe=config.recipe,
        folder=out.resolve(),
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


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
