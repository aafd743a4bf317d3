"""The page of the report: sound by itself, and as its text."""

import re

import pytest
from report_story import RESUME, Checker, Story

from lvm.triage.verdict import build_verdict
from lvm.views.report import Run, Section, Table, html, plots


def test_the_page_is_sound_and_needs_nothing_else(fixed):
    page = fixed[1]
    checker = Checker.of(page)
    assert checker.problems == []
    assert checker.links
    assert all(link.startswith("#") for link in checker.links)
    assert "@import" not in page
    assert "url(" not in html.STYLE
    assert "prefers-color-scheme: dark" in page
    assert (
        page.index('class="badge pass">FIXED')
        < page.index('class="warning"')
        < page.index("<table")
    )


def test_page_and_markdown_say_the_same(fixed):
    text, page = fixed
    assert page.count("<table") == sum(
        1 for line in text.splitlines() if re.match(r"\|[ -]*--", line)
    )
    shown = re.sub(r"<[^>]*>", "", page)
    for number in re.findall(r"[+-]?\d\.\d{3} \[[^\]]*\]", text):
        assert number in shown


@pytest.mark.parametrize(("rows", "folds"), [(14, 0), (15, 1)])
def test_a_long_table_can_be_folded_and_starts_open(rows, folds):
    table = Table("many rows", "l", ("Name",), [[str(i)] for i in range(rows)])
    page = html.render([Section("all", "All", [table])], "PASSED")
    assert page.count('<details class="long" open><summary>many rows</summary>') == folds
    assert page.count("many rows</p>") == 1 - folds
    assert Checker.of(page).problems == []


def test_curves_show_every_epoch_of_every_arm(fixed, events):
    page, epochs = fixed[1], [e for e in events if e["event"] == "epoch"]
    for event in epochs:
        value = f"epoch {event['epoch']}: {event['r_at_5']:.3f}</title>"
        assert value in page, event
    searched = next(e for e in epochs if e["name"] == "search in the projected space")
    assert f"epoch 0: {searched['eval_cosine']:.3f}</title>" not in page  # another space
    assert ">stage gate 0.350</text>" in page
    assert f">copy_last {0.41 + 0.0107:.3f}</text>" in page


def test_curves_lie_where_their_values_are(tmp_path):
    story = Story(tmp_path)
    story.start()
    story.phase1()
    document = build_verdict(story.journal.events, resume=RESUME)
    run = Run(story.journal.events, document)
    chart = plots.chart_of(run, "eval_cosine")
    gate_y = re.findall(
        r'<line class="gate" [^>]*y1="([\d.]+)"', plots.step_curves(run, run.specs("phase_1"))
    )
    assert float(gate_y[0]) == pytest.approx(chart.at(0, 0.35)[1], abs=0.06)
    points = re.findall(
        r'points="([\d., ]+)"/><g><title>AR', plots.step_curves(run, run.specs("phase_1"))
    )
    x, y = map(float, points[0].split()[-1].split(","))
    assert (x, y) == pytest.approx(chart.at(6, 0.31 + 0.0123 * 6), abs=0.06)
    assert chart.at(0, chart.y.low)[1] > chart.at(0, chart.y.high)[1]
