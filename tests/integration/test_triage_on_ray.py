"""A whole triage on Ray: exit status, verdict, reports, journal, MLflow; the same without Ray."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from lvm.core.config.run import RunConfig
from lvm.core.metrics import METRICS
from lvm.core.provenance import code_version
from lvm.core.records import RunVerdict, StopReason, to_plain
from lvm.data.load import DataRequest, load_dataset
from lvm.jobs.presets import load_config
from lvm.triage.events import ArmEnded, ArmJudged, Confirmed, Decision, Epoch, Rung, StepStarted
from lvm.triage.journal import Journal
from lvm.triage.local import LocalExecutor
from lvm.triage.request import Request
from lvm.triage.state import RunState
from lvm.triage.step import steps_in_order
from lvm.triage.triage import Triage
from lvm.views.tracking import EXPERIMENT

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(240),  # the first test waits for Ray and for the whole triage
    # MLflow 3.17 maps two of its tables in a way that SQLAlchemy 2.1 will drop.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

STEPS = ["phase_1", "projection_head", "temperature", "confirm_temperature", "seed_1"]
DDP_TOLERANCE = 1e-4  # two workers add the gradients of their halves in another order than one
SCHEMA = {
    "schema",
    "verdict",
    "cause",
    "arm",
    "codes",
    "phase1",
    "steps",
    "ladder",
    "compute",
    "resume",
}


@pytest.fixture(scope="module")
def config(world) -> RunConfig:
    return load_config("laptop", world.recipe)


@pytest.fixture(scope="module")
def local(world, config, tmp_path_factory: pytest.TempPathFactory) -> Journal:
    """The journal of the same request carried out in this process."""
    folder = tmp_path_factory.mktemp("local")
    request = Request(
        config=config,
        out=folder,
        steps=steps_in_order(reported_only=True),
        code=code_version(),
        num_seeds=2,
        reported_only=True,
    )
    dataset, _ = load_dataset(DataRequest(bank=world.bank), config.recipe.context_length)
    journal = Journal(folder)
    Triage(request, dataset, LocalExecutor(), journal, journal.append).run()
    return journal


@pytest.fixture(scope="module")
def document(finished) -> dict[str, Any]:
    return json.loads((finished.folder / "verdict.json").read_text())


def test_the_exit_status_is_that_of_the_verdict(finished, document):
    assert finished.status == RunVerdict(document["verdict"]).exit_status == 0
    assert document["verdict"] == "FIXED"
    assert document["cause"] == "projection_head+temperature"
    assert finished.printed.startswith("FIXED by projection_head+temperature: temperature 0.05")


def test_the_verdict_file_has_the_promised_keys(finished, document):
    assert document["schema"] == 1
    assert document.keys() >= SCHEMA
    assert document["compute"].keys() >= {"train_seconds", "trials", "saved_seconds"}
    assert document["compute"]["trials"] == len({event.arm for event in finished.of(Epoch)})
    assert [step["step"] for step in document["steps"]] == STEPS[1:3]
    assert document["arm"]["name"] == "temperature 0.05"
    assert (finished.folder / document["arm"]["checkpoint"] / "model.safetensors").is_file()
    for rung in document["ladder"].values():
        assert rung["masked"].keys() <= set(METRICS.names())


def test_the_reports_start_with_the_verdict(finished, document):
    text = (finished.folder / "report.md").read_text()
    html = (finished.folder / "report.html").read_text()
    words = re.sub(r"<[^>]+>", " ", html[html.index("<body") :])
    for shown in (text, words):
        assert "FIXED" in shown[:200]
        sentence = shown.index(f"{document['verdict']} by {document['cause']}")
        others = (shown.find(f"Step {number}") for number in (1, 2))
        assert all(sentence < place for place in others if place >= 0)


def test_every_arm_that_started_ended_with_a_reason(finished):
    started = {(step.step, arm.id) for step in finished.of(StepStarted) for arm in step.arms}
    ended = [(event.step, event.arm) for event in finished.of(ArmEnded)]
    assert sorted(ended) == sorted(started)
    assert [step.step for step in finished.of(StepStarted)] == STEPS
    reasons = {event.reason for event in finished.of(ArmEnded)}
    assert reasons <= {str(reason) for reason in StopReason}
    assert reasons == {"finished", "pruned", "gate held"}


def test_no_arm_is_pruned_before_all_have_passed_the_first_rung(finished, config):
    """Whatever arrives first: a rung is decided when every arm of the step stands on it."""
    events, pruned = finished.events, 0
    for place, event in enumerate(events):
        if isinstance(event, ArmEnded) and event.reason == "pruned":
            pruned += 1
            arms = _trained_arms(events, event.step)
            passed = {(e.arm, e.epoch) for e in events[:place] if isinstance(e, Epoch)}
            assert {(arm, config.schedule.first_rung) for arm in arms} <= passed
            assert event.arm in arms
    assert pruned == 3  # one of step 1, two of step 2


def _trained_arms(events: RunState, step: str) -> list[str]:
    started = events.of(StepStarted, step=step)[0]
    return [arm.id for arm in started.arms if arm.source is None]


def test_the_cutoff_of_a_rung_follows_from_its_values(finished):
    """The journal keeps the numbers that a rung was decided on, and they are those of the arms."""
    epochs = {(e.arm, e.epoch): e.eval_cosine for e in finished.of(Epoch)}
    rungs = finished.of(Rung)
    assert any(rung.pruned for rung in rungs)
    for rung in rungs:
        assert rung.values == {arm: epochs[arm, rung.epoch] for arm in rung.values}
        for arm in rung.pruned:
            assert rung.values[arm] < rung.cutoff


def test_the_fix_is_confirmed_by_two_workers(finished, config):
    (confirmation,) = finished.of(StepStarted)[-2].arms
    assert confirmation.role == "confirm"
    assert confirmation.workers == config.schedule.confirm_workers == 2
    assert confirmation.recipe.objective.space == "raw"  # carried from step 1
    assert confirmation.recipe.objective.temperature == 0.05
    own = finished.folder / confirmation.folder / "ray_train"
    assert list(own.iterdir())  # Ray Train keeps its state there


def test_without_ray_every_number_is_the_same(finished, local: Journal):
    """The executors decide nothing: this process and Ray's trials reach equal bits."""
    on_ray, here = _judged(finished.events), _judged(local.events)
    assert on_ray.keys() == here.keys()
    ((_, arm),) = [key for key in on_ray if key[0].startswith("confirm_")]
    by_two_workers = {key for key in on_ray if key[0].startswith(("confirm_", "seed_"))}
    by_two_workers = {key for key in by_two_workers if key[1] == arm}
    assert len(by_two_workers) == 2
    for key in on_ray.keys() - by_two_workers:
        assert on_ray[key] == here[key], key
    for key in by_two_workers:
        for seen, wanted in zip(_numbers(on_ray[key]), _numbers(here[key]), strict=True):
            assert seen == pytest.approx(wanted, abs=DDP_TOLERANCE)


