"""Steps of a recipe, asked in a whole triage: raced, judged, told and resumed like any other."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from unittest import mock

import msgspec
import pytest
import tiny
import torch
from msgspec.structs import replace

from lvm.core.config.read import load_run_config
from lvm.core.config.run import RunConfig
from lvm.core.errors import UsageError
from lvm.core.records import RunVerdict, StopReason
from lvm.jobs import request
from lvm.jobs.ending import print_verdict
from lvm.jobs.options import TriageOptions
from lvm.jobs.steps import chosen_steps
from lvm.triage import arm
from lvm.triage.actions import Stop
from lvm.triage.events import ArmEnded, Epoch, Rung, RunStarted, StepStarted, event_of
from lvm.triage.events.parts import Arguments
from lvm.triage.importance import swept
from lvm.triage.journal import Journal, read_run
from lvm.triage.local import LocalExecutor
from lvm.triage.request import Request, identity
from lvm.triage.spent import OUT_OF_TIME
from lvm.triage.state import RunState
from lvm.triage.step import Facts
from lvm.triage.triage import Triage
from lvm.triage.verdict import build_verdict
from lvm.views.report import Run, html
from lvm.views.report.markdown import render, report_sections
from lvm.views.tracking.views import parent_view

RECIPE = """
[[steps]]
name = "rate"
title = "Learning rate"
question = "Is the learning rate too low?"
claim = "The learning rate is too low."
budget = 1
arms = [{ name = "as fast again", changes.training.learning_rate = 1e-2, why = "it was timid" }]

[[steps]]
name = "tuned"
question = "Is the network badly tuned?"

