"""A cluster that grows: the node that a full training needs comes long after it is asked for."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from alone import alone, measured
from two_raylets import one_raylet

from lvm.core.records import StopReason
from lvm.triage.events import ArmEnded, StepStarted
from lvm.triage.journal import read_journal, read_run

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

TRIAGE = str(Path(__file__).parents[2] / "tune_jobs" / "triage.py")
PATIENCE = 200.0
GROWS = "autoscaling = true\n"  # the last section of the recipe is its schedule


def test_a_full_training_waits_for_its_node_and_says_so(world, tmp_path: Path):
    recipe = tmp_path / "recipe.toml"
    text = world.recipe.read_text().replace("stage_eval_cosine = 0.77", "stage_eval_cosine = 0.6")
    text = text.replace("success_r_at_5 = 0.2", "success_r_at_5 = 0.15")
    recipe.write_text(text + GROWS)
    out = tmp_path / "run"
    with one_raylet(tmp_path) as head:
        command = [sys.executable, TRIAGE, "--data", str(world.bank), "--recipe", str(recipe)]
        command += ["--out", str(out), "--address", head.gcs_address, "--five-steps"]
        with subprocess.Popen(
            command,
            env=head.env,
            cwd=tmp_path,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                deadline = time.monotonic() + PATIENCE
                while not of("waiting", out):
                    assert process.poll() is None, process.communicate()
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
                head.join()
                printed, said = process.communicate(timeout=PATIENCE)
            finally:
                process.kill()
    assert process.returncode == 0, said
    assert printed.startswith("FIXED by projection_head: InfoNCE in the raw space")
    assert "2 workers with 0.9 CPUs each" in said
    events = read_run(out)
    assert not events.of(ArmEnded, reason=StopReason.CRASHED)
    told = json.loads((out / "verdict.json").read_text())
    assert (told["verdict"], told["absent"]) == ("FIXED", [])
    (confirmation,) = events.of(StepStarted)[-1].arms
    assert confirmation.workers == 2  # 0.9 CPUs each, so that one node could not hold both
    assert events.of(ArmEnded)[-1].reason == "finished"
    here = alone(world.bank, recipe, tmp_path / "alone", reported_only=True)
    assert measured(events) == measured(here)


def of(kind: str, folder: Path) -> list:
    if not (folder / "journal.jsonl").exists():
        return []
    return [event for event in read_journal(folder) if event["event"] == kind]