def test_repeated_seeds_are_said_everywhere(finished, document):
    """The flag reaches the trials, the verdict, the report, the screen and MLflow."""
    (arm,) = finished.of(Confirmed)
    assert document["seeds"]["seeds"] == [0, 1]
    assert list(document["seeds"]["models"]) == ["AR-only", "InfoNCE+AR", arm.arm]
    for name, model in document["seeds"]["models"].items():
        first, again = (result["mrr"] for result in model["per_seed"])
        assert first != again, name
    assert "per seed" in finished.printed
    assert "Effect of the seed" in (finished.folder / "report.html").read_text()


def test_without_ray_the_verdict_is_the_same(finished, local: Journal):
    def decisions(events: RunState) -> list[Decision]:
        return [replace(e, at=0.0) for e in events.of(Decision)]

    assert decisions(finished.events) == decisions(local.events)
    assert decisions(local.events)[-1].verdict == "FIXED"


def _judged(events: RunState) -> dict[tuple[str, str], dict[str, Any]]:
    """What was measured on dev, by step and name; epochs that an arm ran too far do not count."""
    kept = ("reason", "epoch", "evaluation", "stage", "gains")
    return {
        (e.step, e.name): {key: to_plain(getattr(e, key)) for key in kept}
        for e in events.of(ArmJudged)
    }


def _numbers(value: Any) -> Iterator[float]:
    """Every number in a nested record, in order."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, (int, float)):
        assert math.isfinite(value)
        yield float(value)


def test_mlflow_holds_one_parent_and_a_child_per_arm_and_row_of_the_ladder(
    world, finished, document
):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{world.runs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.data.tags.get("folder") == str(finished.folder)]
    children = [
        run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    ]
    arms = [(step.step, arm.id) for step in finished.of(StepStarted) for arm in step.arms]
    arms += [("ladder", name) for name in document["ladder"]]
    assert sorted((run.data.tags["step"], run.data.tags["arm"]) for run in children) == sorted(arms)
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    assert parent.data.tags["verdict"] == document["verdict"]
    (gain,) = [
        c
        for c in document["seeds"]["comparisons"]
        if c["over"] == "InfoNCE+AR" and c["metric"] == "mrr"
    ]
    name = f"seeds.{gain['model']} over InfoNCE_AR.mrr.value"
    assert parent.data.metrics[name] == pytest.approx(gain["estimate"]["value"])
    for run in children:
        assert run.data.metrics["dev.r_at_5"] >= 0