[steps.sweep]
arms = 9
sampler = "random"
"training.learning_rate" = { log_uniform = [1e-4, 3e-2] }
"training.batch_size" = [16, 32]
"""
STEPS = ("rate", "tuned")


def config_of(folder: Path) -> RunConfig:
    (folder / "recipe.toml").write_text(RECIPE)
    return load_run_config(folder / "recipe.toml", tiny.config(stage=0.0, epochs=4))


def asked(config: RunConfig, out: Path) -> Request:
    chosen = chosen_steps(TriageOptions(steps=STEPS), config)
    return Request(config=config, out=out, code="test", steps=chosen.steps, all_steps=True)


def walked(config: RunConfig, data, journal: Journal, note=None) -> Stop:
    if not journal.events:
        journal.append(event_of(RunStarted, **tiny.started(config)))
    triage = asked(config, journal.folder)
    with mock.patch.object(arm, "MAX_LATENCY_QUERIES", tiny.LATENCY_QUERIES):
        return Triage(triage, data, LocalExecutor(), journal, note or journal.append).run()


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_dataset):
    """A run that was killed in the middle of its sweep and resumed: its end, config and journal."""
    folder = tmp_path_factory.mktemp("own")
    config, journal = config_of(folder), Journal(folder / "run")

    def until_the_first_rung(event):
        journal.append(event)
        if isinstance(event, Rung) and event.step == "tuned":
            raise KeyboardInterrupt

    threads = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        walked(config, tiny_dataset, journal, until_the_first_rung)
    resumed = Journal(folder / "run")
    stop = walked(resumed.events.started.config, tiny_dataset, resumed)
    torch.set_num_threads(threads)
    return stop, config, resumed


def test_each_is_a_step_with_a_control_in_its_order(run) -> None:
    _, _, journal = run
    rate, tuned = journal.events.steps
    assert (rate.step, rate.number, rate.title, rate.epochs) == ("rate", 12, "Learning rate", 1)
    assert (tuned.step, tuned.number, tuned.title, tuned.epochs) == ("tuned", 13, "Tuned", 4)
    assert [(a.name, a.role) for a in rate.arms] == [
        ("control", "control"),
        ("as fast again", "arm"),
    ]
    assert rate.arms[1].changes == {"training.learning_rate": 1e-2}
    assert (rate.arms[1].why, tuned.arms[1].why) == ("it was timid", "drawn by random")
    assert [a.role for a in tuned.arms] == ["control", *["arm"] * 9]
    assert all(a.recipe.training.epochs == 4 for a in tuned.arms)


def test_the_arms_of_a_sweep_are_the_same_when_it_is_resumed(run) -> None:
    _, config, journal = run
    step = chosen_steps(TriageOptions(), config).steps[-1]
    base = config.recipe.with_changes({"training.epochs": 4})
    again = step.propose(base, Facts(num_train_windows=1000, width=tiny.WIDTH))
    assert len(journal.events.of(StepStarted, step="tuned")) == 1
    assert [a.name for a in journal.events.steps[1].arms][1:] == [a.name for a in again.arms]


def test_the_arms_of_a_sweep_are_ranked_by_its_metric_and_the_gate_does_not_end_it(run) -> None:
    _, _, journal = run
    rungs = journal.events.of(Rung, step="tuned")
    assert [(rung.epoch, rung.metric) for rung in rungs] == [(1, "mrr"), (2, "mrr"), (4, "mrr")]
    assert all(not rung.held for rung in rungs)  # though every cosine is above the gate of 0
    mrr = {
        e.arm: e.mrr for e in journal.events.of(Epoch) if e.epoch == 1 and e.arm in rungs[0].values
    }
    assert mrr == rungs[0].values
    kept = [v for a, v in mrr.items() if a not in rungs[0].pruned]
    assert max(mrr[a] for a in rungs[0].pruned) <= min(kept[1:])  # the first is the control
    ends = [event.reason for event in journal.events.of(ArmEnded, step="tuned")]
    assert set(ends) == {StopReason.PRUNED, StopReason.FINISHED}


def test_gains_are_corrected_for_every_arm_of_a_sweep(run) -> None:
    _, _, journal = run
    document = build_verdict(journal.events, resume="again")
    arms = [a for a in document.steps[1].arms if a.role == "arm"]
    tests = {g.num_tests for a in arms for g in a.gains or [] if g.num_tests and g.adjusted_p}
    assert max(tests) == 2 * len(arms) * len(STEPS)  # two metrics, and as many looks as steps


def test_what_it_claims_is_in_the_ledger(run) -> None:
    _, _, journal = run
    entries = {e.id: e for e in build_verdict(journal.events, resume="again").hypotheses}
    assert entries["rate"].claim == "The learning rate is too low."
    assert [arm.arm for arm in entries["rate"].arms] == ["as fast again"]
    assert len(entries["tuned"].arms) == 9
    assert entries["tuned"].kind == "beyond the report"
    assert "training.learning_rate, training.batch_size" in entries["tuned"].claim
    assert {entries[name].status for name in STEPS} <= {"confirmed", "refuted", "inconclusive"}


def test_the_report_shows_the_sweep_key_by_key(run) -> None:
    stop, _, journal = run
    document = build_verdict(journal.events, resume="again")
    sections = report_sections(Run(journal.events, document))
    text = render(sections, str(stop.verdict))
    found = swept(journal.events, "tuned")
    assert (found.epoch, len(found.arms), found.num_without) == (1, 9, 0)
    first, *_ = found.shares
    assert f"| {first} |" in text
    assert "over 9 arms on dev at epoch 1" in text
    assert "epoch 1: dev MRR " in text
    page = html.render(sections, str(stop.verdict))
    assert page.count("on dev at epoch 1, key by key.") == 1
    assert page.count("A line is an arm.") == 1
    assert "- **Hypothesis of the recipe**: The learning rate is too low." in text
    assert swept(journal.events, "rate") is None


def test_mlflow_has_the_importance_of_every_key_at_the_end(run) -> None:
    _, _, journal = run
    document = build_verdict(journal.events, resume="again")
    at_the_end = parent_view(journal.events, document, closed=True)
    shares = swept(journal.events, "tuned").shares
    told = {name: value for name, value, *_ in at_the_end.metrics if name.startswith("importance.")}
    assert told == {f"importance.tuned.{key}": share for key, share in shares.items()}
    assert "sampler" in at_the_end.params["steps"]
    before = parent_view(journal.events, None, closed=False)
    assert not [name for name, *_ in before.metrics if name.startswith("importance.")]


def test_another_sweep_is_another_run(tmp_path) -> None:
    config = config_of(tmp_path)
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("arms = 9", "arms = 10"))
    other = load_run_config(tmp_path / "recipe.toml", tiny.config(stage=0.0, epochs=4))
    one, two = (identity(asked(c, tmp_path), "data")["request"] for c in (config, other))
    assert one != two


def test_a_person_s_order_is_part_of_a_run(tmp_path) -> None:
    plain = asked(config_of(tmp_path), tmp_path)
    ordered = dataclasses.replace(plain, order=("tuned",))
    assert identity(plain, "data")["request"] != identity(ordered, "data")["request"]


def test_the_report_names_the_steps_that_were_not_asked(run) -> None:
    _, _, journal = run
    document = build_verdict(journal.events, resume="again")
    first = msgspec.structs.replace(
        journal.events.started, arguments=Arguments(steps=["tuned"]), plan=["tuned"]
    )
    told = RunState([first, *journal.events[1:]])
    (section,) = [s for s in report_sections(Run(told, document)) if s.name == "not-tried"]
    (items,) = section.blocks
    assert "temperature: it was not among --steps." in items.items
    assert "rate: it was not among --steps." in items.items
    assert not [item for item in items.items if item.startswith("tuned: it was not")]


def test_a_sweep_without_time_ends_after_an_epoch_and_so_it_does_when_resumed(
    tiny_dataset, tmp_path
) -> None:
    (tmp_path / "recipe.toml").write_text(
        '[[steps]]\nname = "tuned"\nquestion = "Tuned?"\n[steps.sweep]\n'
        "training.batch_size = [16, 64]\nminutes = 1e-6\n"
    )
    config = load_run_config(tmp_path / "recipe.toml", tiny.config(stage=0.99, epochs=4))
    chosen = chosen_steps(TriageOptions(steps=("tuned",)), config)
    journal = Journal(tmp_path / "run")
    journal.append(event_of(RunStarted, **tiny.started(config)))
    triage = Request(config=config, out=journal.folder, code="test", steps=chosen.steps)
    ends = []
    with mock.patch.object(arm, "MAX_LATENCY_QUERIES", tiny.LATENCY_QUERIES):
        for _ in range(2):
            journal = Journal(tmp_path / "run")
            walk = Triage(triage, tiny_dataset, LocalExecutor(), journal, journal.append)
            ends.append((walk.run(), len(journal.events)))
    assert ends[0] == ends[1]
    told = journal.events.of(ArmEnded, step="tuned")
    assert {(e.reason, e.detail) for e in told} == {(StopReason.CANCELLED, OUT_OF_TIME)}
    assert len(told) == 3
    document = build_verdict(journal.events, resume="again")
    text = render(report_sections(Run(journal.events, document)), "NOT_FIXED")
    assert f"cancelled at epoch 1: {OUT_OF_TIME}" in text
    assert f"stopped at epoch 1 of 4: {OUT_OF_TIME}" in text


def test_a_resume_takes_steps_and_order_from_the_journal(tmp_path) -> None:
    options = TriageOptions(steps=("tuned", "rate"), order=("rate",))
    assert request.command(options).endswith(" --steps tuned,rate --order rate")
    journal = Journal(tmp_path / "run")
    started = {**tiny.started(config_of(tmp_path)), "arguments": request.arguments(options)}
    journal.append(event_of(RunStarted, **started))
    again = request.resumed(TriageOptions(resume=journal.folder), journal)
    assert (again.steps, again.order) == (options.steps, options.order)
    with pytest.raises(UsageError, match="--order cannot be combined with --resume"):
        request.resumed(TriageOptions(resume=journal.folder, order=("tuned",)), journal)


def test_after_steps_alone_the_next_command_asks_the_others(tmp_path, capsys) -> None:
    state = read_run(Path(__file__).parents[1] / "frozen" / "sample")
    document = replace(build_verdict(state, resume="again"), verdict=RunVerdict.NOT_FIXED, arm=None)
    options = TriageOptions(recipe=Path("mine.toml"), steps=("rate",))
    print_verdict(document, tmp_path / "report.md", options, sys.stdout)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next: ")]
    assert "--recipe mine.toml" in line
    assert "--steps rate" not in line
