"""The jobs as functions: they print nothing, return the answer, and raise what a command says."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from dataclasses import fields
from html import escape
from pathlib import Path

import numpy as np
import pytest
import torch
from report_form import write_report_files
from without_ray import WithoutRay

import lvm.cli
import lvm.jobs.job
import lvm.jobs.training
from lvm import api
from lvm.audit.document import answer
from lvm.audit.run import AuditVerdict
from lvm.core.command import run_command
from lvm.core.config.read import recipe_file
from lvm.core.errors import ConfigError, DataError, ResumeError, RunInterrupted, UsageError
from lvm.core.records import RunVerdict, Verdict
from lvm.data.load import DataRequest, load_dataset
from lvm.data.windows import dataset_from_bank
from lvm.jobs.options import AuditOptions, EvalOptions, TrainOptions, TriageOptions
from lvm.triage.journal import read_run

pytestmark = [
    pytest.mark.integration,
    # MLflow 3.17 maps two of its tables in a way that SQLAlchemy 2.1 will drop.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]
PRINTS = {"show", "json"}  # how a command prints; a function returns
OF_A_CALL = {"progress", "model", "ar_only", "recipe", "preset"}


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path) -> None:
    """No Ray, in a folder of its own."""
    monkeypatch.setattr(lvm.jobs.job, "RayExecutor", WithoutRay)
    monkeypatch.setattr(lvm.jobs.training, "RayExecutor", WithoutRay)
    monkeypatch.setattr("lvm.triage.local_head.LocalHead", NoHead)
    monkeypatch.chdir(tmp_path)


class NoHead:
    """Takes the place of the process that starts Ray."""

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def quick(world, tmp_path_factory) -> dict[str, Path]:
    """Data and a recipe that passes: a triage takes a second."""
    text = world.recipe.read_text()
    right = text.replace("temperature = 0.02", 'temperature = 0.05\nspace = "raw"')
    assert right != text
    recipe = tmp_path_factory.mktemp("quick") / "recipe.toml"
    recipe.write_text(right)
    return {"data": world.bank, "recipe": recipe}


@pytest.fixture(scope="module")
def broken(world, make_bank, tmp_path_factory) -> dict[str, Path]:
    """The report's files with the keys of other targets."""
    folder = tmp_path_factory.mktemp("broken")
    parts = {"train": range(68), "dev": range(68, 70), "test": range(70, 80)}
    files = write_report_files(dataset_from_bank(make_bank(80, 12), 5, parts), folder)
    paths = dict(zip(("train", "eval", "payload"), files, strict=True))
    arrays = dict(np.load(paths["eval"]))
    np.savez(paths["eval"], **{**arrays, "truth_keys": np.roll(arrays["truth_keys"], 20, axis=0)})
    return {**paths, "recipe": world.recipe}


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (api.audit, AuditOptions),
        (api.triage, TriageOptions),
        (api.train, TrainOptions),
        (api.evaluate, EvalOptions),
    ],
)
def test_keywords_are_the_fields_of_the_options_with_their_defaults(function, options) -> None:
    keywords = dict(inspect.signature(function).parameters)
    known = {field.name: field for field in fields(options)} | dict.fromkeys(OF_A_CALL)
    assert set(keywords) <= set(known)
    assert {f.name for f in fields(options)} - set(keywords) <= PRINTS | {"checkpoint"}
    for field in fields(options):
        if field.name in keywords and field.name not in ("preset", "out"):
            assert keywords[field.name].default == field.default, field.name


def test_the_module_is_light() -> None:
    script = "import sys; from lvm import api; print({'torch', 'numpy', 'ray'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def test_texts_become_paths_and_one_name_a_list() -> None:
    given = {"data": "b", "allow": "A", "plugin": ["x.py", Path("y.py")], "recipe": "wrong_width"}
    assert api._options(AuditOptions, given) == AuditOptions(
        data=Path("b"), allow=("A",), plugin=("x.py", "y.py"), recipe=recipe_file("wrong_width")
    )


# --- audit ----------------------------------------------------------------------------------------


def test_an_audit_returns_what_it_wrote_and_prints_nothing(world, capfd) -> None:
    result = api.audit(data=str(world.bank), recipe=world.recipe)
    assert capfd.readouterr() == ("", "")
    assert result.folder == Path("audits/1")
    kept = json.loads((result.folder / "audit.json").read_text())
    assert (result.verdict, result.exit_status) == (kept["verdict"], 0)
    assert [f.code for f in result.document.findings] == [f["code"] for f in kept["findings"]]
    first = answer(result.document)
    assert str(result).startswith(first)
    assert repr(result) == str(result)
    assert escape(first[1:]) in result._repr_html_()[:500]


def test_an_audit_that_blocks_is_an_answer_and_repairs(broken, capfd) -> None:
    result = api.audit(**broken, repair="fixed", out="found")
    assert capfd.readouterr() == ("", "")
    assert result.verdict is AuditVerdict.BLOCKED
    assert "KEYS_WRONG" in result.document.route.blocked
    assert result.repaired is not None
    assert result.after is not None
    assert result.repaired.files["eval"].exists()
    assert result.after.verdict is not AuditVerdict.BLOCKED
    assert result.exit_status == result.after.exit_status == 0
    assert str(result).startswith("BLOCKED: ")
    assert (result.folder / "repaired" / "audit.json").exists()


