"""A person's own script triaged by the command, on Ray: pruned, killed, resumed, moved."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import own_trainer
import psutil
import pytest

from lvm import cli
from lvm.core.command import run_command
from lvm.triage.events import (
    ArmEnded,
    ArmRestarted,
    Decision,
    Epoch,
    Event,
    StepStarted,
    TestJudged,
)
from lvm.triage.journal import read_events

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(600),
    # MLflow 3.17 maps two of its tables in a way that SQLAlchemy 2.1 will drop.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 240.0  # a start of Ray takes long on a machine that is busy
TRIAGE = [sys.executable, str(ROOT / "tune_jobs" / "triage.py")]


def journal(folder: Path) -> list[Event]:
    return list(read_events(folder)) if (folder / "journal.jsonl").exists() else []


def judged(events: list[Event]) -> dict:
    """What was measured of every model on test, and what ended the run."""
    found = {e.name: e.evaluation.masked for e in events if isinstance(e, TestJudged)}
    stop = next(e for e in events if isinstance(e, Decision) and e.action == "Stop")
    return found | {"stop": (stop.verdict, stop.cause)}


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> tuple[Path, list[str]]:
    """A planted world whose script has too sharp a softmax, and the flags of its triage."""
    folder = tmp_path_factory.mktemp("planted")
    return folder, own_trainer.write_world(folder, "temperature", 0)


@pytest.fixture(scope="module")
def whole(planted, cluster, triage):
    """Its triage, uninterrupted."""
    folder, flags = planted
    return triage(folder / "whole", [*flags, "--out", str(folder / "whole")])


def test_a_script_is_fixed_by_the_right_step(whole) -> None:
    document = json.loads((whole.folder / "verdict.json").read_text())
    assert (document["verdict"], document["cause"]) == ("FIXED", "temperature")
    assert document["judged"]["kind"] == "trainer"
    assert document["judged"]["sentence"].startswith("Judged and trained: your own model, by train")
    report = (whole.folder / "report.md").read_text()
    assert document["judged"]["sentence"] in report[: report.index("FIXED by temperature")]
    assert "mamba" not in report
    assert "checkpoint is" not in report
    assert document["judged"]["sentence"] in whole.printed
    assert f"report {whole.folder}" in whole.printed.splitlines()[-1]
    arms = [arm for e in whole.of(StepStarted) for arm in e.arms]
    assert {arm.workers for arm in arms} == {1}  # the confirmation too
    assert (whole.folder / "arms" / arms[0].id / "trainer.log").exists()
    assert not (whole.folder / "windows").exists()  # they can be written again
    assert own_trainer.ends_in(whole.folder)


def test_status_and_report_of_it_are_written_again(whole, capsys) -> None:
    for command in ("status", "report"):
        assert run_command(cli.main, [command, str(whole.folder)]) == 0
    assert "eval" not in capsys.readouterr().out.split("next")[-1]


def test_a_killed_run_leaves_no_training_and_ends_the_same(planted, whole, triage, cluster) -> None:
    folder, flags = planted
    out = folder / "killed"
    command = [*TRIAGE, *flags, "--out", str(out), "--address", cluster]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        until = time.monotonic() + PATIENCE_SECONDS
        while len([e for e in journal(out) if isinstance(e, Epoch)]) < 5:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert own_trainer.ends_in(out), own_trainer.processes_in(out)
    resumed = triage(out, ["--resume", str(out), "--address", cluster])
    assert judged(resumed.events) == judged(whole.events)
    assert own_trainer.ends_in(out)


def test_a_trial_that_is_killed_costs_an_epoch_and_not_the_arm(
    planted, whole, triage, cluster
) -> None:
    """The keeper ends the script of a process that is gone; the arm goes on in another one."""
    folder, flags = planted
    out = folder / "lost"
    command = [*TRIAGE, *flags, "--out", str(out), "--address", cluster]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    killed = False
    while process.poll() is None:
        if not killed and any(isinstance(e, Epoch) for e in journal(out)):
            scripts = own_trainer.processes_in(out / "arms")
            keepers = [p for p in scripts if any("keeper.py" in w for w in p.cmdline())]
            parents = {p.ppid() for p in keepers}
            killed = bool(parents)
            for parent in parents:
                psutil.Process(parent).send_signal(signal.SIGKILL)
        time.sleep(0.02)
    assert process.returncode == 0, process.communicate()[1]
    process.communicate()
    events = journal(out)
    assert [e for e in events if isinstance(e, ArmRestarted)]
    assert judged(events) == judged(whole.events)
    assert own_trainer.ends_in(out)


def test_a_run_whose_script_was_changed_does_not_go_on(planted, whole, capsys) -> None:
    folder, _ = planted
    moved = shutil.copytree(whole.folder, folder / "moved")
    script = folder / "mine" / "train.py"
    before = script.read_text()
    script.write_text(before + "\n# another\n")
    try:
        assert run_command(_triage, ["--resume", str(moved)]) == 2
    finally:
        script.write_text(before)
    assert "the trainer's file train.py changed since it started" in capsys.readouterr().err


def _triage(argv: list[str]) -> int:
    import tune_jobs.triage

    return tune_jobs.triage.main(argv)


def test_arms_that_are_worse_are_pruned_and_a_broken_one_ends_alone(
    tmp_path, cluster, triage
) -> None:
    """The script breaks at one temperature; the other arms of its step go on."""
    flags = own_trainer.write_world(tmp_path, "temperature", 1)
    script = tmp_path / "mine" / "train.py"
    text = script.read_text()
    script.write_text(
        text.replace(
            "    args = arguments()\n",
            "    args = arguments()\n"
            "    if args.temperature == 0.1:\n"
            "        raise SystemExit('no such temperature')\n",
        )
    )
    recipe = json.loads((tmp_path / "mine" / "recipe.json").read_text())
    recipe["schedule"]["first_rung"] = 1
    recipe["gates"] = {"stage_eval_cosine": 0.6}
    recipe_file = tmp_path / "mine" / "recipe.json"
    recipe_file.write_text(json.dumps(recipe))
    run = triage(tmp_path / "run", [*flags, "--five-steps", "--out", str(tmp_path / "run")])
    ended = {(e.step, e.name): e for e in run.of(ArmEnded)}
    broken = ended["temperature", "temperature 0.10"]
    assert broken.reason == "crashed"
    assert broken.detail.startswith(
        "the trainer of temperature, temperature 0.10: it ended with exit status 1 in epoch 1"
    )
    assert broken.detail.endswith("trainer.log ends: no such temperature")
    reasons = {e.reason for e in run.of(ArmEnded) if e.step != "phase_1"}
    assert "pruned" in reasons
    left_out = {k: v for e in run.of(StepStarted) for k, v in e.left_out.items()}
    assert "{negatives.random}" in left_out["negatives: random article"]
    assert own_trainer.ends_in(tmp_path / "run")
    assert os.path.exists(tmp_path / "run" / "report.html")
