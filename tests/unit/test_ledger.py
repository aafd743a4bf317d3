"""The hypothesis ledger: statuses from journals written by hand, and the text of the report."""

from __future__ import annotations

import dataclasses
import json

import made
import pytest
import tiny
from msgspec.structs import replace

from lvm.core.config.run import GateConfig
from lvm.core.records import ABSENT, StopReason, Verdict, to_plain
from lvm.triage.events import ArmJudged, Confirmed, Decision, RunStarted, StepStarted
from lvm.triage.events.parts import Probe
from lvm.triage.ledger import ledger
from lvm.triage.state import RunState
from lvm.triage.step import STEPS, Facts, Kind, hypotheses
from lvm.triage.summary import ForecastShown
from lvm.triage.verdict import build_verdict
from lvm.views.report import Run
from lvm.views.report.ledger import ledger_sections
from lvm.views.report.markdown import render

GATES = GateConfig(success_r_at_5=0.10, success_mrr=0.05)
FACTS = Facts(num_train_windows=2_000_000, width=tiny.WIDTH)
HELPS, TOO_LITTLE, WIDE = (
    ((0.04, 0.01, 0.07), "PASS"),
    ((0.0, -0.02, 0.02), "INCONCLUSIVE"),
    (
        (0.05, -0.02, 0.12),
        "INCONCLUSIVE",
    ),
)

SMALL = ((0.03, 0.01, 0.05), "INCONCLUSIVE")


PROBE = Probe(seconds=9.0, update_seconds=0.1, dev_seconds=1.0, test_seconds=2.0, start_seconds=3.0)


def gain(metric, found, kind="gain"):
    bounds, verdict = found
    return made.gate(kind, metric, estimate=made.estimate(*bounds), verdict=Verdict(verdict))


class Story:
    """A journal in which steps of the real plan were run."""

    def __init__(self) -> None:
        self.events = [made.event(RunStarted)]

    def add(self, kind, **values):
        self.events.append(made.event(kind, at=float(len(self.events)), **values))

    def change(self, **values):
        self.events[-1] = replace(self.events[-1], **values)

    def step(self, name, found, *, reason="finished", stage="FAIL", carried=(), **recipe):
        """Run a step; `found` maps names of arms to their gain in R@5, all others are left out."""
        base = tiny.recipe(**recipe)
        proposal = STEPS.get(name).propose(base, FACTS)
        control = base.with_changes(proposal.control)
        specs = [spec(name, "control", "control", control, {})]
        for arm in proposal.arms:
            if arm.name in found:
                changed = base.with_changes(arm.changes)
                specs.append(spec(name, arm.name, "arm", changed, arm.changes))
        self.add(StepStarted, step=name, arms=specs, carried=list(carried))
        for one in specs[1:]:
            space = one.recipe.search_space
            self.add(
                ArmJudged,
                arm=one.id,
                step=name,
                epoch=2,
                reason=reason,
                evaluation=dataclasses.replace(made.evaluation(eval_cosine=0.44), space=space),
                stage=made.gate(verdict=Verdict(stage)),
                gains=[gain("r_at_5", found[one.name]), gain("mrr", TOO_LITTLE)],
            )

    def confirm(self, step, arm, found):
        gates = [gain("r_at_5", HELPS, "success"), gain("r_at_5", found), gain("mrr", TOO_LITTLE)]
        self.add(Confirmed, step=step, arm=arm, gates=gates)

    def status(self, name):
        (entry,) = (e for e in self.ledger() if e.id == name)
        return entry.status, entry.result

    def ledger(self):
        return ledger(RunState(self.events))


def spec(step, name, role, recipe, changes):
    about = {"name": name, "role": role, "changes": dict(changes)}
    return made.arm(f"{step}/{name}", recipe=recipe, gates=GATES, **about)


@pytest.fixture
def story():
    return Story()


