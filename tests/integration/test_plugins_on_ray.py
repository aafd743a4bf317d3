"""A model of a file outside the package, on Ray: the example of docs/your-model.md."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import foreign
import pytest
from two_raylets import two_raylets

from lvm.core import plugins
from lvm.core.config.run import ScheduleConfig
from lvm.core.errors import ClusterError
from lvm.models.base import MODELS
from lvm.training.checkpoint import read_manifest
from lvm.triage.events import ArmEnded, Decision, StepStarted
from lvm.triage.events.parts import Arm
from lvm.triage.journal import read_run
from lvm.triage.on_ray import RayExecutor
from lvm.triage.state import RunState

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(400),
    # MLflow 3.17 maps two of its tables in a way that SQLAlchemy 2.1 will drop.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

TRIAGE = str(Path(__file__).parents[2] / "tune_jobs" / "triage.py")


# The world's own model under another name: what fixes it is a training, by two workers.
TWIN = """\
from lvm.models.base import MODELS
from lvm.models.mamba2 import Mamba2Encoder

@MODELS.register("twin")
class Twin(Mamba2Encoder):
    pass
"""


@pytest.fixture
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has imported no plug-in, and leaves none behind."""
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.setattr(MODELS, "_parts", {name: MODELS.get(name) for name in MODELS.names()})


def flags(world, folder: Path, code: str, model: str) -> list[str]:
    """Write a plug-in and a recipe with its model, in which step 1 has a fix; return the flags."""
    (folder / "my_model.py").write_text(code)
    text = world.recipe.read_text().replace("stage_eval_cosine = 0.77", "stage_eval_cosine = 0.6")
    text = text.replace("success_r_at_5 = 0.2", "success_r_at_5 = 0.15")
    text = text.replace("[model]\n", f'[model]\nname = "{model}"\n')
    (folder / "recipe.toml").write_text(text)
    return [
        "--data",
        str(world.bank),
        "--recipe",
        str(folder / "recipe.toml"),
        "--five-steps",
        "--plugin",
        str(folder / "my_model.py"),
        "--out",
        str(folder / "run"),
    ]


def lvm(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, in which nothing is imported yet."""
    command = [sys.executable, "-m", "lvm.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def arms_of(events: RunState, model: str) -> list[Arm]:
    """The arms of a run that was fixed in step 1, all of them of one model; none broke."""
    assert [e.verdict for e in events.of(Decision, action="Stop")] == ["FIXED"]
    ended = {event.arm: event.reason for event in events.of(ArmEnded)}
    assert set(ended.values()) <= {"finished", "gate held", "pruned", "cancelled"}
    started = events.of(StepStarted)
    assert [event.step for event in started] == [
        "phase_1",
        "projection_head",
        "confirm_projection_head",
    ]
    arms = [arm for event in started for arm in event.arms]
    assert {arm.recipe.model.name for arm in arms} == {model}
    return arms


@pytest.mark.usefixtures("_fresh")
def test_a_model_of_a_file_is_triaged_and_judged(
    world, cluster, triage, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    run = triage(out, flags(world, tmp_path, foreign.example(), "last_two"))
    ended = [
        (event.step, event.reason)
        for event in run.of(ArmEnded)
        if event.step in ("phase_1", "projection_head")
    ]
    assert {step for step, _ in ended} == {"phase_1", "projection_head"}
    assert {reason for _, reason in ended} <= {"finished", "gate held", "pruned", "cancelled"}
    own = plugins.digests()
    assert run.events[0].identity["plug-in my_model.py"] == own["my_model.py"]
    checkpoint = next(out.glob("arms/*/checkpoint"))
    assert read_manifest(checkpoint).plugins == own

    judge = ["eval", str(checkpoint), "--data", str(world.bank)]
    judged = lvm(tmp_path, *judge, "--plugin", "my_model.py")
    assert judged.returncode == 0, judged.stderr
    assert "test split: " in judged.stdout
    refused = lvm(tmp_path, *judge)
    assert refused.returncode == 2
    assert refused.stderr.strip().endswith(
        f"was trained with the plug-in my_model.py ({own['my_model.py']}), which is not loaded; "
        "add --plugin my_model.py."
    )

    with (tmp_path / "my_model.py").open("a") as file:
        file.write("# a byte more\n")
    again = lvm(tmp_path, "triage", "--resume", str(out))
    assert again.returncode == 2
    assert "cannot continue: the plug-in my_model.py changed since it started" in again.stderr
    (tmp_path / "my_model.py").unlink()
    assert lvm(tmp_path, "report", str(out)).returncode == 0
    assert lvm(tmp_path, "status", str(out)).returncode == 0


@pytest.mark.usefixtures("_fresh")
def test_a_node_that_cannot_import_a_module_is_named_before_the_first_arm(
    cluster, tmp_path, monkeypatch
) -> None:
    """The driver has a folder on its path that no worker has."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "only_here.py").write_text(foreign.example())
    monkeypatch.syspath_prepend(tmp_path / "site")
    plugins.load_modules(["only_here"])
    executor = RayExecutor(tmp_path / "tune", address=None, schedule=ScheduleConfig())
    with pytest.raises(ClusterError) as refused:
        executor.start()
    assert re.fullmatch(
        r"node [\d.]+: the plug-in only_here is not installed here; install it, add its folder "
        r"to PYTHONPATH, or give the path of a \.py file with --plugin\.",
        str(refused.value),
    )


def test_a_node_that_never_had_the_file_trains_its_model(world, tmp_path: Path) -> None:
    """It is gone when the run has begun: what the second node imports has come with its arms.

    A worker of the confirmation asks for 0.9 of the one CPU of a node, so each node has one.
    """
    out = tmp_path / "run"
    with two_raylets(tmp_path) as nodes:
        command = [sys.executable, TRIAGE, *flags(world, tmp_path, TWIN, "twin")]
        with subprocess.Popen(
            [*command, "--address", nodes.gcs_address],
            env=nodes.env,
            cwd=tmp_path,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                while not (out / "journal.jsonl").exists():
                    assert process.poll() is None, process.communicate()
                    time.sleep(0.1)
                (tmp_path / "my_model.py").unlink()
                printed, said = process.communicate(timeout=300)
            finally:
                process.kill()
    assert process.returncode == 0, said
    assert printed.startswith("FIXED by projection_head: InfoNCE in the raw space")
    (confirmation,) = arms_of(read_run(out), "twin")[-1:]
    assert confirmation.workers == 2
