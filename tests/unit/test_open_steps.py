"""A step and a check in one file outside the package arrive wherever they should."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from types import SimpleNamespace

import made
import planted
import pytest
import tiny

from lvm.audit.check import CHECKS
from lvm.audit.document import blocking_codes
from lvm.audit.finding import Finding, Severity
from lvm.audit.run import RARELY_FOUND, AuditVerdict, route, run_checks
from lvm.audit.session import run_audit
from lvm.core.errors import ConfigError
from lvm.jobs import start
from lvm.jobs.options import TriageOptions
from lvm.jobs.run import run
from lvm.triage.below_ladder import CODE as BELOW_LADDER
from lvm.triage.below_ladder import asked_first
from lvm.triage.events import BelowLadder, StepStarted
from lvm.triage.state import RunState
from lvm.triage.step import STEPS, extended_steps, hypotheses, steps_in_order
from lvm.triage.verdict import build_verdict
from lvm.views.report import Run
from lvm.views.report.audit import standalone
from lvm.views.report.markdown import render, report_sections

PARTS = """
from lvm.audit.check import About, check
from lvm.audit.finding import Seen
from lvm.triage.step import STEPS, Arm, Hypothesis, Proposal, Step

@check(
    "TOO_FEW_ROWS",
    "does the bank hold rows enough for my index?",
    About(
        blocks=True, meaning="My index cannot be built.", next="embed more text", cause=5,
        of_model=True, because="the pool is small",
    ),
)
def too_few_rows(material):
    if len(material.pool) < 1_000_000:
        yield Seen(seen=f"{len(material.pool)} rows", allowed="1000000", where={"input": "bank"})

