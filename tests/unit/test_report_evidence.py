import copy
import re

import pytest
from msgspec.structs import replace
from report_story import Checker, events_of, evidence, fixed_story, report, row, section, state_of

from lvm.evaluation.evaluate import evaluate
from lvm.evaluation.evidence import View, gather
from lvm.evaluation.words import in_words
from lvm.triage.events import TestJudged
from lvm.triage.verdict import build_verdict
from lvm.views.report import evidence_plots

TITLE = "Distributions and examples"


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    return events_of(fixed_story(tmp_path_factory.mktemp("evidence")))


@pytest.fixture(scope="module")
def told(events, tmp_path_factory):
    return report(events, tmp_path_factory.mktemp("told"))


def test_ranks_stand_per_model_with_their_quartiles(told):
    ranks = section(told[0], TITLE).split("Rank of the true next")[1]
    assert row(ranks, "AR-only") == ["AR-only", "raw", "7", "32", "1,234"]
    shares = ranks.split("Share of windows with the true next chunk among the first k")[1]
    assert row(shares, "InfoNCE+AR")[3] == f"{0.22 / 3:.3f}"
    assert "9,876 rows; 1 is best, 4,938 is chance" in told[0]


def test_ranks_are_drawn_on_a_log_scale_beside_the_best_rung(told):
    plot = told[1].split(">True next chunk among the first k")[1]
    assert "ladder: weighted_mix" in plot
    points = re.search(r'points="([\d., -]+)"/><g><title>AR-only', plot)[1].split()
    x = [float(point.split(",")[0]) for point in points]
    assert x[5] - x[4] == pytest.approx(x[4] - x[3], abs=0.11)  # 10, 100, 1000
    y = [float(point.split(",")[1]) for point in points]
    assert y[-1] == evidence_plots.reach_chart(9876).at(1, 1.0)[1] < y[0]
    label = re.search(r'aria-label="(True next[^"]*)"', told[1])[1]
    assert "AR-only, raw space: 0.010 within 1, 0.103 within 5" in label
    assert "Chance is k of 9,876" in label


def test_both_spaces_of_a_model_with_a_head_stand_side_by_side(told):
    spaces = section(told[0], TITLE).split("Raw against projected space")[1]
    lines = [line for line in spaces.splitlines() if line.startswith("| search in the projected")]
    assert len(lines) == 2
    assert r"projected\*" in lines[0]
    assert "| raw |" in lines[1]
    assert f"| {0.33:.3f} | {0.33 / 7:.3f} | {0.33 * 6 / 7:+.3f} | 66.5% |" in lines[0]
    said = (
        "the cosine with the own target goes from 0.165 to 0.330 and the cosine with another's "
        "target from "
    )
    assert f"{said}0.024 to 0.047; R@5 goes from 0.055 to 0.110" in told[0]
    assert told[1].count(", projected space, searched</p>") == 1
    others = told[1].split("Cosines of the other models")[1]
    assert "search in the projected space (confirmation), projected space, searched" in others
    assert ">temperature 0.10 (confirmation), raw space, searched" not in others


def test_histograms_of_all_models_share_their_axis(events):
    judged = [(e, e.evidence) for e in state_of(events).of(TestJudged)]
    bins = {"paired": [0.5, 0.25, 0.25], "shuffled": [0.0, 0.0, 1.0]}
    fine = replace(judged[0][1].spaces["raw"], low=0.1, width=0.025, **bins)
    on_grid = evidence_plots._on_grid(fine, 0.05, -1, 4)
    assert on_grid.edges == [-0.05, 0.0, 0.05, 0.1, 0.15, 0.2]
    assert on_grid.paired == [0.0, 0.0, 0.0, 0.75, 0.25]
    judged[0] = judged[0][0], replace(judged[0][1], spaces={"raw": fine})
    drawn = evidence_plots.cosines(judged[:1], judged) + evidence_plots.cosines(judged[1:], judged)
    lefts = re.findall(r'class="area c1" points="([\d.]+),', drawn)
    assert len(lefts) == sum(len(evidence.spaces) for _, evidence in judged)
    assert len(set(lefts)) == 1


