"""The kinds of events: what is refused, and that every view can tell what is not."""

from __future__ import annotations

import json
import random
from pathlib import Path

import fuzz_journal as fuzz
import pytest
import tracked
from frozen_runs import FROZEN, RUNS

from lvm.core.errors import ResumeError
from lvm.core.records import to_plain
from lvm.triage.events import KINDS, NotToldError, told
from lvm.triage.journal import FILE_NAME, read_run

LOOKED_AT = 40  # accepted changes of a run that every view is asked to tell; thousands were tried


@pytest.mark.parametrize("name", RUNS)
def test_every_event_of_a_kept_run_is_of_a_known_kind(name: str):
    for event in fuzz.lines_of(FROZEN / name):
        assert isinstance(told(event), KINDS[event["event"]])


def test_the_journal_that_mlflow_is_tried_with_is_one(tmp_path: Path):
    events = tracked.whole_journal(tmp_path)
    assert [told(to_plain(event)) for event in events] == list(events)


@pytest.mark.parametrize("name", ["blocked", "crashed", "resumed_seeds"])
def test_a_journal_with_one_thing_wrong_is_told_or_refused(name: str, tmp_path: Path):
    events = fuzz.lines_of(FROZEN / name)
    lines = [json.dumps(event) for event in events]
    accepted, refused = [], 0
    for number, path, value in fuzz.mutations(events):
        wrong = fuzz.changed(events[number], path, value)
        try:
            told(wrong)
        except NotToldError:
            refused += 1
        else:
            accepted.append((number, wrong))
    assert refused > 3 * len(accepted)
    for number, wrong in random.Random(0).sample(accepted, LOOKED_AT):
        assert fuzz.read([*lines[:number], json.dumps(wrong), *lines[number + 1 :]], tmp_path)


@pytest.mark.parametrize(
    ("kind", "path", "value", "words"),
    [
        ("epoch", ("epoch",), "two", "$.epoch"),
        ("arm_judged", ("evaluation", "masked", "r_at_5"), fuzz.GONE, "masked.r_at_5"),
        ("phase_1_judged", ("gates", 0, "estimate", "value"), "high", "$.gates[0].estimate.value"),
        ("run_started", ("config", "recipe", "training", "epochs"), 0, "training.epochs"),
        ("decision", ("since",), fuzz.GONE, "since"),
    ],
)
def test_a_refusal_names_line_kind_and_field(kind, path, value, words, tmp_path: Path):
    events = fuzz.lines_of(FROZEN / "crashed")
    number = next(n for n, event in enumerate(events) if event["event"] == kind)
    events[number] = fuzz.changed(events[number], path, value)
    (tmp_path / FILE_NAME).write_text("".join(json.dumps(event) + "\n" for event in events))
    with pytest.raises(ResumeError) as refused:
        read_run(tmp_path)
    for word in (f"line {number + 1} ({kind})", words):
        assert word in str(refused.value)


def test_a_kind_that_this_version_does_not_know_is_left_alone():
    assert told({"event": "tea", "at": 0.0, "sugar": []}) is None


def test_a_recipe_of_an_earlier_version_has_every_key_of_this_one(tmp_path: Path):
    events = fuzz.lines_of(FROZEN / "crashed")
    del events[0]["config"]["recipe"]["model"]["output_dropout"]
    (tmp_path / FILE_NAME).write_text("".join(json.dumps(event) + "\n" for event in events))
    assert read_run(tmp_path).started.config.recipe.model.output_dropout == 0.0
