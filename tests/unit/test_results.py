"""What a job returns shows its answer first, as text and as HTML, for every kind of end."""

from __future__ import annotations

from dataclasses import replace
from html import escape
from pathlib import Path

import pytest

from lvm.core.records import RunVerdict
from lvm.jobs.results import TriageResult
from lvm.triage.journal import read_run
from lvm.triage.verdict import build_verdict

FROZEN = Path(__file__).resolve().parents[1] / "frozen"


def result_of(name: str) -> TriageResult:
    folder = FROZEN / name
    events = read_run(folder)
    summary = build_verdict(events, resume="lvm triage --resume run")
    return TriageResult(summary=summary, folder=folder, report=folder / "report.md", events=events)


@pytest.mark.parametrize("name", ["all_steps", "resumed_seeds", "sample", "extended"])
def test_a_run_shows_its_headline_its_models_and_its_report(name: str) -> None:
    result = result_of(name)
    text, page = str(result), result._repr_html_()
    lead = result.summary.judged.sentence or result.summary.headline
    assert text.startswith(lead)
    assert page.startswith(f'<div><p class="lead">{escape(lead)}')
    words = " ".join(text.split())
    for model in result.summary.models:
        assert model.name.split(" + ")[0] in words  # a terminal wraps a long name
        assert escape(model.name) in page
    assert str(result.report) in page
    assert repr(result) == text
    assert result.exit_status == result.verdict.exit_status


def test_what_mlflow_did_not_take_is_shown() -> None:
    result = replace(result_of("sample"), not_uploaded="the store is full")
    assert "not uploaded to MLflow: the store is full" in str(result)
    assert "not uploaded to MLflow: the store is full" in result._repr_html_()


def test_a_blocked_run_shows_what_blocks() -> None:
    result = result_of("blocked")
    assert (result.verdict, result.exit_status) == (RunVerdict.BLOCKED, 3)
    assert str(result).startswith(f"BLOCKED: {result.summary.cause}")
    assert f"BLOCKED: {result.summary.cause}" in result._repr_html_()[:100]


def test_the_model_of_a_fix_lies_in_the_folder_of_its_run() -> None:
    fixed = result_of("sample")
    assert fixed.verdict is RunVerdict.FIXED
    assert fixed.summary.arm is not None
    assert fixed.checkpoint == fixed.folder / "arms" / fixed.summary.arm.id / "checkpoint"
    assert result_of("blocked").checkpoint is None
