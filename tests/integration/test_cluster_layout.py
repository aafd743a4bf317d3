"""README's own job line, from a home folder laid out as cluster.yaml lays it out."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from two_raylets import RAY, TwoRaylets, two_raylets

from lvm.triage.journal import read_journal

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
HOME = "/home/ubuntu"
JOB_SECONDS = 240
# Installed editable, as cluster.yaml does: found by a finder that comes after the whole path, so
# that a folder of the same name on the path would hide it. That of these tests' own is taken away.
INSTALLED = """
import importlib.util, sys

class Editable:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name in ("lvm", "tune_jobs"):
            return importlib.util.spec_from_file_location(name, f"CHECKOUT/{name}/__init__.py")

sys.meta_path[:] = [f for f in sys.meta_path if "editable___lvm" not in str(f.__module__)]
sys.meta_path.append(Editable)
"""


@dataclass(frozen=True, kw_only=True)
class Laid:
    """A home folder, and the cluster whose nodes were started there."""

    home: Path
    checkout: Path
    nodes: TwoRaylets


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laid]:
    """Send the files of cluster.yaml to a home folder and start two nodes there."""
    tmp = tmp_path_factory.mktemp("layout")
    home = tmp / "home"
    mounts: dict[str, str] = yaml.safe_load((ROOT / "cluster.yaml").read_text())["file_mounts"]
    for remote, local in mounts.items():
        if not local.startswith("~"):
            copied(ROOT / local, home / Path(remote).relative_to(HOME))
    (checkout,) = (home / Path(r).relative_to(HOME).parent for r in mounts if r.endswith(".toml"))
    python = home / "venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    (tmp / "site").mkdir()
    (tmp / "site/sitecustomize.py").write_text(INSTALLED.replace("CHECKOUT", str(checkout)))
    with two_raylets(tmp, home, PYTHONPATH=str(tmp / "site")) as nodes:
        yield Laid(home=home, checkout=checkout, nodes=nodes)


def copied(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def readmes_job(laid: Laid, flags: list[str]) -> list[str]:
    """README's line for this home and job server, with other flags for data, size and folder."""
    readme = (ROOT / "docs/cluster.md").read_text()
    (line,) = re.findall(r"^RAY_AUTH_MODE=token (ray job submit .*)$", readme, re.MULTILINE)
    command = shlex.split(line.replace(HOME, str(laid.home)))
    assert command[:3] == ["ray", "job", "submit"]
    given = command.index("--preset")  # asks for GPUs, which these nodes have not
    command = [RAY, *command[1:given], *flags]
    command[command.index("--address") + 1] = laid.nodes.job_server
    return command


def test_readmes_job_line_runs_the_code_that_was_sent(laid: Laid, world: Any, tmp_path: Path):
    text = world.recipe.read_text()
    for old, new in {  # nothing is learned, and three of the steps have nothing to try
        "temperature = 0.02": 'contrastive_weight = 0\nar_weight = 1\nspace = "raw"',
        "learning_rate = 0.01": "learning_rate = 1e-9",
        "stage_eval_cosine = 0.77": "stage_eval_cosine = 1",
        "short_epochs = 4\nlong_epochs = 2": "short_epochs = 1\nlong_epochs = 1",
    }.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    (tmp_path / "recipe.toml").write_text(text)
    out = tmp_path / "runs/1"
    recipe = str(tmp_path / "recipe.toml")
    flags = ["--data", str(world.bank), "--recipe", recipe, "--out", str(out)]
    done = subprocess.run(
        readmes_job(laid, flags),
        env=laid.nodes.env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=JOB_SECONDS,
    )
    assert "INCONCLUSIVE: no arm" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 1
    assert json.loads((out / "verdict.json").read_text())["verdict"] == "INCONCLUSIVE"
    ended = [event for event in read_journal(out) if event["event"] == "arm_ended"]
    assert ended
    assert {event["reason"] for event in ended} <= {"finished", "pruned"}


def test_every_node_imports_the_checkout_that_was_sent(laid: Laid, tmp_path: Path):
    """From the home folder, which Ray puts first on the path of every worker."""
    ask = (
        "import ray, sys\n"
        "ray.init(address='auto', log_to_driver=False, logging_level='ERROR')\n"
        "def where():\n import lvm, tune_jobs\n return lvm.__file__, tune_jobs.__file__\n"
        "task = ray.remote(num_cpus=0, scheduling_strategy='SPREAD')(where)\n"
        "print('TOLD', set(ray.get([task.remote() for _ in range(8)])))\n"
    )
    (tmp_path / "ask.py").write_text(ask)
    python = str(laid.home / "venv/bin/python")
    address = ["--address", laid.nodes.job_server]
    done = subprocess.run(
        [RAY, "job", "submit", *address, "--", python, str(tmp_path / "ask.py")],
        env=laid.nodes.env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    (told,) = [line for line in done.stdout.splitlines() if line.startswith("TOLD")]
    files = {(str(laid.checkout / "lvm/__init__.py"), str(laid.checkout / "tune_jobs/__init__.py"))}
    assert told == f"TOLD {files}"