STEPS.register("learning_rate")(
    Step(
        name="learning_rate",
        number=12,
        title="Learning rate",
        question="Is the learning rate too low?",
        hypotheses=[
            Hypothesis(
                id="M1",
                claim="The learning rate is too low.",
                predicts="Twice the learning rate finds more.",
                tests=lambda changes, control: "training.learning_rate" in changes,
            )
        ],
        rules_out="twice the learning rate",
        propose=lambda recipe, facts: Proposal(
            arms=[
                Arm(
                    name="twice the rate",
                    changes={"training.learning_rate": 2 * recipe.training.learning_rate},
                    why="as fast again",
                )
            ]
        ),
        epochs=lambda schedule: schedule.short_epochs,
        first_on=["TOO_FEW_ROWS", "BELOW_LADDER"],
    )
)
"""
STEP, CODE = "learning_rate", "TOO_FEW_ROWS"


@pytest.fixture
def registries(monkeypatch):
    """The registries, as they are and will be again."""
    for registry in (STEPS, CHECKS):
        registry.names()
        monkeypatch.setattr(registry, "_parts", dict(registry._parts))


@pytest.fixture
def plugged(registries, tmp_path, monkeypatch):
    """The parts above, imported from a folder of their own."""
    (tmp_path / "parts_of_mine.py").write_text(PARTS)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("parts_of_mine")
    del sys.modules["parts_of_mine"]


def audited(**about):
    return run_audit(
        planted.clean(0).material(),
        progress=lambda *_: None,
        steps=steps_in_order(),
        **{"allowed": (), **about},
    )


# --- a step --------------------------------------------------------------------------------------


def test_a_step_stands_in_the_order_by_its_number(plugged) -> None:
    assert [step.name for step in steps_in_order()][-2:] == ["context_path", STEP]
    assert [step.name for step in steps_in_order(["12", "1"])][:2] == [STEP, "projection_head"]
    assert STEP not in [step.name for step in steps_in_order(reported_only=True)]
    assert STEP not in [step.name for step in extended_steps()]


def test_a_step_is_shown_with_its_arms(plugged, capsys) -> None:
    start.show(TriageOptions(preset="laptop"))
    shown = capsys.readouterr().out
    assert f"step 12, {STEP}: Is the learning rate too low?" in shown
    assert "  twice the rate: training.learning_rate = " in shown


def test_a_step_is_asked_with_a_control_and_its_hypothesis_judged(plugged, tmp_path) -> None:
    _, journal = tiny.triage(
        tmp_path / "run", tiny.dataset(), tiny.config(stage=0.99), steps=[STEPS.get(STEP)]
    )
    (asked,) = [e for e in journal.events.of(StepStarted) if e.step == STEP]
    assert [(spec.name, spec.role) for spec in asked.arms] == [
        ("control", "control"),
        ("twice the rate", "arm"),
    ]
    assert asked.hypothesis == "The learning rate is too low."
    document = build_verdict(journal.events, resume="again")
    (entry,) = [e for e in document.hypotheses if e.id == "M1"]
    assert (entry.kind, [arm.arm for arm in entry.arms]) == (
        "beyond the report",
        ["twice the rate"],
    )
    assert entry.status in {"confirmed", "refuted", "inconclusive"}
    text = render(report_sections(Run(journal.events, document)), "NOT_FIXED")
    assert "Step 12: Learning rate" in text
    assert "| M1 | The learning rate is too low. | Twice the learning rate finds more. |" in text


def test_a_finding_has_a_step_asked_first(plugged) -> None:
    taken = route([CODE, "COLLAPSE"], steps_in_order())
    assert list(taken.order) == [2, 5, 12, 1, 3, 4]
    assert taken.reasons == [
        "steps 2 and 5 first: predictions have collapsed towards their mean",
        "step 12 first: the pool is small",
    ]


def test_a_network_below_the_ladder_has_every_step_asked_that_says_so(plugged) -> None:
    finding = Finding(
        code=BELOW_LADDER,
        severity=Severity.WARN,
        seen="below",
        allowed="above",
        where={},
        meaning="",
        next="",
    )
    state = RunState([made.event(BelowLadder, findings=[finding])])
    walk = SimpleNamespace(journal=SimpleNamespace(events=state))
    assert asked_first(walk, ["temperature", STEP, "context_path"]) == ["context_path", STEP]
    assert asked_first(walk, ["temperature", STEP]) == [STEP]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"number": 6}, r"the steps '\w+' and '\w+' both have the number 6; .* for example 12\."),
        ({"hypotheses": ()}, "the step 'learning_rate' has no hypothesis"),
        ({"id": "H1"}, "'projection_head' and 'learning_rate' both state the hypothesis 'H1'"),
        ({"also": ["temprature"]}, r"unknown step 'temprature' \(did you mean temperature\?\)"),
    ],
)
def test_steps_that_contradict_each_other_are_refused(plugged, changes, words) -> None:
    step = STEPS.get(STEP)
    if not {"number", "hypotheses"} & set(changes):
        changes = {"hypotheses": [dataclasses.replace(step.hypotheses[0], **changes)]}
    STEPS._parts[STEP] = dataclasses.replace(step, **changes)
    for asked in (steps_in_order, extended_steps, lambda: list(hypotheses())):
        with pytest.raises(ConfigError, match=words) as raised:
            asked()
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("show", [True, False])
def test_a_run_is_refused_before_it_has_a_folder(plugged, show, tmp_path, capsys) -> None:
    STEPS._parts[STEP] = dataclasses.replace(STEPS.get(STEP), number=6)
    with pytest.raises(ConfigError, match="both have the number 6"):
        run(TriageOptions(out=tmp_path / "run", show=show))
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().out == ""


def test_without_the_file_the_order_is_as_it_was() -> None:
    taken = route([], steps_in_order())
    assert list(taken.order) == [1, 2, 3, 4, 5]
    assert taken.reasons == ["steps 1 to 5 in order: no finding points to any of them"]
    split = route(["COLLAPSE", "SPLIT_SPACE"], steps_in_order())
    assert list(split.order) == [1, 2, 5, 3, 4]
    found = {"eval_cosine": 0.6, "r_at_5": 0.1}
    rungs = {"copy_last": {"eval_cosine": 0.5, "r_at_5": 0.4}}
    assert list(route([], steps_in_order(), model=found, ladder=rungs).order) == [4, 1, 2, 3, 5]
    assert [s.name for s in steps_in_order() if RARELY_FOUND in s.first_on] == ["negatives"]


# --- a check -------------------------------------------------------------------------------------


def test_a_check_runs_in_the_audit_and_blocks_in_the_words_of_its_row(plugged) -> None:
    audit, document = audited()
    assert (audit.verdict, audit.blocking) == (AuditVerdict.BLOCKED, [CODE])
    assert blocking_codes(document) == document.route.blocked == [CODE]
    (row,) = [row for row in document.checks if row.code == CODE]
    assert (row.question, row.status) == (
        "does the bank hold rows enough for my index?",
        "FOUND",
    )
    (finding,) = [f for f in audit.findings if f.code == CODE]
    assert finding == Finding(
        code=CODE,
        severity=Severity.BLOCK,
        seen=finding.seen,
        allowed="1000000",
        where={"input": "bank"},
        meaning="My index cannot be built.",
        next="embed more text",
    )
    text = render(standalone(document), "BLOCKED")
    assert CODE in text
    assert "My index cannot be built." in text


def test_a_check_that_is_allowed_orders_the_steps(plugged) -> None:
    audit, document = audited(allowed=[CODE])
    assert audit.blocking == []
    assert document.route.order[0] == "12"
    assert document.route.reasons[0] == "step 12 first: the pool is small"


def test_a_check_that_does_not_block_warns(plugged) -> None:
    CHECKS._parts[CODE] = dataclasses.replace(CHECKS.get(CODE), blocks=False)
    (finding,) = run_checks(planted.clean(0).material(), codes=[CODE]).findings
    assert finding.severity is Severity.WARN


def test_a_row_says_where_its_findings_stand_and_when_it_is_asked(plugged) -> None:
    audit = run_checks(planted.plant("nan", 0).material())
    codes = list(dict.fromkeys(f.code for f in audit.findings if f.severity is Severity.BLOCK))
    assert codes[0] == CODE  # its place is before NONFINITE's
    assert CODE in [row.code for row in CHECKS if row.of_model]
    assert CODE in [row.code for row in CHECKS if not row.thorough]