def test_windows_are_shown_in_words_with_their_place(told):
    shown = section(told[0], TITLE).split("What was retrieved, in words")[1]
    assert "Texts, shortened: A source, CC0." in shown
    assert "Of 432 windows, 5 are hits, 17 near misses and 410 misses." in shown
    assert "Abacus & Sons, chunk 43, is among the first ten of 61 windows (14.1%)" in shown
    assert r"- **last context**: “chunk 1 \<b>of\</b> a text” (Abacus & Sons, chunk 41)." in shown
    assert "- **retrieved 1**: The true next. Cosine 0.712." in shown
    assert "Rank 87.5, cosine 0.123." in shown
    assert "Cosine 0.400; a hub, among the first ten of 61 windows." in shown
    assert "ranks 2 to 10: none." in shown


def test_the_confirmed_model_is_open_and_the_others_are_folded(told):
    parts = re.findall(r"<details( open)?><summary>([^<]*)", told[1])
    models = [(name, state) for state, name in parts if "confirmation" in name or "AR" in name]
    assert models[0] == ("temperature 0.10 (confirmation)", " open")
    assert [state for _, state in models[1:]] == [""] * 3
    assert told[0].count("Of 432 windows") == 1  # one model's windows in Markdown
    assert told[1].count("Of 432 windows") == 4


def test_rows_without_texts_are_shown_by_key(events, tmp_path):
    events = copy.deepcopy(events)
    for event in events:
        if event["event"] == "test_judged":
            event["evidence"]["titles"] = {}
            for word in event["evidence"]["words"].values():
                word["text"] = None
    text, page = report(events, tmp_path)
    assert "The bank has no texts, so rows are shown as keys." in text
    assert "- **last context**: Article 7, chunk 41." in text
    assert Checker.of(page).problems == []


def test_a_journal_from_before_there_was_evidence_is_reported(events, tmp_path):
    events = copy.deepcopy(events)
    for event in events:
        event.pop("evidence", None)
    text, page = report(events, tmp_path)
    assert "This journal has no distributions or examples." in section(text, TITLE)
    assert Checker.of(page).problems == []


def test_a_model_without_windows_to_compare_is_drawn(events, tmp_path):
    """One article in the test split: nothing to shuffle with, no bins."""
    events = copy.deepcopy(events)
    for event in events:
        if event["event"] == "test_judged":
            for space in event["evidence"]["spaces"].values():
                space.update(
                    paired=[],
                    shuffled=[],
                    low=0.0,
                    paired_mean=None,
                    shuffled_mean=None,
                    closer=None,
                )
    text, page = report(events, tmp_path)
    assert row(text.split("Raw against projected")[1], "AR-only")[2:6] == ["–"] * 4
    assert Checker.of(page).problems == []


def test_the_verdict_document_does_not_repeat_the_evidence(events):
    assert "examples" not in str(build_verdict(state_of(events), resume=""))


def test_the_made_up_evidence_has_the_keys_of_a_real_one(tiny_dataset):
    rows = tiny_dataset.bank.tensor[tiny_dataset.test.contexts[:, -1]]
    _, per_query = evaluate(rows, tiny_dataset.test, tiny_dataset.bank, space="raw", split="test")
    view = View("raw", rows, tiny_dataset.bank.tensor, per_query)
    real = in_words(gather(view, tiny_dataset, seed=0), tiny_dataset.bank)
    made = evidence(0.3, "raw")
    assert set(made) - {"source", "licence"} == set(real)
    assert set(made["spaces"]["raw"]) == set(real["spaces"]["raw"])
    assert set(made["examples"][0]) == set(real["examples"][0]) - {"hub"}
