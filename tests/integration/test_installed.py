"""The triage from another folder, from a checkout and as an installation lays its packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
SCRIPT = [str(ROOT / "tune_jobs" / "triage.py")]
DOORS = {"module": ["-m", "tune_jobs.triage"], "command": ["-m", "lvm.cli", "triage"]}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds both packages, and nothing else of a checkout."""
    place = tmp_path_factory.mktemp("venv") / "site-packages"
    for name in ("lvm", "tune_jobs"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    return place


def shown(words: list[str], place: Path, here: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(place)}
    done = subprocess.run(
        [sys.executable, *words, "--show", "--five-steps"],
        cwd=here,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_every_door_shows_the_same_tree_from_another_folder(installed, tmp_path) -> None:
    from_checkout = shown(SCRIPT, Path("/none"), tmp_path)
    assert [line.split(",")[0] for line in from_checkout.splitlines() if "control)" in line] == [
        f"step {number}" for number in range(1, 6)
    ]
    for door in ("module", "command"):
        assert shown(DOORS[door], installed, tmp_path) == from_checkout
    assert shown(DOORS["command"], ROOT, tmp_path) == from_checkout
    assert not list(tmp_path.iterdir())


def test_an_installed_one_prints_the_command_that_is_installed(installed, tmp_path) -> None:
    script = "from lvm.printed import job_command as c; print(c('triage'), c('train'), sep='\\n')"
    words = [sys.executable, "-c", script]
    printed = {
        place: subprocess.run(
            words,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(place)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for place in (installed, ROOT)
    }
    assert [line.rpartition(" ")[2] for line in printed[installed]] == ["triage", "train"]
    for line, name in zip(printed[ROOT], ("triage", "train"), strict=True):
        assert line.endswith(f"{ROOT}/tune_jobs/{name}.py")