def test_the_report_s_five_hypotheses_and_four_questions_are_there_with_predictions() -> None:
    named = {kind: [h.id for h, _ in hypotheses() if h.kind is kind] for kind in Kind}
    assert named[Kind.HYPOTHESIS] == ["H1", "H2", "H3", "H4", "H5"]
    assert named[Kind.OPEN_QUESTION] == ["Q1", "Q2", "Q3", "Q4"]
    assert named[Kind.BEYOND][:3] == ["B1", "B3", "B2"]  # as their steps are asked
    assert [e.id for e in ledger(RunState())] == [id for ids in named.values() for id in ids]
    assert all(h.predicts.endswith(".") and h.statement.endswith(".") for h, _ in hypotheses())


@pytest.mark.parametrize(
    ("id", "steps"),
    [
        ("H1", ["projection_head"]),
        ("H5", ["projection_head", "stop_gradient"]),
        ("Q1", ["projection_head", "projection_at_inference"]),
        ("Q3", ["architecture"]),
        ("B2", ["architecture"]),
    ],
)
def test_a_hypothesis_is_tested_by_every_step_that_has_arms_for_it(id, steps) -> None:
    (tested,) = ([step.name for step in by] for h, by in hypotheses() if h.id == id)
    assert tested == steps


def test_a_journal_that_has_only_begun_tests_nothing(story) -> None:
    assert {e.status for e in story.ledger()} == {"untested"}
    assert {e.status for e in ledger(RunState())} == {"untested"}
    assert story.status("H2")[1] == "the run has not reached it yet"
    story.add(Decision, action="Stop", verdict="FIXED", cause=["x"])
    assert story.status("H2")[1] == "the run ended FIXED before; --all-steps tests it"
    assert story.status("Q3")[1] == "the run ended FIXED before; --extended tests it"
    story.add(Decision, action="Stop", verdict="BLOCKED", cause=["x"])
    assert "audit stopped" in story.status("Q3")[1]


@pytest.mark.parametrize(
    ("found", "reason", "stage", "status"),
    [
        (HELPS, "finished", "FAIL", "confirmed"),
        (HELPS, "pruned", "FAIL", "confirmed"),
        (TOO_LITTLE, "finished", "FAIL", "refuted"),
        (TOO_LITTLE, "gate held", "PASS", "refuted"),
        (TOO_LITTLE, "pruned", "FAIL", "inconclusive"),  # it never got its budget
        (TOO_LITTLE, "finished", "NOT_EVALUABLE", "inconclusive"),  # judged too early
        (WIDE, "finished", "FAIL", "inconclusive"),
        (SMALL, "finished", "FAIL", "inconclusive"),  # above zero but for the correction
    ],
)
def test_the_status_follows_from_the_gains_over_the_control(
    story, found, reason, stage, status
) -> None:
    story.step("contrastive_weight", {"weights 0.85 / 0.15": found}, reason=reason, stage=stage)
    assert story.status("H2")[0] == status
    assert story.status("H3")[0] == "untested"


def test_an_arm_that_may_still_reach_the_bound_keeps_a_hypothesis_open(story) -> None:
    arms = {"negatives: random article": TOO_LITTLE, "negatives: the whole bank": WIDE}
    story.step("negatives", arms)
    status, result = story.status("H3")
    assert status == "inconclusive"
    assert "the whole bank: R@5 +0.050 [-0.020, +0.120]" in result


@pytest.mark.parametrize("reason", ABSENT)
def test_a_claim_is_not_refuted_where_an_arm_that_tests_it_is_absent(story, reason) -> None:
    arms = {"negatives: random article": TOO_LITTLE, "negatives: the whole bank": TOO_LITTLE}
    story.step("negatives", arms)
    assert story.status("H3")[0] == "refuted"
    story.change(reason=reason, detail="CUDA out of memory", gains=[], evaluation=None)
    status, result = story.status("H3")
    assert status == "inconclusive"
    assert f"not judged: negatives: the whole bank {reason}" in result
    story.step("contrastive_weight", {"weights 0.85 / 0.15": HELPS}, reason=reason)
    story.change(gains=[], detail="")
    assert story.status("H2") == ("untested", f"weights 0.85 / 0.15: {reason}")
    story.change(reason=StopReason.FINISHED)  # without its control
    assert "no control to compare with" in story.status("H2")[1]


