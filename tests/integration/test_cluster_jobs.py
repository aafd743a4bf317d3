"""The triage on a Ray cluster of two nodes: by address, as a submitted job, and where it cannot."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from alone import alone, measured
from two_raylets import RAY, TwoRaylets, free_ports, two_raylets

import tune_jobs.triage
from lvm.core.command import run_command
from lvm.core.config.run import ScheduleConfig
from lvm.core.errors import ClusterError
from lvm.triage.events import ArmEnded, Decision, Epoch, Event, Interrupted, StepStarted
from lvm.triage.journal import read_events
from lvm.triage.on_ray import RayExecutor

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(400),
    # MLflow 3.17 maps two of its tables in a way that SQLAlchemy 2.1 will drop.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

ROOT = Path(__file__).parents[2]
TRIAGE = str(ROOT / "tune_jobs" / "triage.py")
JOB_SECONDS = 200
# In the world's recipe with these, step 1 has a fix. Two workers confirm it, one per node.
FIXED_IN_STEP_1 = {
    "stage_eval_cosine = 0.77": "stage_eval_cosine = 0.6",
    "success_r_at_5 = 0.2": "success_r_at_5 = 0.15",
}
FOUND = "FIXED by projection_head: InfoNCE in the raw space"


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """A triage that step 1 fixes."""

    flags: list[str]
    measured: dict[tuple[str, str], Any]  # verdicts and metrics without Ray


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoRaylets]:
    """A cluster of two nodes with one CPU each."""
    folder = tmp_path_factory.mktemp("nodes")
    with two_raylets(folder, laid_out(folder / "home")) as cluster:
        yield cluster


def laid_out(home: Path) -> Path:
    """A home as cluster.yaml lays it out: in it lies a checkout that is called like the package."""
    for package in ("lvm", "tune_jobs"):
        shutil.copytree(ROOT / package, home / "lvm" / package)
    return home


def changed_recipe(world, path: Path, changes: dict[str, str]) -> list[str]:
    """Write the world's recipe with some lines changed; return the flags of a triage of it."""
    text = world.recipe.read_text()
    for old, new in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    path.write_text(text)
    return ["--data", str(world.bank), "--recipe", str(path)]


def of(kind: type[Event], folder: Path) -> list[Any]:
    return [event for event in read_events(folder) if isinstance(event, kind)]


def test_the_exit_code_of_a_job_is_that_of_the_triage(nodes: TwoRaylets):
    """So a scheduler can act on it."""
    done = submit(nodes, ["lvm/tune_jobs/triage.py", "--preset", "none", "--address", "auto"])
    assert done.returncode != 0
    assert sorted(sent["driver_exit_code"] for sent in submitted_jobs(nodes))[-1] == 2


@pytest.fixture(scope="module")
def world_fixed_in_step_1(world, tmp_path_factory: pytest.TempPathFactory) -> Fixed:
    """The flags of a triage that step 1 fixes, and what it comes to without Ray."""
    folder = tmp_path_factory.mktemp("fixed_in_step_1")
    flags = changed_recipe(world, folder / "recipe.toml", FIXED_IN_STEP_1)
    here = alone(world.bank, folder / "recipe.toml", folder / "alone", reported_only=True)
    # In a linear world a ridge does better than any fix, and only the report's tree ends there.
    return Fixed(flags=[*flags, "--five-steps"], measured=measured(here))


def test_a_stopped_job_goes_on_as_another_job(
    world, nodes: TwoRaylets, world_fixed_in_step_1: Fixed
):
    """Both from the home of the head, beside the folder of the checkout: as on a single machine.

    (README's line in test_cluster_layout is a job that nothing stops.)
    """
    out = world.runs / "stopped_in_phase_1"
    stopped(nodes, "phase_1", out, world_fixed_in_step_1.flags)
    resume = ["lvm/tune_jobs/triage.py", "--resume", str(out), "--address", "auto"]
    done = submit(nodes, resume)
    assert done.returncode == 0, done.stdout + done.stderr
    assert FOUND in done.stdout
    (sent,) = (one for one in submitted_jobs(nodes) if "--resume" in one["entrypoint"])
    assert sent["driver_exit_code"] == 0
    assert str(out) in sent["entrypoint"]
    check_end(nodes, out, world_fixed_in_step_1)


