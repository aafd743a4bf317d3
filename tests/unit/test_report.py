"""What the report says of a run."""

import copy
import math
import re
import tomllib

import pytest
from msgspec.structs import replace
from report_story import (
    PASS,
    POOL,
    UNSURE,
    Story,
    evaluation,
    events_of,
    gate,
    report,
    row,
    run_of,
    section,
)

from lvm.core.records import to_plain
from lvm.triage.events import (
    ArmJudged,
    Settled,
    event_of,
)
from lvm.views.report.models import _model_row


def test_verdict_and_warnings_come_first(fixed):
    lines = [line for line in fixed[0].splitlines() if line]
    assert lines[0] == "# Triage report: FIXED"
    assert lines[2].startswith("**FIXED by projection_head+temperature: temperature 0.10 holds")
    assert lines[3].startswith("> **Warning:** temperature 0.10 reaches R@5")
    assert "; weighted_mix reaches 0.552 without training" in lines[3]
    confidence = next(line for line in lines if line.startswith("- **Confidence**"))
    assert "R@5 +0.142 [+0.121, +0.174] against +0.100: PASS" in confidence
    assert "95% intervals over 19 articles" in confidence


def test_cost_equals_the_journal(fixed, events):
    epochs = [e for e in events if e["event"] == "epoch"]
    trained = sum(e["seconds"] for e in epochs)
    trials = len({e["arm"] for e in epochs})
    assert f"{trained:,.1f} s" in section(fixed[0], "Verdict")
    cost = section(fixed[0], "Cost")
    updates = sum(e["epoch"] > 0 for e in epochs)
    assert row(cost, "all")[:4] == ["all", str(trials), str(updates), f"{trained:,.1f}"]
    parts = [
        line.strip("| ").split(" | ")
        for line in cost.splitlines()
        if line.startswith("| ") and "all" not in line and "---" not in line
    ][1:]
    assert sum(int(p[1]) for p in parts) == trials
    assert math.isclose(sum(float(p[3]) for p in parts), trained, abs_tol=0.3)


def test_models_table_holds_the_numbers_of_the_journal(fixed):
    models = section(fixed[0], "Models on the test split")
    for name, seed in (("AR-only", 0.31), ("InfoNCE+AR", 0.22)):
        judged = evaluation(seed)
        metrics = [f"{v:.3f}" for v in list(judged.masked.values())]
        dev = f"{evaluation(seed, split='dev').masked['eval_cosine']:.3f}"
        latency = [f"{judged.latency[k]:.2f}" for k in ("p50_ms", "p95_ms")]
        assert row(models, name) == [name, "6", dev, metrics[0], "raw", *metrics[1:], *latency]
    raw = models.split("Same, nothing masked")[1]
    assert row(raw, "AR-only")[1] == f"{evaluation(0.31).raw['r_at_1']:.3f}"
    lost = models.split("lost to approximate search")[1]
    assert row(lost, "AR-only") == ["AR-only", "0.510", "0.460", "0.054"]
    assert f"{evaluation(0.41).masked['mrr']:.3f}" in row(models, "ladder: copy_last")


def test_the_dev_cosine_of_a_model_is_not_that_of_the_control_it_also_was(story_events):
    """As control of a step it is judged where the step ended: at epoch 2 of its 6."""
    run = run_of(story_events)
    model = next(m for m in run.summary.models if m.name == "InfoNCE+AR")
    judged = run.state.last(ArmJudged, arm=model.arm)
    cells = _model_row(run, model)[2]
    for step, epoch, cosine in (("context_path", 2, 0.1), ("negatives", 9, None)):
        evaluated = None if cosine is None else evaluation(cosine, split="dev")
        run.state.append(replace(judged, step=step, epoch=epoch, evaluation=evaluated))
    assert _model_row(run, model)[2] == cells == f"{0.22 + 0.0107:.3f}"


def test_gains_over_ar_only_carry_the_interval_of_their_gate(fixed):
    models = section(fixed[0], "Models on the test split")
    cells = row(models, "Δ InfoNCE+AR")
    assert "+0.012 [-0.009, +0.044]" in cells  # R@5, judged
    assert cells[3] == "-0.090"  # cosine, a plain difference
    cells = row(models, "Δ search in the projected space (confirmation)")
    assert cells[3] == "–"  # cosines of two spaces do not compare
    assert "+0.091 [+0.070, +0.123]" in cells


def test_the_pool_stands_beside_the_numbers(fixed):
    models = section(fixed[0], "Models on the test split")
    assert "Pool pool0123, N = 9,876 rows, mask: own contexts, ties: split" in models
    assert f"chance R@5 is {POOL.chance(5):.2g}" in models


