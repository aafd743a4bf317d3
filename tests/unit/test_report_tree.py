import json
import re

import pytest
from report_story import (
    HOSTILE,
    Checker,
    events_of,
    fixed_story,
    report,
    row,
    run_of,
    section,
)

from lvm.triage.spent import GATE, PRUNING, saved_seconds


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Events, report.md and report.html of the whole story."""
    folder = tmp_path_factory.mktemp("tree")
    events = events_of(fixed_story(folder))
    return events, *report(events, folder)


def tree(text: str) -> list[str]:
    return section(text, "The path through the tree").split("```")[1].splitlines()[1:]


# --- the path -------------------------------------------------------------------------------------


def test_every_place_stands_with_its_verdict_and_the_reason_it_was_entered(told):
    lines = tree(told[1])
    assert "● Phase 1: FAIL - since nothing is judged" in lines
    assert "● Step 1: Projection head: INCONCLUSIVE - since FAIL" in lines
    assert "■ FIXED by projection_head+temperature - since why" in lines
    end = next(i for i, line in enumerate(lines) if line.startswith("■"))
    after = [line for line in lines[end + 1 :] if line != "┆"]
    assert after == [
        f"○ {name} - not reached: the run ended first"
        for name in ("contrastive_weight", "negatives", "anchor_mmd")
    ]


@pytest.mark.parametrize(
    "line",
    [
        "├── ● control - trained for 6 epochs",
        "├── ● search in the projected space: INCONCLUSIVE - searched without training; chosen for "
        "confirmation",
        "├── ● InfoNCE in the raw space: FAIL - trained for 6 epochs; kept: it beats its control",
        "├── ✕ gradient through both branches: FAIL - pruned at epoch 2 of 6: dev cosine 0.215, "
        "below the cutoff 0.275",
        "├── ! temperature 0.05: NOT_EVALUABLE - diverged at epoch 1 of 6: the loss is NaN at "
        "update 17",
        "├── ● temperature 0.10: PASS - held the stage gate at epoch 2 of 6; chosen for "
        "confirmation; kept: it beats its control",
        "├── ■ temperature 0.15: FAIL - stopped at epoch 2 of 6: temperature 0.10 held the stage "
        "gate",
        "├── ○ temperature 9 - left out: too flat by far",
        "├── ◆ confirmation of temperature 0.10: PASS - since it holds",
        "├── ◆ confirmation of search in the projected space: INCONCLUSIVE - since it holds",
    ],
)
def test_every_arm_says_how_it_ended_and_why(told, line):
    assert line in tree(told[1])


def test_the_page_draws_what_markdown_writes(told):
    drawn = told[2].split('<ol class="tree">')[1].split("</ol>")[0]
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", drawn))
    for line in tree(told[1]):
        said = line.strip("│┆├─ ")
        for part in re.split(r": (?=[A-Z_]+ - )| - ", said[1:].strip()):
            assert part in words, line
    assert drawn.count('class="taken"') == 3
    assert drawn.count('class="passed"') == 3
    assert drawn.index('class="end"') < drawn.index('class="passed"')


def test_an_arm_of_an_earlier_part_is_not_trained_again_and_says_so(told, tmp_path):
    events = list(told[0])
    base = next(
        s["id"]
        for e in events
        if e["event"] == "step_started"
        for s in e["arms"]
        if s["name"] == "InfoNCE+AR"
    )
    story = fixed_story(tmp_path)
    control = next(
        s["id"]
        for e in events
        if e["event"] == "step_started"
        for s in e["arms"]
        if s["name"] == "control" and e["step"] == "projection_head"
    )
    shared = json.loads(json.dumps(events_of(story)).replace(control, base))
    md, _ = report(shared, tmp_path / "out")
    assert "├── ● control - trained for 6 epochs; same training as Phase 1" in tree(md)


def test_a_running_step_has_arms_that_had_not_ended(told, tmp_path):
    events = told[0]
    start = next(i for i, e in enumerate(events) if e["event"] == "step_started" and e["number"])
    text, _ = report(events[: start + 3], tmp_path)
    lines = tree(text)
    assert "├── ○ control - had not ended" in lines
    assert "■ UNFINISHED" in lines
    assert "○ temperature - not reached yet" in lines


def test_names_in_the_tree_are_escaped(tmp_path):
    events = events_of(fixed_story(tmp_path, raw_name=HOSTILE))
    _, page = report(events, tmp_path)
    assert "<script" not in page
    assert Checker.of(page).problems == []


def test_a_confirmation_says_whom_it_speaks_for(told, tmp_path):
    events = [dict(e) for e in told[0]]
    for event in events:
        if event["event"] == "confirmed" and event["step"] == "temperature":
            event["attribution"] = "more training"
    lines = tree(report(events, tmp_path)[0])
    said = "the unchanged recipe also holds the gate, so more training is the cause"
    assert f"├── ◆ confirmation of temperature 0.10: PASS - since it holds; {said}" in lines


def test_what_helped_together_has_a_place_of_its_own(told, tmp_path):
    events = list(told[0])
    stop = events.pop()
    confirmed = next(e for e in reversed(events) if e["event"] == "confirmed")
    carried = [["projection_head", "arm a"], ["temperature", "arm b"]]
    events += [
        {**stop, "action": "Confirm", "step": "combination", "carried": carried, "since": "both"},
        {**confirmed, "step": "combination", "arm": "together"},
        stop,
    ]
    lines = tree(report(events, tmp_path)[0])
    place = "● Together: arm a (Projection head), arm b (Temperature): PASS"
    at = lines.index(place)
    assert lines[at + 1].startswith("├── ◆ confirmation of ")
    assert lines[at + 1].endswith(": PASS - since both")


# --- the cost -------------------------------------------------------------------------------------


def test_gate_and_pruning_are_charged_for_what_each_saved(told):
    """12 epochs left by the arm that held and the two it stopped, 4 by the pruned arm; the five
    that a diverged arm did not run are no saving."""
    saved = saved_seconds(run_of(told[0]).state)
    assert saved == pytest.approx({GATE: 12 * 2.53, PRUNING: 4 * 2.53})
    cells = row(section(told[1], "Cost"), "all")
    assert cells[-2:] == ["30.4 s, 12 epochs", "10.1 s, 4 epochs"]
    assert row(section(told[1], "Cost"), "Temperature")[-2:] == ["30.4 s, 12 epochs", "–"]
    assert "30.4 s saved by the stage gate, 10.1 s by pruning (ASHA)" in section(told[1], "Verdict")
    assert "1 arm ended otherwise" in section(told[1], "Cost")
    assert "(contrastive_weight, negatives, anchor_mmd) is not counted" in told[1]


def test_an_arm_that_is_still_running_has_saved_nothing(told):
    events = [e for e in told[0] if e["event"] != "arm_ended"]
    assert saved_seconds(run_of(events).state) == {GATE: 0.0, PRUNING: 0.0}