def test_a_lower_temperature_says_nothing_on_one_that_is_too_low(story) -> None:
    story.step("temperature", {"temperature 0.05": HELPS, "temperature 0.15": TOO_LITTLE})
    status, result = story.status("H4")
    assert status == "refuted"
    assert "0.05" not in result


def test_the_full_training_outranks_the_step_that_chose_it(story) -> None:
    story.step("contrastive_weight", {"weights 0.90 / 0.10": HELPS})
    story.confirm("contrastive_weight", "weights 0.90 / 0.10", TOO_LITTLE)
    status, result = story.status("H2")
    assert status == "refuted"
    assert "test split" in result


def test_a_full_training_on_top_of_other_steps_is_no_evidence_for_one(story) -> None:
    """Its gain over the unchanged recipe is that of all carried steps together."""
    carried = [["projection_head", "x"]]
    story.step("contrastive_weight", {"weights 0.90 / 0.10": TOO_LITTLE}, carried=carried)
    story.confirm("contrastive_weight", "weights 0.90 / 0.10", HELPS)
    assert story.status("H2")[0] == "refuted"


def test_step_1_answers_three_entries_with_different_arms(story) -> None:
    arms = {
        "search in the projected space": TOO_LITTLE,
        "InfoNCE in the raw space": HELPS,
        "gradient through both branches": WIDE,
    }
    story.step("projection_head", arms)
    assert story.status("H1")[0] == "confirmed"
    assert story.status("H5")[0] == "inconclusive"
    status, result = story.status("Q1")
    assert status == "refuted"
    assert "cosine behind the head 0.440" in result


def test_two_towers_and_the_other_networks_are_told_apart(story) -> None:
    story.step("architecture", {"two towers": HELPS, "GRU": TOO_LITTLE, "transformer": TOO_LITTLE})
    assert (story.status("Q3")[0], story.status("B2")[0]) == ("confirmed", "refuted")


def test_only_a_longer_context_speaks_for_one_that_is_too_short(story) -> None:
    found = {"context of 5": HELPS, "context of 20": TOO_LITTLE}
    story.step("context_length", found, context_length=10)
    assert story.status("Q4")[0] == "refuted"


def test_what_was_left_out_says_why(story) -> None:
    story.step("context_length", {})
    story.change(left_out={"context of 10": "NOT_EVALUABLE: the windows were given"})
    assert story.status("Q4") == (
        "untested",
        "context of 10: NOT_EVALUABLE: the windows were given",
    )


def test_the_ledger_is_json_and_the_report_shows_every_entry(story) -> None:
    story.step("contrastive_weight", {"weights 0.90 / 0.10": HELPS})
    entries = story.ledger()
    assert json.loads(json.dumps(to_plain(entries), allow_nan=False)) == to_plain(entries)
    state = RunState(story.events)
    summary = build_verdict(state, resume="")
    assert summary.hypotheses == entries
    forecast = ForecastShown(
        seconds=300.0, lower=200.0, upper=450.0, parts={}, probe=PROBE, actual_seconds=330.0
    )
    summary = replace(summary, forecast=forecast)
    text = render(ledger_sections(Run(state, summary)), "x")
    for entry in entries:
        assert f"| {entry.id} |" in text
        assert entry.status in text
    assert f"1 confirmed, 0 refuted, 0 inconclusive, {len(entries) - 1} untested" in text
    assert "Took / predicted**: 1.10" in text
    assert ledger_sections(Run(state, replace(summary, hypotheses=[], forecast=None))) == []
