"""The tracker against real SQLite stores and a real MLflow server on loopback."""

from __future__ import annotations

import inspect
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil
import pytest
import torch

from lvm.core.errors import MissingExtraError, UsageError
from lvm.training.next_vectors import _load_pyfunc
from lvm.triage.events import (
    ArmEnded,
    Audited,
    Decision,
    Epoch,
    Event,
    Interrupted,
    Ladder,
    Phase1Judged,
    Resumed,
    TestJudged,
    event_of,
)
from lvm.triage.journal import Journal, read_run
from lvm.triage.state import RunState
from lvm.triage.step import Role
from lvm.views import tracking
from lvm.views.tracking import ARTIFACTS, EXPERIMENT, Tracker, mlflow_api, store
from lvm.views.tracking.arms import arm_views
from lvm.views.tracking.ladder import ladder_views
from lvm.views.tracking.registry import example
from lvm.views.tracking.views import RunView, parent_view
from tests.tracked import (
    AUDIT,
    CHILDREN,
    CONFIRMED,
    FINDING,
    LADDER,
    RECIPE,
    REGISTERED,
    WIDTH,
    Server,
    Writer,
    evaluation,
    free_port,
    serving,
    track,
    whole_journal,
    write_checkpoint,
    write_documents,
)

pytestmark = [
    pytest.mark.integration,
    # MLflow 3.17 maps two of its tables in a way that SQLAlchemy 2.1 will drop.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

CURVES = ("eval_cosine", "r_at_5", "mrr", "loss", "num_negatives")


# --- stores --------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    with mock.patch.dict(os.environ):  # the tracker's settings do not outlive a test
        for name in ("MLFLOW_TRACKING_URI", *tracking.SETTINGS):
            os.environ.pop(name, None)
        yield


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with its tables and nothing else: making them takes seconds, copying does not."""
    with mock.patch.dict(os.environ, tracking.SETTINGS):
        from mlflow import MlflowClient

        path = tmp_path_factory.mktemp("store") / "empty.db"
        MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def folder(tmp_path: Path, empty_store: Path) -> Path:
    """A run folder below a runs folder that holds a store, with a space in its path."""
    runs = tmp_path / "my runs"
    (runs / "1").mkdir(parents=True)
    shutil.copy(empty_store, runs / "mlflow.db")
    return runs / "1"


def synced(tracker: Tracker, events: Sequence[Event]) -> None:
    """Hand over, and wait for the thread that writes."""
    tracker.sync(RunState(events))
    tracker.wait()


def client_of(tracker: Tracker) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracker.uri, registry_uri=tracker.uri)


def stored(tracker: Tracker) -> dict[str, Any]:
    """Every run of the experiment by name; two of one name fail."""
    client = client_of(tracker)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    named = {run.info.run_name: run for run in runs}
    assert len(named) == len(runs)
    return named


def points(tracker: Tracker, run: Any) -> set[tuple[str, float, int, int]]:
    """Every point of every metric; a point stored twice fails."""
    client = client_of(tracker)
    found = [
        (m.key, m.value, m.timestamp, m.step)
        for key in run.data.metrics
        for m in client.get_metric_history(run.info.run_id, key)
    ]
    assert len(set(found)) == len(found)
    return set(found)


def children(events: list[dict[str, Any]]) -> list[RunView]:
    return [*ladder_views(events), *arm_views(events, closed=True)]


def assert_equal(tracker: Tracker, runs: dict[str, Any], view: RunView) -> None:
    """The store holds exactly what the view says."""
    run = runs[view.name]
    assert run.info.status == view.status
    assert run.data.params == view.params
    assert points(tracker, run) == set(view.metrics)
    own = {k: v for k, v in run.data.tags.items() if k in view.tags}
    assert own == view.tags


# --- what a finished triage looks like -----------------------------------------------------------


def test_a_parent_with_nested_children(folder: Path) -> None:
    events = whole_journal(folder)
    tracker = Tracker(folder)
    tracker.close(events, write_documents(folder))
    assert tracker.problem is None

    runs = stored(tracker)
    parent = runs.pop("my runs/1")
    assert {name: run.info.status for name, run in runs.items()} == CHILDREN
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    ids = json.loads((folder / "mlflow.json").read_text())["runs"]
    assert set(ids.values()) == {r.info.run_id for r in [parent, *runs.values()]}

    assert parent.info.status == "FINISHED"
    assert parent.info.start_time == round(events[0].at * 1000)
    assert parent.info.end_time == round(events[-1].at * 1000)
    tags = parent.data.tags
    assert tags["verdict"] == "FIXED"
    assert tags["cause"] == "temperature"
    assert tags["data.fingerprint"] == "feedfacecafe"
    assert tags["command"] == "python tune_jobs/triage.py --data 'my bank'"
    assert tags["commit"] == "0123456789ab"
    assert tags["phase_1.success.mrr.verdict"] == "FAIL"
    note = tags["mlflow.note.content"]
    assert note.startswith("**FIXED by temperature: tau 0.2 holds")
    for said in ("**Cause**: temperature", "**Next**", "| AR-only |", "ladder: copy"):
        assert said in note
    assert tags["audit"] == "WARNINGS"
    assert tags["audit.codes"] == "DUPLICATES, HUBNESS"
    assert tags["audit.DUPLICATES"] == "warn: 4.3% of rows repeat another row"
    assert parent.data.metrics["audit.checks.NOT_EVALUABLE"] == 1
    assert parent.data.params["gates.success_r_at_5"] == "0.1"
    metrics = parent.data.metrics
    assert metrics["phase_1.ar_only.r_at_5"] == pytest.approx(0.155)
    assert metrics["phase_1.model.r_at_5"] == pytest.approx(0.125)
    assert metrics["phase_1.success.r_at_5.upper"] == pytest.approx(-0.01)
    assert metrics["ladder.copy_last.eval_cosine"] == pytest.approx(0.21)
    # 2 x 3 epochs in phase 1, 3 + 3 + 3 + 1 in the step, 3 to confirm; the judge says what counts
    assert metrics["compute.train_seconds"] == pytest.approx(1.25 * 19, abs=0.06)
    assert metrics["compute.trials"] == 7


def test_an_arm_has_curves_gates_and_reasons(folder: Path) -> None:
    events = whole_journal(folder)
    tracker = track(folder, events)
    runs = stored(tracker)
    arm = runs["Step 1, temperature: tau 0.2"]

    wanted = events.of(Epoch, arm="temperature-tau-0.2")
    for name in CURVES:
        history = client_of(tracker).get_metric_history(arm.info.run_id, name)
        assert [(m.step, m.value) for m in history] == [(e.epoch, getattr(e, name)) for e in wanted]
    for part, value in {"value": 0.43, "lower": 0.41, "upper": 0.45, "bound": 0.35}.items():
        assert arm.data.metrics[f"dev.stage.eval_cosine.{part}"] == pytest.approx(value)
    assert arm.data.metrics["dev.stage.eval_cosine.num_articles"] == 8
    assert arm.data.metrics["dev.gain.r_at_5.p_value"] == 0.001
    assert arm.data.metrics["dev.r_at_5"] == pytest.approx(0.215)
    assert arm.data.metrics["dev.raw.r_at_5"] == pytest.approx(0.1075)
    assert "dev.eff_at_5" not in arm.data.metrics  # it is null
    tags = arm.data.tags
    assert (tags["verdict"], tags["stop"]) == ("PASS", "gate held")
    assert (tags["step"], tags["role"], tags["arm"]) == (
        "temperature",
        "arm",
        "temperature-tau-0.2",
    )
    assert tags["reason"] == "0.430 against a bound of 0.350"
    assert tags["threshold.stage_eval_cosine"] == "0.35"
    assert arm.data.params["objective.temperature"] == "0.2"
    assert "model.dropout" not in arm.data.params  # neither changed nor important

    pruned = runs["Step 1, temperature: tau 0.5"]
    assert pruned.data.metrics["eval_cosine"] == pytest.approx(0.22)  # not that of epoch 3
    assert pruned.data.tags["stop"] == "pruned"
    confirmed = runs["Confirm temperature: tau 0.2"]
    assert confirmed.data.metrics["test.success.r_at_5.value"] == pytest.approx(0.15)
    assert confirmed.data.metrics["test.p95_ms"] == 2.5
    assert confirmed.data.tags["verdict"] == "PASS"
    assert confirmed.data.tags["reason"].startswith("success r_at_5: 0.150")
    diverged = runs["Step 1, temperature: tau 0.01"]
    assert diverged.data.tags["stop.detail"] == "the loss is NaN"
    assert "dev.stage.eval_cosine.bound" not in diverged.data.metrics
    ar_only = runs["phase_1: AR-only"]
    assert ar_only.data.params["objective.contrastive_weight"] == "0.0"
    assert ar_only.data.metrics["test.ann.recall_at_5"] == 0.99


def test_the_ladder_stands_beside_the_arms_under_their_names_and_can_be_left_out(
    folder: Path,
) -> None:
    events = whole_journal(folder)
    tracker = track(folder, events)
    client, runs = client_of(tracker), stored(tracker)
    copy_last = runs["Ladder: copy_last"].data
    assert copy_last.metrics["test.r_at_5"] == pytest.approx(0.105)
    assert copy_last.metrics["dev.eval_cosine"] == copy_last.metrics["Dev cosine"] == 0.21
    assert copy_last.metrics.keys() <= runs["phase_1: AR-only"].data.metrics.keys()
    assert "an end of the scale" in runs["Ladder: random"].data.tags["mlflow.note.content"]
    assert "an end of the scale" not in copy_last.tags["mlflow.note.content"]

    experiment = [client.get_experiment_by_name(EXPERIMENT).experiment_id]

    def names(chosen: str, order: str = "attributes.start_time") -> list[str]:
        return [r.info.run_name for r in client.search_runs(experiment, chosen, order_by=[order])]

    assert names("tags.role = 'ladder'") == list(LADDER)
    assert set(names("tags.role != 'ladder'")) == {"my runs/1", *CHILDREN} - LADDER.keys()
    tested = names("metrics.`R at 5` > 0", "metrics.`R at 5` DESC")  # one column for both
    assert tested == [
        "Confirm temperature: tau 0.2",
        "phase_1: AR-only",
        "phase_1: InfoNCE+AR",
        *LADDER,
    ]


def test_a_run_that_was_tracked_without_its_ladder_gets_it_once(folder: Path) -> None:
    from mlflow import MlflowClient

    events = whole_journal(folder)
    with mock.patch.object(tracking, "ladder_views", return_value=[]):
        first = stored(track(folder, events))
    assert first.keys() == {"my runs/1", *CHILDREN} - LADDER.keys()
    write = MlflowClient.log_batch
    with mock.patch.object(MlflowClient, "log_batch", autospec=True, side_effect=write) as wrote:
        for _ in range(2):
            tracker = track(folder, events)
    assert tracker.problem is None
    assert wrote.call_count == len(LADDER)  # one request for all values of a row
    runs = stored(tracker)
    assert runs.keys() == {"my runs/1", *CHILDREN}
    assert {name: runs[name].info.run_id for name in first} == {
        name: run.info.run_id for name, run in first.items()
    }
    parent = first["my runs/1"].info.run_id
    assert {runs[name].data.tags["mlflow.parentRunId"] for name in LADDER} == {parent}


def test_a_journal_with_half_a_ladder_or_none_gives_what_it_has(folder: Path) -> None:
    events = whole_journal(folder)
    assert ladder_views(RunState(e for e in events if not isinstance(e, Ladder))) == []
    dev = RunState(e for e in events if not isinstance(e, Ladder) or e.split == "dev")
    half, whole = ladder_views(dev), ladder_views(events)
    assert (
        [v.key for v in half] == [v.key for v in whole] == ["ladder / copy_last", "ladder / random"]
    )
    assert {p[0].partition(".")[0] for p in half[0].metrics} == {
        "dev",
        "Dev cosine",
        "Dev R at 5",
        "Dev MRR",
    }
    assert all(v.started <= v.ended for v in (*half, *whole))


def test_what_a_combination_adds_is_in_its_run(folder: Path) -> None:
    writer = Writer(Journal(folder))
    writer.start()
    writer.phase_1()
    writer.temperature(writer.begin_temperature())
    writer.confirm()
    writer.combine()
    writer.stop("temperature", "anchor_mmd")
    runs = stored(track(folder, writer.journal.events))
    together = runs["Confirm combination: tau 0.2 + anchor"].data
    assert together.metrics["test.success.r_at_5.value"] == pytest.approx(0.17)
    assert together.metrics["test.gain.r_at_5.value"] == pytest.approx(0.11)  # over the recipe
    assert together.metrics["test.adds.r_at_5.value"] == pytest.approx(0.03)  # over the best alone
    assert together.metrics["test.adds.mrr.lower"] == pytest.approx(-0.01)
    assert together.tags["test.adds.mrr.verdict"] == "FAIL"
    assert together.tags["best_alone"] == "tau 0.2"
    assert (
        together.tags["cause"] == runs["my runs/1"].data.tags["cause"] == "temperature+anchor_mmd"
    )
    assert "| test | adds | R@5 | +0.030 [+0.010, +0.050] |" in together.tags["mlflow.note.content"]
    alone = runs["Confirm temperature: tau 0.2"].data
    assert not [name for name in (*alone.metrics, *alone.tags) if name.startswith("test.adds")]
    assert "best_alone" not in alone.tags


def test_the_files_of_the_run_are_artifacts_beside_the_store(folder: Path) -> None:
    events = whole_journal(folder)
    write_documents(folder)
    tracker = track(folder, events)
    parent = stored(tracker)["my runs/1"]
    found = client_of(tracker).list_artifacts(parent.info.run_id)
    assert {item.path for item in found} == set(ARTIFACTS) - {"report.html"}
    root = folder.parent / "mlflow_artifacts" / parent.info.run_id / "artifacts"
    for item in found:
        assert (root / item.path).read_bytes() == (folder / item.path).read_bytes()


def test_predictions_without_a_model_are_a_run(folder: Path) -> None:
    writer = Writer(Journal(folder))
    writer.start()
    spec = writer.spec("phase_1", "AR-only", Role.PHASE1, test=True)
    writer.begin("phase_1", [spec])
    writer.arm(spec, 0.3)
    writer.journal.append(
        event_of(
            TestJudged,
            arm="predictions",
            step="phase_1",
            name="InfoNCE+AR (predictions)",
            role=Role.PHASE1,
            evaluation=evaluation("test", 0.2),
            epochs=0,
        )
    )
    runs = stored(track(folder, writer.journal.events))
    run = runs["phase_1: InfoNCE+AR (predictions)"]
    assert (run.info.status, run.data.metrics["test.r_at_5"]) == ("FINISHED", 0.1)


# --- data sets and models ------------------------------------------------------------------------


def test_the_data_set_is_an_input_of_every_run(folder: Path) -> None:
    tracker = track(folder, whole_journal(folder))
    assert tracker.problem is None
    used = {}
    for name, run in stored(tracker).items():
        (item,) = run.inputs.dataset_inputs
        assert (item.dataset.name, item.dataset.digest) == ("my bank", "feedfacecafe")
        assert json.loads(item.dataset.source) == {"uri": "my bank"}
        assert json.loads(item.dataset.profile)["windows.train"] == 80
        used[name] = {tag.key: tag.value for tag in item.tags}["mlflow.data.context"]
    assert used.pop("my runs/1") == "triage"
    assert {used.pop(name) for name in LADDER} == {"evaluation"}
    assert set(used.values()) == {"training"}


def test_the_confirmed_model_is_registered_and_predicts_next_vectors(folder: Path) -> None:
    import mlflow

    events = whole_journal(folder)
    predictor = write_checkpoint(folder, CONFIRMED)
    write_checkpoint(folder, "phase_1-ar-only")
    tracker = track(folder, events)
    assert tracker.problem is None
    client = client_of(tracker)
    runs = stored(tracker)
    kept = {name: run.outputs.model_outputs for name, run in runs.items() if run.outputs}
    assert {name for name, models in kept.items() if models} == {
        "phase_1: AR-only",
        "Confirm temperature: tau 0.2",
    }
    (version,) = client.search_model_versions(f"name = '{REGISTERED}'")
    assert client.get_model_version_by_alias(REGISTERED, "confirmed").version == version.version
    assert version.run_id == runs["Confirm temperature: tau 0.2"].info.run_id
    assert "R@5 0.220" in version.description

    (output,) = kept["Confirm temperature: tau 0.2"]
    logged = client.get_logged_model(output.model_id)
    assert {m.key: m.value for m in logged.metrics}["test.r_at_5"] == pytest.approx(0.22)
    files = Path(logged.artifact_location.removeprefix("file://").replace("%20", " "))
    assert not [*files.rglob("*.pt"), *files.rglob("*.pkl"), *files.rglob("*.py")]
    with mock.patch("pickle.load", side_effect=AssertionError("unpickled")):
        model = mlflow.pyfunc.load_model(str(files))
    contexts = example(RECIPE.context_length, WIDTH)
    np.testing.assert_array_equal(model.input_example, contexts)
    with torch.no_grad():
        wanted = predictor.model(torch.from_numpy(contexts)).numpy()
    found = model.predict(contexts)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    with pytest.raises(UsageError, match=r"of length 2 to 2.*divide each"):
        model.predict(2 * contexts)
    with pytest.raises(mlflow.exceptions.MlflowException, match="shape"):
        model.predict(contexts[:, :-1])
    with pytest.raises(UsageError, match="last 5 vectors"):
        _load_pyfunc(str(files / "data" / "checkpoint")).predict(contexts[:, :-1])


def test_a_model_is_kept_once_and_an_older_run_takes_no_alias_back(folder: Path) -> None:
    events = whole_journal(folder)
    write_checkpoint(folder, CONFIRMED)
    for _ in range(2):
        tracker = track(folder, events)
        (folder / "mlflow.json").unlink()
    other = folder.parent / "2"
    newer = whole_journal(other)
    write_checkpoint(other, CONFIRMED)
    track(other, newer)
    tracker = track(folder, events)
    assert tracker.problem is None
    client = client_of(tracker)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    assert len(client.search_logged_models([experiment])) == 2
    assert len(client.search_model_versions(f"name = '{REGISTERED}'")) == 2
    assert client.get_model_version_by_alias(REGISTERED, "confirmed").version == 2


def test_a_model_that_is_refused_leaves_the_numbers_and_is_sent_later(folder: Path) -> None:
    from mlflow import MlflowClient

    events = whole_journal(folder)
    write_checkpoint(folder, CONFIRMED)
    refused = mock.patch.object(MlflowClient, "log_model_artifacts", side_effect=OSError("full"))
    with refused:
        tracker = track(folder, events)
    assert "full" in str(tracker.problem)
    assert f"lvm track {shlex.quote(str(folder))}" in str(tracker.problem)
    assert {n: r.info.status for n, r in stored(tracker).items()} == {
        "my runs/1": "FINISHED",
        **CHILDREN,
    }
    tracker = track(folder, events)
    assert tracker.problem is None
    assert client_of(tracker).get_model_version_by_alias(REGISTERED, "confirmed").version == 1


def test_a_blocked_run_names_what_blocks_it(folder: Path) -> None:
    writer = Writer(Journal(folder))
    writer.start(fingerprint=None)
    blocking = {**FINDING, "code": "KEYS_WRONG", "severity": "block", "next": "lvm audit --repair"}
    audit = {**AUDIT, "verdict": "BLOCKED", "findings": [blocking, FINDING]}
    writer.journal.append(event_of(Audited, audit=audit))
    writer.journal.append(
        event_of(
            Decision,
            action="Stop",
            verdict="BLOCKED",
            cause=["KEYS_WRONG"],
            since="the audit found KEYS_WRONG",
        )
    )
    tracker = Tracker(folder)
    tracker.close(writer.journal.events, write_documents(folder))
    assert tracker.problem is None
    client = client_of(tracker)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    (run,) = client.search_runs([experiment], "tags.verdict = 'BLOCKED'")
    assert run.info.status == "FINISHED"
    tags = run.data.tags
    assert (tags["audit"], tags["cause"]) == ("BLOCKED", "KEYS_WRONG")
    assert tags["audit.codes"] == "KEYS_WRONG, DUPLICATES"
    assert tags["audit.KEYS_WRONG"] == "block: 4.3% of rows repeat another row"
    assert "lvm audit --repair" in tags["mlflow.note.content"]
    assert run.inputs.dataset_inputs == []  # data that was never read has no fingerprint


# --- again, in parts, and after an interruption --------------------------------------------------


def test_writing_again_makes_no_second_run_and_no_second_point(folder: Path) -> None:
    events = whole_journal(folder)
    document = write_documents(folder)
    tracker = Tracker(folder)
    for _ in range(2):
        synced(tracker, events)
        tracker.close(events, document)
    first = {name: run.info.run_id for name, run in stored(tracker).items()}
    track(folder, events)  # another process
    (folder / "mlflow.json").unlink()
    track(folder, events)  # which has lost its memory
    (folder / "mlflow.json").write_text("{")
    tracker = track(folder, events)  # or holds nonsense
    assert tracker.problem is None
    runs = stored(tracker)
    assert {name: run.info.run_id for name, run in runs.items()} == first
    for view in children(events):
        assert_equal(tracker, runs, view)
    parent = parent_view(events, document, closed=True)
    assert points(tracker, runs["my runs/1"]) == set(parent.metrics)


def test_an_unchanged_run_is_not_written_again(folder: Path) -> None:
    events = whole_journal(folder)
    track(folder, events)
    with mock.patch("mlflow.MlflowClient.log_batch", side_effect=AssertionError("wrote")):
        assert track(folder, events).problem is None


def test_syncing_event_by_event_ends_like_writing_at_once(folder: Path) -> None:
    events = whole_journal(folder)
    tracker = Tracker(folder)
    for count in range(1, len(events) + 1, 5):
        synced(tracker, events[:count])
        assert tracker.problem is None
        ended = {e.name for e in events[:count] if isinstance(e, ArmEnded)}
        runs = stored(tracker)
        assert runs.pop("my runs/1").info.status == "RUNNING"
        measured = LADDER if any(isinstance(e, Ladder) for e in events[:count]) else {}
        assert {name for name in runs if name.startswith("Ladder")} == set(measured)
        assert {name.partition(": ")[2] for name in runs.keys() - LADDER} == ended
        assert "RUNNING" not in {run.info.status for run in runs.values()}
    tracker.close(events, None)
    runs = stored(tracker)
    assert runs["my runs/1"].info.status == "FINISHED"
    views = children(events)
    assert len(views) == len(CHILDREN)
    for view in views:
        assert_equal(tracker, runs, view)


def test_an_interrupted_triage_goes_on_in_the_same_runs(folder: Path) -> None:
    writer = Writer(Journal(folder))
    writer.start()
    writer.phase_1()
    specs = writer.begin_temperature()
    writer.epoch(specs[2], 1, 0.2)
    tracker = Tracker(folder)
    synced(tracker, writer.journal.events)
    writer.journal.append(Interrupted())
    tracker.close(writer.journal.events, None)
    before = stored(tracker)
    assert before["my runs/1"].info.status == "KILLED"
    assert before["Step 1, temperature: tau 0.5"].info.status == "KILLED"
    assert before["Step 1, temperature: tau 0.5"].data.metrics["eval_cosine"] == pytest.approx(0.21)
    assert "Step 1, temperature: control" not in before  # it had not begun

    writer.journal.append(Resumed(command="python tune_jobs/triage.py --resume runs/1"))
    tracker = Tracker(folder)
    synced(tracker, writer.journal.events)
    assert stored(tracker)["my runs/1"].info.status == "RUNNING"
    writer.temperature(specs)
    writer.confirm()
    writer.stop()
    synced(tracker, writer.journal.events)
    tracker.close(writer.journal.events, write_documents(folder))
    after = stored(tracker)
    assert {name: after[name].info.status for name in CHILDREN} == CHILDREN
    assert after["my runs/1"].info.status == "FINISHED"
    assert {n: r.info.run_id for n, r in before.items()}.items() <= {
        n: r.info.run_id for n, r in after.items()
    }.items()


def test_a_triage_of_more_runs_than_a_page_goes_on_in_the_same_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "PAGE", 4)
    events = whole_journal(folder)
    track(folder, events)
    before = stored(Tracker(folder))
    assert len(before) == 1 + len(CHILDREN) > 2 * store.PAGE
    (folder / "mlflow.json").unlink()  # what this process wrote, the next one asks the store
    track(folder, events)
    after = stored(Tracker(folder))
    assert {r.info.run_id for r in after.values()} == {r.info.run_id for r in before.values()}


def test_a_triage_that_broke_is_failed(folder: Path) -> None:
    writer = Writer(Journal(folder))
    writer.start()
    writer.phase_1()
    assert stored(track(folder, writer.journal.events))["my runs/1"].info.status == "FAILED"


def test_two_triages_share_a_store_and_not_their_runs(folder: Path) -> None:
    other = folder.parent / "2"
    track(folder, whole_journal(folder))
    tracker = track(other, whole_journal(other))
    client = client_of(tracker)
    runs = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert len(runs) == 2 * (1 + len(CHILDREN))
    assert len({run.data.tags["lvm.triage"] for run in runs}) == 2


# --- orphans -------------------------------------------------------------------------------------


def test_the_sweep_ends_runs_of_dead_processes_alone(folder: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    me, here = psutil.Process(), socket.gethostname()
    owners = {
        "dead": (gone.pid, 0.0, here),
        "number reused": (me.pid, me.create_time() - 3600, here),
        "alive": (me.pid, me.create_time(), here),
        "elsewhere": (gone.pid, 0.0, "another-host"),
    }
    tracker = Tracker(folder)
    client = client_of(tracker)
    experiment = client.create_experiment(EXPERIMENT, artifact_location=folder.as_uri())
    for name, (pid, started, host) in owners.items():
        tags = {"lvm.pid": str(pid), "lvm.pid_started": str(started), "lvm.host": host}
        client.create_run(experiment, run_name=name, tags=tags)
    client.create_run(experiment, run_name="somebody's own")
    tracker._attempt(tracker._connect)
    assert tracker.problem is None
    assert {name: run.info.status for name, run in stored(tracker).items()} == {
        "dead": "KILLED",
        "number reused": "KILLED",
        "alive": "RUNNING",
        "elsewhere": "RUNNING",
        "somebody's own": "RUNNING",
    }


# --- making the store ----------------------------------------------------------------------------


def test_a_store_is_made_whole_or_not_at_all(
    folder: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(tracking, "PATIENCE", 0)
    store = folder.parent / "mlflow.db"
    store.unlink()
    real = mlflow.MlflowClient

    def cut_short(tracking_uri: str, **_: Any) -> Any:
        Path(tracking_uri.removeprefix("sqlite:///")).write_bytes(b"half of a store")
        raise OSError("killed")

    tracker = Tracker(folder)
    with mock.patch.object(mlflow, "MlflowClient", cut_short):
        tracker._attempt(tracker._connect)
    assert "killed" in str(tracker.problem)
    assert [path.name for path in folder.parent.iterdir()] == ["1"]

    def quick(tracking_uri: str, **others: Any) -> Any:
        path = Path(tracking_uri.removeprefix("sqlite:///"))
        if not path.exists():
            shutil.copy(empty_store, path)
        return real(tracking_uri=tracking_uri, **others)

    with mock.patch.object(mlflow, "MlflowClient", quick):
        tracker._attempt(tracker._connect)
    assert tracker.problem is None
    assert sorted(path.name for path in folder.parent.iterdir()) == ["1", "mlflow.db"]


def test_a_store_that_another_process_makes_meanwhile_is_kept(
    folder: Path, empty_store: Path
) -> None:
    import mlflow

    store = folder.parent / "mlflow.db"
    store.unlink()
    real = mlflow.MlflowClient

    def slower(tracking_uri: str, **others: Any) -> Any:
        if not store.exists():
            shutil.copy(empty_store, store)
            real(tracking_uri=f"sqlite:///{store}").create_experiment("of the other process")
            shutil.copy(empty_store, tracking_uri.removeprefix("sqlite:///"))
        return real(tracking_uri=tracking_uri, **others)

    tracker = Tracker(folder)
    with mock.patch.object(mlflow, "MlflowClient", slower):
        tracker._attempt(tracker._connect)
    assert tracker.problem is None
    names = {e.name for e in client_of(tracker).search_experiments()}
    assert names == {"Default", EXPERIMENT, "of the other process"}


# --- a store that does not answer ----------------------------------------------------------------


def test_an_unreachable_server_is_a_problem_in_words(folder: Path, capfd: Any) -> None:
    events = whole_journal(folder)
    tracker = Tracker(folder, "http://me:secret@127.0.0.1:9")
    started = time.monotonic()
    tracker._attempt(tracker._connect)
    synced(tracker, events)
    tracker.close(events, write_documents(folder))
    assert time.monotonic() - started < 15
    assert tracker.problem is not None
    assert tracker.problem.startswith("MLflow at http://***@127.0.0.1:9 did not accept")
    assert "secret" not in tracker.problem
    assert "\n" not in tracker.problem
    assert capfd.readouterr() == ("", "")


def test_a_failure_is_not_tried_again_at_once(folder: Path) -> None:
    tracker = Tracker(folder, "http://127.0.0.1:9")
    tracker._attempt(tracker._connect)
    with mock.patch.object(tracker, "_connect", side_effect=AssertionError("tried")) as connect:
        synced(tracker, whole_journal(folder))
        assert connect.call_count == 0
        tracker._retry_at = 0.0  # the pause is over
        synced(tracker, read_run(folder))
        assert connect.call_count == 1


def test_a_store_that_comes_back_receives_all(
    folder: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(tracking, "PATIENCE", 0)
    events = whole_journal(folder)
    place = folder.parent / "mounted later"
    place.write_text("a file where a folder should be")
    tracker = Tracker(folder, f"sqlite:///{place}/mlflow.db")
    synced(tracker, events)
    assert tracker.problem is not None
    place.unlink()
    place.mkdir()
    shutil.copy(empty_store, place / "mlflow.db")
    synced(tracker, events)
    assert tracker.problem is None
    assert set(stored(tracker)) == {"my runs/1", *CHILDREN}


def test_a_store_that_refuses_halfway_is_caught_up_with(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(tracking, "PATIENCE", 0)
    events = whole_journal(folder)
    tracker = Tracker(folder)
    real, calls = MlflowClient.log_batch, iter(range(100))

    def flaky(self: Any, *args: Any, **kwargs: Any) -> Any:
        if next(calls) == 3:
            raise OSError("the database is locked")
        return real(self, *args, **kwargs)

    with mock.patch.object(MlflowClient, "log_batch", flaky):
        tracker.close(events, None)
        assert "the database is locked" in str(tracker.problem)
        tracker.close(events, None)
    assert tracker.problem is None
    runs = stored(tracker)
    assert {name: run.info.status for name, run in runs.items()} == {
        "my runs/1": "FINISHED",
        **CHILDREN,
    }
    for view in children(events):
        assert_equal(tracker, runs, view)


def test_a_parent_that_a_person_deleted_is_made_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(tracking, "PATIENCE", 0)
    events = whole_journal(folder)
    tracker = Tracker(folder)
    synced(tracker, events)
    gone = stored(tracker)["my runs/1"].info.run_id
    client_of(tracker).delete_run(gone)
    tracker.close(events, None)
    assert gone in str(tracker.problem)
    tracker.close(events, None)
    assert tracker.problem is None
    runs = stored(tracker)
    parent = runs.pop("my runs/1").info.run_id
    assert set(runs) == set(CHILDREN)
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent}


# --- beside a running triage ---------------------------------------------------------------------


def test_a_sync_returns_at_once_and_the_last_one_is_written(folder: Path) -> None:
    events = whole_journal(folder)
    tracker = Tracker(folder)
    entered, leave = threading.Event(), threading.Event()
    connect = tracker._connect

    def slow() -> Any:
        entered.set()
        assert leave.wait(30)
        return connect()

    with mock.patch.object(tracker, "_connect", slow):
        tracker.sync(events[:3])
        assert entered.wait(30)
        for count in range(4, len(events) + 1):  # would wait for `leave` for ever if it waited
            tracker.sync(events[:count])
        leave.set()
        tracker.wait()
    assert tracker.problem is None
    assert set(stored(tracker)) == {"my runs/1", *CHILDREN}


def test_the_settings_of_the_person_stay(folder: Path) -> None:
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "77"
    os.environ["MLFLOW_TRACKING_URI"] = "http://tracking.example:5000"
    tracker = Tracker(folder)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"
    assert tracker.uri == "http://tracking.example:5000"
    assert tracker.ui_command().endswith("-m webbrowser http://tracking.example:5000")
    assert Tracker(folder, "sqlite:///mine.db").uri == f"sqlite:///{Path.cwd()}/mine.db"
    hidden = Tracker(folder, "postgresql://me:secret@db.example/mlflow").ui_command()
    assert '--backend-store-uri "$MLFLOW_TRACKING_URI" ' in hidden


def test_without_mlflow_the_extra_is_named(folder: Path) -> None:
    with (
        mock.patch("importlib.util.find_spec", return_value=None),
        pytest.raises(MissingExtraError, match="pip install mlflow"),
    ):
        Tracker(folder)


@pytest.mark.parametrize(
    ("ours", "place"),
    [
        (mlflow_api.Mlflow, ""),
        (mlflow_api.Client, "MlflowClient"),
        (mlflow_api.Entities, "entities"),
        (mlflow_api.Models, "models"),
        (mlflow_api.Types, "types"),
        (mlflow_api.Pyfunc, "pyfunc"),
    ],
)
def test_the_protocols_name_what_mlflow_has(ours: type, place: str) -> None:
    package = tracking.import_mlflow()
    theirs = getattr(package, place) if place else package
    for name in (name for name in vars(ours) if inspect.isfunction(vars(ours)[name])):
        if name.startswith("_"):
            continue
        declared = list(inspect.signature(vars(ours)[name]).parameters.values())
        known = inspect.signature(getattr(theirs, name)).parameters
        assert {p.name for p in declared} - {"self"} <= set(known), name
        positional = [p.name for p in declared[1:] if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert positional == [n for n in known if n != "self"][: len(positional)], name


def test_metric_names_are_ones_that_mlflow_takes() -> None:
    view = RunView(key="k", name="n", status="FINISHED", started=0, ended=0)
    values = {"a@5": 1, "b+c": {"é": 0.5}, "text": "x", "flag": True, "nan": float("nan")}
    view.add_metrics("x.", {**values, "none": None}, at=2.0, step=3)
    assert view.metrics == [("x.a_5", 1.0, 2000, 3), ("x.b_c._", 0.5, 2000, 3)]


GUARDED = """
import sys
import time
from pathlib import Path

asked = []

def hook(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        asked.append((event, args[-1] if event == "socket.connect" else args[:2]))
        raise OSError("no request may leave this process")
    if event == "subprocess.Popen" and "git" in str(args[0]):
        asked.append((event, args[0]))

sys.addaudithook(hook)
from lvm.views.tracking import Tracker
from lvm.triage.journal import read_run

assert "mlflow" not in sys.modules
folder = Path(sys.argv[1])
tracker = Tracker(folder)
assert "mlflow" not in sys.modules
tracker.close(read_run(folder), None)
assert tracker.problem is None, tracker.problem
time.sleep(1)  # MLflow would ask from a thread of its own
assert not asked, asked
print("written")
"""


def test_nothing_leaves_the_machine_and_nothing_is_printed(folder: Path) -> None:
    whole_journal(folder)
    (folder.parent / "mlflow.db").unlink()  # making the tables is when MLflow likes to talk
    # MLflow keeps still by itself under a test runner and in CI; a person's shell is neither.
    hushing = ("PYTEST_", "CI", "GITHUB_", "MLFLOW_", "DO_NOT_TRACK")
    plain = {k: v for k, v in os.environ.items() if not k.startswith(hushing)}
    done = subprocess.run(
        [sys.executable, "-c", GUARDED, str(folder)],
        env=plain,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "written\n", "")


# --- the browser's side --------------------------------------------------------------------------


@pytest.fixture
def server(folder: Path, tmp_path: Path) -> Iterator[Server]:
    """The UI as a person starts it, on a free port."""
    tracker = track(folder, whole_journal(folder))
    port = free_port()
    words = shlex.split(tracker.ui_command())
    assert words[-2:] == ["--port", "5000"]
    with serving([*words[:-1], str(port)], port, tmp_path) as started:
        yield started


def test_the_ui_command_serves_the_store_on_loopback(server: Server, folder: Path) -> None:
    body = json.loads(server.ask("ajax-api/2.0/mlflow/experiments/search", {"max_results": 10}))
    ids = {e["name"]: e["experiment_id"] for e in body["experiments"]}
    found = server.ask(
        "ajax-api/2.0/mlflow/runs/search",
        {"experiment_ids": [ids[EXPERIMENT]], "filter": "tags.verdict = 'FIXED'"},
    )
    (parent,) = json.loads(found)["runs"]
    assert parent["info"]["run_name"] == "my runs/1"
    kept = server.ask(f"get-artifact?path=journal.jsonl&run_uuid={parent['info']['run_id']}")
    assert kept == (folder / "journal.jsonl").read_bytes()
    family = [psutil.Process(server.process.pid)]
    family += family[0].children(recursive=True)
    listening = {
        c.laddr for p in family for c in p.net_connections() if c.status == psutil.CONN_LISTEN
    }
    assert {(str(a.ip), int(a.port)) for a in listening} == {("127.0.0.1", server.port)}


def test_a_shared_server_that_goes_down_receives_the_rest_when_it_is_back(
    folder: Path, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(tracking, "PATIENCE", 0)
    shutil.copy(empty_store, tmp_path / "shared.db")
    port = free_port()
    words = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--workers",
        "1",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--backend-store-uri",
        f"sqlite:///{tmp_path / 'shared.db'}",
        "--artifacts-destination",
        str(tmp_path / "shared artifacts"),
    ]
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    events = whole_journal(folder)
    write_checkpoint(folder, CONFIRMED)
    tracker = Tracker(folder)
    judged = list(events).index(events.last(Phase1Judged)) + 1
    with serving(words, port, tmp_path):
        synced(tracker, events[:judged])
        assert tracker.problem is None
    synced(tracker, events)
    assert f"lvm track {shlex.quote(str(folder))}" in str(tracker.problem)
    with serving(words, port, tmp_path):
        tracker.close(events, write_documents(folder))
        assert tracker.problem is None
        assert {n: r.info.status for n, r in stored(tracker).items()} == {
            "my runs/1": "FINISHED",
            **CHILDREN,
        }
        client = client_of(tracker)
        version = client.get_model_version_by_alias(REGISTERED, "confirmed")
        assert version.source.startswith("mlflow-artifacts:/")
    weights = [*(tmp_path / "shared artifacts").rglob("model.safetensors")]
    ours = folder / "arms" / CONFIRMED / "checkpoint" / "model.safetensors"
    assert [path.read_bytes() for path in weights] == [ours.read_bytes()]
