"""`lvm doctor --runs` beside a real MLflow store: a driver that was killed left its run open."""

from __future__ import annotations

from pathlib import Path

import pytest
from tracked import Writer

from lvm.doctor.runs import orphans
from lvm.triage.journal import Journal
from lvm.triage.lock import acquire
from lvm.views.tracking import Tracker
from lvm.views.tracking.left_open import open_runs

pytestmark = [
    pytest.mark.integration,
    # MLflow 3.17 maps two of its tables in a way that SQLAlchemy 2.1 will drop.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_a_run_that_mlflow_calls_running_and_nobody_drives(tmp_path: Path) -> None:
    run = tmp_path / "runs/1"
    writer = Writer(Journal(run))
    writer.start()
    assert open_runs(run) == []  # there is no store yet, and none is made by looking
    assert not (tmp_path / "runs/mlflow.db").exists()
    tracker = Tracker(run)
    tracker.sync(writer.journal.events)
    tracker.wait()
    assert tracker.problem is None

    for _ in range(2):  # looking closes nothing
        (found,) = orphans(tmp_path / "runs", open_runs)
        assert not found.ok
        assert "RUNNING" in found.seen
        assert "--resume" in found.next
        assert "track" in found.next
    assert [opened.folder for opened in open_runs(run)] == [run]

    lock = acquire(run)
    try:
        assert [f.ok for f in orphans(tmp_path / "runs", open_runs)] == [True]
    finally:
        lock.release()

    tracker.close(writer.journal.events)  # as `lvm track` does, which the doctor advises
    (found,) = orphans(tmp_path / "runs", open_runs)
    assert not found.ok  # still nobody drives it
    assert "RUNNING" not in found.seen
    assert open_runs(run) == []