def test_a_command_prints_what_the_function_returns(broken, capfd) -> None:
    result = api.audit(**broken, out="called")
    typed = [word for name, path in broken.items() for word in (f"--{name}", str(path))]
    assert run_command(lvm.cli.main, ["audit", *typed, "--out", "typed"]) == result.exit_status == 3
    printed = capfd.readouterr().out
    timeless = re.compile(r"^[\d.]+ s$|^report: .*$", re.MULTILINE)
    assert timeless.sub("", printed).strip() == timeless.sub("", str(result)).strip()


# --- triage ---------------------------------------------------------------------------------------


def test_a_triage_returns_its_summary_and_prints_nothing(quick, capfd) -> None:
    result = api.triage(**quick, five_steps=True, out="run")
    assert capfd.readouterr() == ("", "")
    kept = json.loads(Path("run/verdict.json").read_text())
    assert result.verdict is RunVerdict.PASSED
    assert (result.exit_status, kept["verdict"]) == (0, "PASSED")
    assert result.summary.headline == kept["headline"]
    assert result.folder.samefile("run")
    assert result.report.read_text().startswith("# Triage report: PASSED")
    assert len(result.events) == len(read_run(Path("run")))
    assert str(result).startswith(result.summary.headline)
    assert escape(result.summary.headline) in result._repr_html_()
    assert "<table>" in result._repr_html_()
    assert result.checkpoint is None  # no fix was needed


def test_progress_goes_to_standard_error_when_it_is_asked_for(quick, capfd) -> None:
    api.triage(**quick, five_steps=True, progress=True)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "audit: " in printed.err


def test_a_triage_that_blocks_is_an_answer(broken, capfd) -> None:
    result = api.triage(**broken)
    assert capfd.readouterr() == ("", "")
    assert (result.verdict, result.exit_status) == (RunVerdict.BLOCKED, 3)
    assert str(result).startswith("BLOCKED: ")
    assert "BLOCKED: " in result._repr_html_()[:200]
    assert result.checkpoint is None


def test_an_interrupted_triage_is_a_keyboard_interrupt_and_goes_on(quick, monkeypatch, capfd):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(WithoutRay, "run", interrupted)
        with pytest.raises(RunInterrupted, match=r"interrupted; continue with: .*--resume run"):
            api.triage(**quick, five_steps=True, out="run")
    assert capfd.readouterr() == ("", "")
    assert api.triage(resume="run").verdict is RunVerdict.PASSED


def test_what_a_command_refuses_is_raised(quick) -> None:
    with pytest.raises(UsageError, match="--seeds must be at least 1"):
        api.triage(**quick, seeds=0)
    with pytest.raises(ResumeError, match="no journal"):
        api.triage(resume="none")
    with pytest.raises(ConfigError, match="wrong_width"):
        api.triage(recipe="wrong")


# --- train and evaluate ---------------------------------------------------------------------------


def test_a_training_returns_its_checkpoint_and_its_judgement_agrees(quick, capfd) -> None:
    trained = api.train(**quick, out="full")
    judged = api.evaluate(trained.checkpoint, data=quick["data"])
    assert capfd.readouterr() == ("", "")
    assert judged.evaluation.masked == trained.evaluation.masked
    assert judged.warnings == []
    assert {"copy_last", "oracle"} <= set(judged.ladder)
    assert judged.ladder["oracle"].masked["r_at_5"] == pytest.approx(1.0)
    assert (judged.verdict, judged.gates) == (None, ())
    assert "full/checkpoint" in str(trained).splitlines()[0]
    assert "ladder: copy_last" in str(judged)
    with pytest.raises(UsageError, match="use the bank it was trained on"):
        api.evaluate(trained.checkpoint)  # on the bundled sample


def test_predictions_are_judged_against_ar_only(quick) -> None:
    dataset, _ = load_dataset(DataRequest(bank=quick["data"]), 5)
    test = dataset.test
    right, last = (dataset.bank.rows(rows) for rows in (test.targets, test.contexts[:, -1]))
    np.save("last.npy", last)
    judged = api.evaluate(torch.from_numpy(right), ar_only="last.npy", **quick)
    assert judged.verdict is Verdict.PASS
    assert [gate.metric for gate in judged.gates] == ["r_at_5", "mrr"]
    assert {gate.bound for gate in judged.gates} == {0.2}  # the recipe's
    assert str(judged).startswith("success gate over AR-only: PASS; ")
    assert len(judged.warnings) == 2  # nobody knows what either model has read
    assert api.evaluate(last, ar_only=last, **quick).verdict is Verdict.FAIL
    assert judged.ladder["copy_last"].masked == pytest.approx(
        api.evaluate("last.npy", data=quick["data"]).evaluation.masked
    )
    with pytest.raises(DataError, match=r"the predictions have shape \(1, "):
        api.evaluate(right[:1], **quick)
