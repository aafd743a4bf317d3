"""A run with `--json`: stdout is JSON lines from start to verdict, and `lvm status` agrees."""

from __future__ import annotations

import json
import time

import pytest

import lvm.jobs.job
from lvm.triage.events import Rung, kind_of
from lvm.triage.journal import read_run
from lvm.triage.local import LocalExecutor
from lvm.views.status import status

pytestmark = [
    pytest.mark.integration,
    # MLflow 3.17 maps two of its tables in a way that SQLAlchemy 2.1 will drop.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]


class WithoutRay(LocalExecutor):
    """Takes the place of Ray: what is written is tested here."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass


def test_a_run_told_as_json_is_json_to_its_end(world, triage, monkeypatch) -> None:
    monkeypatch.setattr(lvm.jobs.job, "RayExecutor", WithoutRay)
    folder = world.runs / "json"
    data = ["--data", str(world.bank), "--recipe", str(world.recipe)]
    run = triage(folder, [*data, "--out", str(folder), "--json"])
    records = [json.loads(row) for row in run.printed.splitlines()]
    told = [kind_of(e) for e in run.events if not isinstance(e, Rung)]
    assert [r["event"] for r in records] == [*told, "verdict"]
    verdict = json.loads((folder / "verdict.json").read_text())
    assert verdict.items() <= records[-1].items()
    epochs = [r for r in records if r["event"] == "epoch"]
    assert all(0 <= r["epoch"] <= r["of"] for r in epochs)
    seen = status(read_run(folder), folder, time.time())
    assert (seen.state, seen.verdict) == ("finished", verdict["verdict"])
    again = triage(folder, ["--resume", str(folder), "--json"])
    assert [json.loads(r)["event"] for r in again.printed.splitlines()] == ["resumed", "verdict"]
