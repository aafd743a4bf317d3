"""Trainers of a person's own for tests: small scripts that keep the contract, or break it."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from pathlib import Path

import psutil
import tiny
import worlds

from lvm.core.config.plain import to_dict
from lvm.core.config.recipe import Recipe
from lvm.core.config.run import RunConfig
from lvm.core.trainer import TrainerConfig
from lvm.data.files import write_bank
from lvm.training.own import EXAMPLE
from lvm.training.own.code import code_of

COMMAND = (
    "python train.py --temperature {objective.temperature} --space {objective.space} "
    "--lambda-con {objective.contrastive_weight} --lambda-ar {objective.ar_weight} "
    "--hidden {trainer.options.hidden} --lr {training.learning_rate} "
    "--batch-size {training.batch_size} --epochs {training.epochs} --seed {seed} "
    "--windows {windows} --out {folder}"
)
# One mistake each, and the step that corrects it.
MISTAKES = {
    "temperature": {"objective.temperature": 0.005, "objective.space": "raw"},
    "contrastive_weight": {
        "objective.contrastive_weight": 0.02,
        "objective.ar_weight": 0.98,
        "objective.space": "raw",
    },
    "projection_head": {},
}

# Predicts the last vector of each context; what is put in for {act} comes before an epoch's line.
SCRIPT = """\
import json, os, signal, subprocess, sys, time
from pathlib import Path
import numpy as np
epochs, folder, windows = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
first = int(sys.argv[4]) if len(sys.argv) > 4 else 1

def save(path, split):
    found = np.load(windows / f"{split}.npz")
    np.savez(path, predictions=found["contexts"][:, -1], ids=found["ids"])

for epoch in range(first, epochs + 1):
    save(folder / f"dev_{epoch:03d}.npz", "dev")
    {act}
    with open(folder / "epochs.jsonl", "a") as lines:
        lines.write(json.dumps({"epoch": epoch, "loss": 1 / epoch}) + chr(10))
save(folder / "test.npz", "test")
{last}
"""
WORDS = (
    "python",
    "copy.py",
    "{training.epochs}",
    "{folder}",
    "{windows}",
    "1",
    "{objective.contrastive_weight}",
)


def script(act: str = "pass", last: str = "pass") -> str:
    """Return a trainer without training."""
    return SCRIPT.replace("{act}", act).replace("{last}", last)


def prepared(run: Path, home: Path, trainer: TrainerConfig) -> dict[str, str]:
    """Keep the files of a trainer in a run, as its driver does; return their contents."""
    code = code_of(trainer, home)
    run.mkdir(parents=True, exist_ok=True)
    code.keep(run)
    return code.digests


def copying(run: Path, act: str = "pass", last: str = "pass", **changes: object) -> Recipe:
    """Return a tiny recipe whose trainer is `script(act, last)`, kept in `run`."""
    home = run.with_name(f"{run.name}_home")
    home.mkdir(parents=True, exist_ok=True)
    (home / "copy.py").write_text(script(act, last))
    trainer = TrainerConfig(command=WORDS)
    prepared(run, home, trainer)
    return dataclasses.replace(tiny.recipe(**changes), trainer=trainer)


def planted(home: Path, mistake: str, seed: int) -> RunConfig:
    """Return a run of the planted world by the example's script with one mistake."""
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(EXAMPLE, home / "train.py")
    trainer = TrainerConfig(command=tuple(COMMAND.split()), options={"hidden": 64})
    config = worlds.base_config(seed)
    recipe = config.recipe.with_changes(MISTAKES[mistake])
    return dataclasses.replace(config, recipe=dataclasses.replace(recipe, trainer=trainer))


def write_world(folder: Path, mistake: str, seed: int) -> list[str]:
    """Write a planted world with its trainer and recipe; return the flags of its triage."""
    bank, home = folder / "bank", folder / "mine"
    rows = worlds.planted(seed).dataset.bank
    write_bank(bank, rows.vectors, rows.keys, {})
    config = planted(home, mistake, seed)
    schedule = {"first_rung": config.schedule.first_rung, "confirm_workers": 2}
    values = {**to_dict(config.recipe), "schedule": schedule}
    (home / "recipe.json").write_text(json.dumps(values))
    return ["--data", str(bank), "--recipe", str(home / "recipe.json")]


def processes_in(folder: Path) -> list[psutil.Process]:
    """Every living process whose command line names the folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or ()
        if any(str(folder) in w for w in words) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def ends_in(folder: Path, seconds: float = 20.0) -> bool:
    """Whether every training below the folder ends within these seconds, with its keeper."""
    until = time.monotonic() + seconds
    while processes_in(folder / "arms"):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True
