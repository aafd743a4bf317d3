"""A report of what is unfinished, missing, hostile or in the way."""

import re

import pytest
from report_story import HOSTILE, RESUME, Checker, events_of, fixed_story, report, row, section

from lvm.core.errors import UsageError
from lvm.views.report.markdown import plain


def test_every_prefix_of_a_journal_gives_a_partial_report(events, tmp_path):
    for length in range(1, len(events)):
        text, page = report(events[:length], tmp_path)
        assert text.startswith("# Triage report: UNFINISHED")
        assert "partial" in text.split("\n## ")[1]
        assert RESUME in section(text, "Verdict")
        assert Checker.of(page).problems == []


def test_missing_numbers_become_dashes(events, tmp_path):
    for event in events:
        if event["event"] == "test_judged":
            event["evaluation"]["latency"] = {}
            event["evaluation"]["masked"]["eff_at_5"] = None
            event["ann"] = {}
    text, _ = report(events, tmp_path)
    cells = row(section(text, "Models on the test split"), "AR-only")
    assert cells[-2:] == ["–", "–"]
    assert cells[10] == "–"
    assert "approximate search" not in text


def test_names_are_escaped(tmp_path):
    text, page = report(events_of(fixed_story(tmp_path, raw_name=HOSTILE)), tmp_path)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    outside = re.sub(r"```text\n.*?\n```", "", text, flags=re.S)  # code is shown as it is
    assert not re.search(r"(?<!\\)<script", outside)
    assert not re.search(r"(?<!\\)\]\(", outside)  # no link
    assert text.count("\n```") == 2 * len(re.findall(r"\n```text\n", text))
    gates = section(text, "Gates").split("####")[0]
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in gates.splitlines() if line[:1] == "|"}
    assert len(widths) == 1  # a pipe in a name does not add a column
    assert Checker.of(page).problems == []


def test_a_report_sends_no_commands_to_a_terminal(tmp_path):
    story = fixed_story(tmp_path, raw_name="\x1b[2J\x07\u202eraw\x00")
    for text in report(events_of(story), tmp_path):
        assert not set("\x1b\x07\x00\u202e") & set(text)
        assert r"\x1b[2J\x07\u202eraw\x00" in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("NOT_FIXED by r_at_5", "NOT_FIXED by r_at_5"),
        ("a|b", r"a\|b"),
        ("*x* _y_", r"\*x\* \_y\_"),
        ("# no heading", r"\# no heading"),
        ("1. no list", r"1\. no list"),
        ("+0.1 [0, 1]", "+0.1 [0, 1]"),
        ("a\nb", "a b"),
        ("> cosine >= 0.35 & more &lt;", r"\> cosine >= 0.35 & more \&lt;"),
        ("$x$ ~~y~~ <b>", r"\$x\$ \~\~y\~\~ \<b>"),
    ],
)
def test_plain(text, shown):
    assert plain(text) == shown


def test_files_are_replaced_whole(events, tmp_path):
    report(events, tmp_path)
    report(events, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "report.html",
        "report.md",
    ]


def test_an_unwritable_folder_is_named(events, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        report(events, tmp_path / "file" / "below")
