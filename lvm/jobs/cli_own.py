"""`lvm windows` and `lvm init-trainer`: for people who train with their own code."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from lvm.core.command import free_folder, shown
from lvm.core.errors import ExitStatus
from lvm.core.printed import triage_command
from lvm.jobs.options import DataOptions
from lvm.jobs.presets import DEFAULT_PRESET, load_config

FILES = ("train", "eval", "payload")
SCRIPT, RECIPE = "train.py", "recipe.toml"
START = """\
# Your training in place of ours: train.py is run once for every arm.

context_length = 5

[trainer]
command = [
  "python", "train.py",
  "--temperature", "{objective.temperature}",
  "--lambda-con", "{objective.contrastive_weight}",
  "--lambda-ar", "{objective.ar_weight}",
  "--space", "{objective.space}",
  "--hidden", "{trainer.options.hidden}",
  "--lr", "{training.learning_rate}",
  "--batch-size", "{training.batch_size}",
  "--epochs", "{training.epochs}",
  "--seed", "{seed}",
  "--windows", "{windows}",
  "--out", "{folder}",
]
options = { hidden = 128 }

[objective]
temperature = 0.07
contrastive_weight = 0.7
ar_weight = 0.3
space = "projected"
"""


def add_windows_flags(p: argparse.ArgumentParser) -> None:
    """Add the flags of the export of windows."""
    p.description = "Write the windows of every split as NPZ, for a training of your own."
    p.add_argument("--data", type=Path, metavar="BANK", help="default: the bundled sample")
    for name in FILES:
        p.add_argument(f"--{name}", type=Path, metavar="FILE", help="the report's format")
    p.add_argument("--recipe", type=Path, metavar="FILE", help="changes to the preset")
    p.add_argument("--preset", default=DEFAULT_PRESET, metavar="NAME")
    p.add_argument("--out", type=Path, required=True, metavar="DIR")


def add_trainer_flags(p: argparse.ArgumentParser) -> None:
    """Add the flags of the example trainer."""
    p.description = "Write a training script that lvm can triage, and its recipe."
    p.add_argument("out", type=Path, metavar="DIR", help="a new or empty folder")


def windows(args: argparse.Namespace) -> int:
    """Write the windows that a triage of the same data judges; return the exit status."""
    from lvm.data.load import load_dataset
    from lvm.data.window_files import export_windows
    from lvm.data.windows import SPLITS, drawn

    config = load_config(args.preset, args.recipe)
    given = {name: getattr(args, name) for name in ("data", *FILES)}
    out = free_folder(args.out)
    recipe = config.recipe
    whole, source = load_dataset(DataOptions(**given).request, recipe.context_length)
    dataset = drawn(whole, config.gates.dev_windows, recipe.seed).narrowed(recipe.context_length)
    if out.exists():
        out.rmdir()  # it is empty, and written whole
    export_windows(dataset, out)
    sizes = ", ".join(f"{len(dataset.split(name)):,} {name}" for name in SPLITS)
    print(f"{shown(out)}: the windows of {source} ({sizes}); test.npz holds no targets")
    print(
        f"predict test.npz: numpy.savez('P.npz', predictions=[{len(dataset.test)}, "
        f"{dataset.bank.width}] floats, ids=its ids)"
    )
    print(f"next: {triage_command({**given, 'predictions': Path('P.npz')})}")
    return ExitStatus.OK


def init_trainer(args: argparse.Namespace) -> int:
    """Write a working example of a trainer; return the exit status."""
    from lvm.training.own import EXAMPLE

    out = free_folder(args.out)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(EXAMPLE, out / SCRIPT)
    (out / RECIPE).write_text(START)
    print(f"{shown(out / SCRIPT)}: the training; change what it does, keep what it writes")
    print(f"{shown(out / RECIPE)}: its command, filled in for every arm")
    print(f"next: {triage_command({'recipe': out / RECIPE})}")
    return ExitStatus.OK
