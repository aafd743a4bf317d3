"""The triage on a Ray cluster of two nodes: by address, as a submitted job, and where it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from two_raylets import RAY, TwoRaylets, free_ports, two_raylets

import tune_jobs.triage
from lvm.command import run_command
from lvm.config import ScheduleConfig
from lvm.errors import ClusterError
from lvm.triage.journal import Event, read_journal
from lvm.triage.on_ray import RayExecutor

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(240),
    # MLflow 3.17 maps two of its tables in a way that SQLAlchemy 2.1 will drop.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

TRIAGE = str(Path(__file__).parents[2] / "tune_jobs" / "triage.py")
JOB_SECONDS = 200
# In the world's recipe with these, step 1 has a fix. Two workers confirm it, one per node.
FIXED_IN_STEP_1 = {"stage_eval_cosine = 0.77": "stage_eval_cosine = 0.6"}
# With these, nothing is learned, no gate can be held, and three of the steps have nothing to try.
HOPELESS = {
    "temperature = 0.02": 'contrastive_weight = 0\nar_weight = 1\nspace = "raw"',
    "learning_rate = 0.01": "learning_rate = 1e-9",
    "stage_eval_cosine = 0.77": "stage_eval_cosine = 1",
    "short_epochs = 4\nlong_epochs = 2": "short_epochs = 1\nlong_epochs = 1",
}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoRaylets]:
    """A cluster of two nodes with one CPU each."""
    with two_raylets(tmp_path_factory.mktemp("nodes")) as cluster:
        yield cluster


def changed_recipe(world, path: Path, changes: dict[str, str]) -> list[str]:
    """Write the world's recipe with some lines changed; return the flags of a triage of it."""
    text = world.recipe.read_text()
    for old, new in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    path.write_text(text)
    return ["--data", str(world.bank), "--recipe", str(path)]


def of(kind: str, folder: Path) -> list[Event]:
    return [event for event in read_journal(folder) if event["event"] == kind]


def test_by_address(world, nodes: TwoRaylets, tmp_path: Path):
    flags = changed_recipe(world, tmp_path / "recipe.toml", FIXED_IN_STEP_1)
    out = world.runs / "by_address"
    done = subprocess.run(
        [sys.executable, TRIAGE, *flags, "--out", str(out), "--address", nodes.gcs_address],
        env=nodes.env, cwd=tmp_path, capture_output=True, text=True, timeout=JOB_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("FIXED by projection_head: InfoNCE in the raw space")
    assert f"arms run on Ray {nodes.gcs_address}: 2 CPUs" in done.stderr
    assert json.loads((out / "verdict.json").read_text())["verdict"] == "FIXED"
    (confirmation,) = of("step_started", out)[-1]["arms"]
    assert confirmation["workers"] == 2  # 0.9 CPUs each, so that one node could not hold both
    assert of("arm_ended", out)[-1]["reason"] == "finished"


def test_as_a_submitted_job(world, nodes: TwoRaylets, tmp_path: Path):
    """The job's exit code is the triage's exit status, so a scheduler can act on the verdict."""
    flags = changed_recipe(world, tmp_path / "recipe.toml", HOPELESS)
    out = world.runs / "as_a_job"
    triage = [sys.executable, TRIAGE, *flags, "--out", str(out), "--address", "auto"]
    done = subprocess.run(
        [RAY, "job", "submit", "--address", nodes.job_server, "--", *triage],
        env=nodes.env, cwd=tmp_path, capture_output=True, text=True, timeout=JOB_SECONDS,
    )  # fmt: skip
    assert "NOT_FIXED: none of the arms" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 1
    (job,) = submitted_jobs(nodes)
    assert job["driver_exit_code"] == 1
    assert str(out) in job["entrypoint"]
    assert json.loads((out / "verdict.json").read_text())["verdict"] == "NOT_FIXED"
    assert of("decision", out)[-1]["verdict"] == "NOT_FIXED"


def submitted_jobs(nodes: TwoRaylets) -> list[dict[str, Any]]:
    """What the cluster's job server knows of submitted jobs."""
    token = Path(nodes.env["RAY_AUTH_TOKEN_PATH"]).read_text()
    request = urllib.request.Request(
        f"{nodes.job_server}/api/jobs/", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return [job for job in json.load(answer) if job["type"] == "SUBMISSION"]


# --- where it cannot run --------------------------------------------------------------------------


def test_an_address_where_nothing_listens(world, tmp_path: Path):
    (port,) = free_ports(1)
    argv = world.argv("nowhere", "--address", f"127.0.0.1:{port}")
    done = subprocess.run(
        [sys.executable, TRIAGE, *argv], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for words in (f"nothing answers at the Ray address 127.0.0.1:{port}", "leave --address out"):
        assert words in sentence


def test_too_few_cpus(world, cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    threads = "confirm_workers = 2\nthreads_per_worker = 5000"
    flags = changed_recipe(world, tmp_path / "recipe.toml", {"confirm_workers = 2": threads})
    argv = [*flags, "--out", str(world.runs / "too_few")]
    assert run_command(tune_jobs.triage.main, argv) == 2
    printed, told = capsys.readouterr()
    assert printed == ""
    sentence = told.splitlines()[-1]
    assert sentence.startswith("error: the cluster has ")
    for words in ("CPUs, the confirming training needs 9000", "add nodes", "confirm_workers"):
        assert words in sentence
    assert not of("step_started", world.runs / "too_few")  # found before any arm was started


def test_too_few_gpus_and_a_cluster_that_grows(cluster, tmp_path: Path):
    import ray

    workers = int(ray.cluster_resources().get("GPU", 0)) + 1
    small = ScheduleConfig(use_gpu=True, confirm_workers=workers)
    with pytest.raises(ClusterError, match=f"GPUs, the confirming training needs {workers}; add"):
        RayExecutor(tmp_path, address=None, schedule=small).start()
    growing = ScheduleConfig(use_gpu=True, confirm_workers=workers, autoscaling=True)
    executor = RayExecutor(tmp_path, address=None, schedule=growing)
    executor.start()
    executor.stop()
    assert ray.is_initialized()  # it did not start this cluster, so it does not stop it
