"""From another folder: a checkout, and what a wheel of it installs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lvm.core.packages import OWN_PACKAGES

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
SCRIPT = [str(ROOT / "tune_jobs" / "triage.py")]
DOORS = {"module": ["-m", "tune_jobs.triage"], "command": ["-m", "lvm.cli", "triage"]}


LEFT_OUT = (".*", "__pycache__", "*.egg-info", "build", "runs", "audits", "mlruns")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built from a copy of it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*LEFT_OUT))
    words = [sys.executable, "-c", BUILD, str(folder)]
    done = subprocess.run(words, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the wheel is unpacked, as an installer does."""
    place = tmp_path_factory.mktemp("venv") / "site-packages"
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(place)
    return place


def run(words: list[str], place: Path, here: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(place)}
    return subprocess.run(
        [sys.executable, *words], cwd=here, env=environment, capture_output=True, text=True
    )


def test_a_wheel_has_every_file_of_both_packages_and_no_other_name(wheel: Path) -> None:
    """Presets, recipes, the sample with its licence, the style of reports: all of it is there."""
    names = set(zipfile.ZipFile(wheel).namelist())
    ours = {
        path.relative_to(ROOT).as_posix()
        for package in OWN_PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if ".dist-info/" not in name} == ours
    assert {"lvm/recipes/wrong_width.toml", "lvm/data/sample/ATTRIBUTION.md"} <= ours
    (entries,) = (name for name in names if name.endswith("entry_points.txt"))
    assert "lvm = lvm.cli:entry" in zipfile.ZipFile(wheel).read(entries).decode()


def test_an_installed_module_answers_and_knows_the_recipes_by_name(installed, tmp_path) -> None:
    told = run(["-m", "tune_jobs.triage", "--help"], installed, tmp_path)
    assert (told.returncode, told.stderr) == (0, "")
    assert "exit status" in told.stdout
    tree = shown([*DOORS["module"], "--recipe", "wrong_temperature"], installed, tmp_path)
    recipe = installed / "lvm" / "recipes" / "wrong_temperature.toml"
    assert tree == shown([*DOORS["module"], "--recipe", str(recipe)], installed, tmp_path)


def test_the_example_of_the_documentation_runs_where_lvm_is_installed(installed, tmp_path) -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "example.py").write_text(f"{example}\nimport lvm\nprint(lvm.__file__)\n")
    done = run(["example.py"], installed, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    first, *_, last, place = done.stdout.splitlines()
    assert first == "WARNINGS ['GATE_BELOW_TRIVIAL', 'GATE_BELOW_TRIVIAL']"
    assert "success gate over AR-only: " in done.stdout
    assert last == "PASS False"
    assert Path(place).parent == installed / "lvm"
    assert (tmp_path / "audit" / "report.html").exists()


def shown(words: list[str], place: Path, here: Path) -> str:
    done = run([*words, "--show", "--five-steps"], place, here)
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
    script = (
        "from lvm.core.printed import job_command as c; print(c('triage'), c('train'), sep='\\n')"
    )
    printed = {
        place: run(["-c", script], place, tmp_path).stdout.splitlines()
        for place in (installed, ROOT)
    }
    assert [line.rpartition(" ")[2] for line in printed[installed]] == ["triage", "train"]
    for line, name in zip(printed[ROOT], ("triage", "train"), strict=True):
        assert line.endswith(f"{ROOT}/tune_jobs/{name}.py")