def test_a_job_stopped_in_a_full_training_goes_on_by_address(
    world, nodes: TwoRaylets, world_fixed_in_step_1: Fixed, tmp_path: Path
):
    """(test_late_node starts one by address.)"""
    out = world.runs / "stopped_in_a_full_training"
    stopped(nodes, "confirm_projection_head", out, world_fixed_in_step_1.flags)
    resume = [sys.executable, TRIAGE, "--resume", str(out), "--address", nodes.gcs_address]
    done = subprocess.run(
        resume, env=nodes.env, cwd=tmp_path, capture_output=True, text=True, timeout=JOB_SECONDS
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(FOUND)
    assert f"arms run on Ray {nodes.gcs_address}: 2 CPUs" in done.stderr
    check_end(nodes, out, world_fixed_in_step_1)


def stopped(nodes: TwoRaylets, step: str, out: Path, flags: list[str]) -> None:
    """Submit a triage and stop its job in a step.

    `ray job stop` sends SIGTERM: the run is closed and its workers' room is free.
    """
    triage = ["lvm/tune_jobs/triage.py", *flags, "--out", str(out), "--address", "auto"]
    sent = job(
        nodes, "submit", "--no-wait", f"--submission-id={step}", "--", sys.executable, *triage
    )
    assert sent.returncode == 0, sent.stdout + sent.stderr
    deadline = time.monotonic() + JOB_SECONDS
    while not begun(out, step):
        assert time.monotonic() < deadline, job(nodes, "logs", step).stdout
        time.sleep(0.1)
    assert job(nodes, "stop", step).returncode == 0
    assert isinstance(last(out), Interrupted)
    told = json.loads((out / "verdict.json").read_text())
    assert told["resume"].endswith("--address auto")
    assert groups_alive(nodes) == 0


def check_end(nodes: TwoRaylets, out: Path, fixed: Fixed) -> None:
    """The run ended as one that nothing stopped, each epoch was trained once, no room is held."""
    assert measured(list(read_events(out))) == fixed.measured
    assert of(Decision, out)[-1].verdict == "FIXED"
    assert json.loads((out / "verdict.json").read_text())["verdict"] == "FIXED"
    (confirmation,) = of(StepStarted, out)[-1].arms
    assert confirmation.workers == 2  # 0.9 CPUs each, so that one node could not hold both
    assert of(ArmEnded, out)[-1].reason == "finished"
    epochs = [(e.arm, e.epoch) for e in of(Epoch, out)]
    assert len(epochs) == len(set(epochs))
    assert groups_alive(nodes) == 0


def begun(folder: Path, step: str) -> bool:
    """Whether a step trains; a full training is stopped in its start, it is over soon."""
    kind = StepStarted if step.startswith("confirm_") else Epoch
    if not (folder / "journal.jsonl").exists():
        return False
    return any(event.step == step for event in of(kind, folder))


def last(folder: Path) -> Event:
    return list(read_events(folder))[-1]


def groups_alive(nodes: TwoRaylets) -> int:
    """How many placement groups hold room on the cluster."""
    program = (
        "import sys, ray; from ray.util import placement_group_table; "
        "ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR'); "
        "print(sum(g['state'] != 'REMOVED' for g in placement_group_table().values()))"
    )
    command = [sys.executable, "-c", program, nodes.gcs_address]
    done = subprocess.run(command, env=nodes.env, capture_output=True, text=True, timeout=60)
    return int(done.stdout)


def job(nodes: TwoRaylets, verb: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RAY, "job", verb, "--address", nodes.job_server, *words],
        env=nodes.env,
        capture_output=True,
        text=True,
        timeout=JOB_SECONDS,
    )


def submit(nodes: TwoRaylets, triage: list[str]) -> subprocess.CompletedProcess[str]:
    return job(nodes, "submit", "--", sys.executable, *triage)


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
    for words in (f"no Ray cluster answers at 127.0.0.1:{port}", "leave --address out"):
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
    for words in ("CPUs, but a full training needs 9000", "add nodes", "confirm_workers"):
        assert words in sentence
    assert not (world.runs / "too_few").exists()  # found before any arm was started


def test_too_few_gpus_and_a_cluster_that_grows(cluster, tmp_path: Path):
    import ray

    workers = int(ray.cluster_resources().get("GPU", 0)) + 1
    small = ScheduleConfig(use_gpu=True, confirm_workers=workers)
    with pytest.raises(ClusterError, match=f"GPUs, but a full training needs {workers}; add"):
        RayExecutor(tmp_path, address=None, schedule=small).start()
    growing = ScheduleConfig(use_gpu=True, confirm_workers=workers, autoscaling=True)
    executor = RayExecutor(tmp_path, address=None, schedule=growing)
    executor.start()
    executor.stop()
    assert ray.is_initialized()  # it did not start this cluster, so it does not stop it
