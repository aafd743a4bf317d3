"""A triage whose arms break because of where they run, and its resume, as commands: one truth.

Exit status, first lines, `verdict.json`, report, `lvm status` and the journal say the same.
"""

from __future__ import annotations

import errno
import json
import os
import time

import pytest
import torch

import lvm.jobs.job
from lvm.core.records import to_plain
from lvm.triage import local
from lvm.triage.events import Decision
from lvm.triage.journal import Journal, read_run
from lvm.triage.local import LocalExecutor
from lvm.triage.verdict import build_verdict
from lvm.views.report import Run as Reported
from lvm.views.report.markdown import render, report_sections
from lvm.views.status import status
from lvm.views.status.screen import screen

pytestmark = [
    pytest.mark.integration,
    # MLflow 3.17 maps two of its tables in a way that SQLAlchemy 2.1 will drop.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

DISK_FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class WithoutRay(LocalExecutor):
    """Takes the place of Ray: what is said and written is tested here."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass


@pytest.fixture
def failing(monkeypatch):
    """Return the faults of arms, (step, name or "*") -> error; it may be changed between runs."""
    faults, real = {}, local.run_trial

    def run_trial(spec, dataset):
        error = faults.get((spec.step, spec.name)) or faults.get((spec.step, "*"))
        for record in real(spec, dataset):
            if error is not None:
                raise error
            yield record

    monkeypatch.setattr(local, "run_trial", run_trial)
    monkeypatch.setattr(lvm.jobs.job, "RayExecutor", WithoutRay)
    return faults


def agree(run) -> dict:
    """Return verdict.json after a look at everything else that a person may read."""
    document = json.loads((run.folder / "verdict.json").read_text())
    events = read_run(run.folder)
    assert events == Journal(run.folder).events
    again = build_verdict(events, resume=document["resume"])
    assert to_plain(again) == document
    stops = events.of(Decision, action="Stop")
    assert [stop.verdict for stop in stops] == [document["verdict"]]
    assert run.status == (0 if document["verdict"] in ("PASSED", "FIXED") else 1)
    assert run.printed.splitlines()[0] == document["headline"]
    report = (run.folder / "report.md").read_text()
    assert report == render(report_sections(Reported(events, again)), document["verdict"])
    assert report.startswith(f"# Triage report: {document['verdict']}")
    assert "more articles to narrow" not in report or not document["absent"]
    seen = status(events, run.folder, time.time())
    assert (seen.state, seen.verdict) == ("finished", document["verdict"])
    assert (seen.headline, to_plain(seen.absent)) == (document["headline"], document["absent"])
    if document["absent"]:
        lines = [line.rstrip() for line in run.printed.splitlines()]
        first = lines[: len(document["warnings"]) + 1]
        assert any(line.endswith(document["resume"]) for line in first)
        inconclusive = document["verdict"] == "INCONCLUSIVE"
        assert (lines[-1] == f"next: {document['resume']}") == inconclusive
        assert screen(seen)[-1].endswith(f"--resume {run.folder}") == inconclusive
        assert any("crashed" in line for line in screen(seen))
        said_apart = [line for line in screen(seen) if line.startswith("absent")]
        assert len(said_apart) == (0 if inconclusive else 1)  # else the headline says it
    return document


@pytest.mark.timeout(400)  # four triages
def test_a_full_disk_in_phase_1_is_inconclusive_and_a_resume_says_what_its_journal_says(
    world, triage, failing
) -> None:
    """Row 19 of the issue: UNFINISHED, a verdict of null, exit status 0, and so for ever."""
    folder = world.runs / "absent"
    failing["phase_1", "*"] = DISK_FULL
    document = agree(triage(folder, world.argv("absent")))
    assert document["verdict"] == "INCONCLUSIVE"
    assert document["headline"].startswith("INCONCLUSIVE: AR-only crashed: no space left on /")
    assert [one["arm"] for one in document["absent"]] == ["AR-only", "InfoNCE+AR"]
    assert document["steps"] == []

    failing.clear()  # there is space again, but the arms of a step find no memory
    failing["temperature", "*"] = OUT_OF_MEMORY
    document = agree(triage(folder, ["--resume", str(folder)]))
    assert (document["phase1"]["verdict"], document["cause"]) == ("FAIL", None)
    assert document["verdict"] == "INCONCLUSIVE"  # the step that is absent may have been the fix
    crashed = {one["step"]: one["detail"] for one in document["absent"]}
    assert crashed == {"temperature": "CUDA out of memory"}

    failing.clear()
    resumed = agree(triage(folder, ["--resume", str(folder)]))
    assert resumed["absent"] == []
    undisturbed = agree(triage(world.runs / "smooth", world.argv("smooth")))
    assert resumed["cause"] == "projection_head+temperature"
    for key in ("verdict", "cause", "headline", "warnings", "since", "ladder", "hypotheses"):
        assert resumed[key] == undisturbed[key]
    for key in ("space", "masked", "raw", "epochs", "name"):
        assert [m[key] for m in resumed["models"]] == [m[key] for m in undisturbed["models"]]
    written = [json.loads(line)["event"] for line in Journal(folder).path.read_text().splitlines()]
    assert written.count("reopened") == 2