def test_every_judged_gate_is_in_the_gate_table(fixed, events):
    gates = section(fixed[0], "Gates").split("####")[0]
    steps = ("projection_head", "temperature")
    judged = [
        *(g for e in events if e["event"] == "phase_1_judged" for g in e["gates"]),
        *(e["stage"] for e in events if e["event"] == "arm_judged" and e["step"] in steps),
        *(g for e in events if e["event"] == "confirmed" for g in e["gates"]),
    ]
    rows = [line for line in gates.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == len(judged)
    line = next(r for r in rows if r.startswith("| temperature 0.10 | dev"))
    assert (
        "| 0.350 | 0.398 [0.376, 0.429] | 19 | 12.3 | -0.45 | 2.2 | PASS | stage of eval_cosine in "
        in line
    )
    line = next(r for r in rows if r.startswith("| temperature 0.05 | dev"))
    assert "| – | – | – | – | NOT_EVALUABLE | the loss is NaN at update 17 |" in line


def test_every_difference_says_how_sure_it_is(fixed, events):
    behind = section(fixed[0], "Gates").split("####")[1]
    judged = [
        *(g for e in events if e["event"] == "phase_1_judged" for g in e["gates"]),
        *(g for e in events if e["event"] == "confirmed" for g in e["gates"]),
        *(g for e in events if e["event"] == "arm_judged" for g in (e["stage"], *e["gains"])),
    ]
    differences = [g for g in judged if g["p_value"] is not None]
    rows = [line for line in behind.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == len(differences) > 8
    assert all(line.endswith("| 0.0101 | 0.0404 | 4 | 0.0123 | 200 of 432 |") for line in rows)
    assert sum("over its control | dev" in line for line in rows) == sum(
        g["p_value"] is not None for e in events if e["event"] == "arm_judged" for g in e["gains"]
    )


def test_no_p_value_is_zero(fixed, events, tmp_path):
    judged = copy.deepcopy(next(e for e in events if e["event"] == "phase_1_judged"))
    judged["gates"][0]["sign_flip_p"] = 2**-17
    text = report([judged if e["event"] == "phase_1_judged" else e for e in events], tmp_path)[0]
    assert "| 0.0101 | 0.0404 | 4 | < 0.0001 | 200 of 432 |" in text.replace("\\", "")


def test_the_report_says_which_looks_are_corrected_and_which_avoided(fixed, tmp_path):
    for text in (fixed[0], fixed[1]):
        assert "no verdict rests on it" in text
        assert "Other triages on the same test split are not corrected for." in text
        assert "The corrected p-value decides" in text
    assert "design effect 2.2: 432 windows are worth 200 independent ones" in fixed[0]


def test_the_combination_and_what_it_adds_are_in_the_gate_table(events, tmp_path):
    story = events[:]
    stop = story.pop()
    confirmed = next(e for e in reversed(story) if e["event"] == "confirmed")
    adds = to_plain(
        event_of(
            Settled,
            best=["temperature", "temperature 0.10"],
            comparisons=6,
            adds=[gate("gain", "r_at_5", 0.0432, PASS), gate("gain", "mrr", 0.0123, UNSURE)],
        )
    )
    carried = [["projection_head", "arm a"], ["temperature", "arm b"]]
    story += [
        {**stop, "action": "Confirm", "step": "combination", "carried": carried},
        {**confirmed, "step": "combination", "arm": "arm a + arm b", "spec": "diverged"},
    ]
    alone, unsettled, gates = (
        section(report(told, tmp_path)[0], "Gates").split("####")[0]
        for told in (events, [*story, stop], [*story, adds, stop])
    )
    new = [line for line in gates.splitlines() if line not in alone.splitlines()]
    assert [line.split(" | ")[:4] for line in new] == [
        *(
            ["| arm a + arm b (confirmation)", "test", kind, metric]
            for kind in ("success", "gain")
            for metric in ("R@5", "MRR")
        ),
        ["| arm a + arm b over temperature 0.10 alone", "test", "adds", "R@5"],
        ["| arm a + arm b over temperature 0.10 alone", "test", "adds", "MRR"],
    ]
    assert "| +0.000 | +0.043 [+0.022, +0.075] | 19 | 12.3 | -0.45 | 2.2 |" in new[4]
    assert "| PASS |" in new[4]
    assert new[:4] == [line for line in unsettled.splitlines() if line not in alone.splitlines()]


def test_arms_stand_beside_the_control_at_the_same_epoch(fixed):
    steps = section(fixed[0], "Step by step")
    numbers = steps.split("Dev split, at the epoch")[1]
    cells = row(numbers, "gradient through both branches")  # pruned at epoch 2 of 6
    assert cells[1:3] == [f"{0.1987 + 0.0107:.3f}", f"{0.21 + 0.0123 * 2:.3f}"]
    assert cells[4] == f"{0.21 / 3 + 0.0111 * 2:.3f}"
    cells = row(numbers, "InfoNCE in the raw space")  # ran to epoch 6
    assert cells[2] == f"{0.21 + 0.0123 * 6:.3f}"
    assert cells[-2] == "PASS +0.083 [+0.062, +0.115]"
    cells = row(numbers, "search in the projected space")  # against the searched model itself
    assert cells[1].endswith("(projected)")
    assert cells[2] == "–"
    assert cells[4] == f"{0.22 / 3 + 0.0111 * 6:.3f}"


def test_steps_say_what_happened_and_why(fixed):
    steps = section(fixed[0], "Step by step")
    assert "3 of 6 | pruned at epoch 2 |" in steps
    assert "no training | finished |" in steps
    assert "diverged at epoch 1: the loss is NaN at update 17" in steps
    assert "Cutoff 0.275, pruned: gradient through both branches." in steps
    assert "The stage gate is held by temperature 0.10; the step ends." in steps
    assert "InfoNCE in the raw space fails the stage gate (cosine stage of eval_cosine" in steps
    assert "beats its control at R@5 by +0.083 [+0.062, +0.115]" in steps
    assert "temperature 9: too flat by far" in steps
    assert "Confirmation of search in the projected space: INCONCLUSIVE" in steps
    assert "the base recipe with InfoNCE in the raw space (Projection head)" in steps
    for name in ("contrastive_weight", "negatives", "anchor_mmd"):
        assert f"### {name}: not tried" in steps
        assert f"{name}: the run ended before" in section(fixed[0], "What was not tried")


def test_a_step_that_failed_says_what_it_rules_out(tmp_path):
    story = Story(tmp_path)
    story.start()
    story.phase1()
    story.step1()
    story.stop("NOT_FIXED")
    events = [e for e in events_of(story) if e["event"] != "confirmed"]
    for event in events:
        if event["event"] == "step_ended":
            event.update(stage="FAIL", candidate=None, kept=None, conflicts=[])
    text, _ = report(events, tmp_path)
    assert "Ruled out as a cause on its own, for the arms above: a split of the spaces." in text
    assert "# Triage report: NOT_FIXED" in text
    assert "--recipe FILE" in section(text, "Verdict")


def test_the_fix_is_given_as_a_recipe(fixed):
    shown = re.findall(r"```text\n(# fix.toml.*?)```", fixed[0], flags=re.S)
    values = tomllib.loads(shown[0])
    assert values == {
        "objective": {"space": "raw", "temperature": 0.1},
        "training": {"epochs": 6},
    }  # search_space is raw in the base recipe already


def test_confidence_of_an_open_verdict_is_that_of_the_nearest_model(events, tmp_path):
    """Not the largest gain, but the one whose verdict left the run open."""
    for event in events:
        if event["event"] == "confirmed" and event["step"] == "temperature":
            event["verdict"] = "FAIL"
        if event["event"] == "decision" and event["action"] == "Stop":
            event.update(verdict="INCONCLUSIVE", cause=[])
    text, _ = report(events, tmp_path)
    line = next(ln for ln in text.splitlines() if ln.startswith("- **Confidence**"))
    assert "gain of search in the projected space over AR-only" in line
    assert "R@5 +0.091 [+0.070, +0.123]" in line


def test_a_confirmed_recipe_is_named_with_its_arm(events, tmp_path):
    for event in events:
        if event["event"] == "test_judged" and event["step"] == "confirm_temperature":
            event["name"] = "carried recipe"
    text, _ = report(events, tmp_path)
    assert "| carried recipe (with temperature 0.10) (confirmation) | test |" in text
    assert "├── ◆ confirmation of carried recipe (with temperature 0.10): PASS" in text


def test_captions_keep_their_capitals(fixed):
    assert "Own contexts masked out of the pool; Δ is the difference from AR-only:" in fixed[0]


def test_a_draw_of_dev_windows_is_stated(story_events, tmp_path):
    """Every dev number of the report is of the draw; the reader must know of how much."""
    whole = section(report(story_events, tmp_path)[0], "Where the numbers come from")
    assert "dev 410 windows of 18 articles" in whole
    events = copy.deepcopy(story_events)
    events[0]["data"]["drawn_from"] = {"dev": {"windows": 61737, "articles": 3000}}
    origin = section(report(events, tmp_path)[0], "Where the numbers come from")
    assert "dev 410 of 61,737 windows, 18 of 3,000 articles" in origin
    assert "test 432 windows of 19 articles" in origin


def test_origin_is_complete(fixed):
    origin = section(fixed[0], "Where the numbers come from")
    for word in (
        "data4567",
        "0.1.0+abcdef012345",
        "fedcba987654",
        "torch 2.13.0",
        "--out 'a b'",
        "- **Seed**: 11",
        "- **Resumed**: 1 time",
    ):
        assert word in origin


@pytest.mark.parametrize("verdict", ["PASSED", "INCONCLUSIVE", "BLOCKED"])
def test_other_verdicts(verdict, tmp_path):
    story = Story(tmp_path)
    story.start()
    story.phase1(PASS if verdict == "PASSED" else UNSURE)
    cause = ["KEYS_WRONG"] if verdict == "BLOCKED" else []
    story.stop(verdict, cause, since="an interval crosses")
    text, page = report(events_of(story), tmp_path)
    assert text.startswith(f"# Triage report: {verdict}")
    assert f">{verdict}</p>" in page
