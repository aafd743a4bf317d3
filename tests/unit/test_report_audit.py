from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import pytest
from msgspec import convert
from report_story import HOSTILE, Checker, Story, events_of, fixed_story, report, run_of, section

from lvm.audit.document import AuditDocument, Plots, answer, not_looked_at, where_in_words
from lvm.triage.events import Audited, Inspected
from lvm.views.report import plot_words, small_plots
from lvm.views.report.audit import audit_section
from lvm.views.report.charts.chart import HEIGHT, WIDTH
from lvm.views.report.markdown import write_audit_report
from lvm.views.terminal.audit import print_audit

REPAIR = "lvm audit --train t.npz --eval e.npz --payload p.npz --repair OUT"


def profile(*means, start=-5):
    return {
        "x": list(range(start, start + len(means))),
        "mean": list(means),
        "error": [0.004] * len(means),
        "windows": 1234,
    }


def histogram(paired_mean):
    return {
        "edges": [0.0, 0.25, 0.5, 0.75],
        "paired": [0.25, 0.5, 0.25],
        "shuffled": [0.75, 0.25, 0.0],
        "paired_mean": paired_mean,
        "shuffled_mean": 0.1984,
        "windows": 1234,
    }


PLOTS = {
    "position_profile": {
        "train": profile(0.34, 0.35, 0.36, 0.39, 0.46),
        "eval": profile(*[0.14] * 5),
    },
    "lag_profile": {"train": profile(0.46, 0.39, 0.36, start=1)},
    "offset_sweep": {
        "train": profile(0.35, 0.38, 0.44, 1.0, 0.45, 0.39, 0.36, 0.34, 0.33, start=-4),
        "eval": profile(0.14, 0.15, 0.14, 0.13, 0.14, 0.15, None, None, None, start=-4),
    },
    "coherence_blocks": {
        "blocks": [
            {"first": 3, "last": 11, "articles": 9, "windows": 200, "near": 0.29, "error": 0.02},
            {"first": 12, "last": 20, "articles": 9, "windows": 200, "near": 0.01, "error": 0.02},
            {"first": 21, "last": 21, "articles": 1, "windows": 9, "near": 0.4, "error": 0.0},
        ],
        "by_article": True,
        "train": {"near": 0.3, "error": 0.01},
        "low": 0.24,
        "high": 0.36,
    },
    "cosine_histograms": {"train": histogram(0.52), "eval": histogram(0.2)},
    "prediction_histogram": histogram(0.61),
}


def finding(code, severity="block", **changes):
    return {
        "code": code,
        "severity": severity,
        "seen": f"{code} was seen",
        "allowed": "none of it",
        "where": {
            "input": "eval",
            "source": "data/e.npz",
            "count": 5200,
            "of": 5244,
            "rows": [7, 9],
        },
        "meaning": f"What {code} means.",
        "next": REPAIR,
        "values": {"share": 0.5},
        **changes,
    }


def check(code, status, reason="", next=""):
    return {
        "code": code,
        "question": f"what of {code}?",
        "status": status,
        "reason": reason,
        "next": next,
        "seconds": 0.1,
    }


def document(verdict="BLOCKED", findings=None, **changes) -> AuditDocument:
    return convert(plain(verdict, findings, **changes), AuditDocument)


def plain(verdict="BLOCKED", findings=None, **changes) -> dict:
    """Return an audit as audit.json holds it."""
    if findings is None:
        findings = [finding("KEYS_WRONG"), finding("EVAL_UNPAIRED"), finding("DUPLICATES", "warn")]
    return {
        "schema": 1,
        "verdict": verdict,
        "findings": findings,
        "checks": [
            *(check(f["code"], "FOUND") for f in findings),
            check("SCHEMA", "PASS"),
            check("LOADER", "NOT_EVALUABLE", "there is no checkpoint", "give --checkpoint"),
            check("COLLAPSE", "NOT_EVALUABLE", "there is no checkpoint", "give --checkpoint"),
            check("INDEX_MISMATCH", "NOT_EVALUABLE", "there is no index"),
        ],
        "allowed": [],
        "ladder": {"copy_last": {"eval_cosine": 0.4567, "r_at_5": 0.3123}},
        "plots": PLOTS,
        "inputs": {"eval": {"source": "data/e.npz", "windows": 5244, "width": 768}},
        "route": {"blocked": [], "order": ["temperature"], "reasons": ["COLLAPSE: step 2 first"]},
        "seconds": 9.13,
        "quick": False,
        **changes,
    }


def blocked_story(folder) -> list[dict]:
    told = Story(folder)
    told.start()
    told.add(Audited, audit=document())
    told.stop("BLOCKED", ["KEYS_WRONG"], since="the audit")
    return events_of(told)


def of_a_run(folder, audit) -> list[dict]:
    """Return the events of a run that was fixed, after this audit."""
    told = fixed_story(folder)
    told.add(Audited, audit=audit)
    return events_of(told)


def alone(audit, folder):
    path = write_audit_report(audit, folder)
    return path.read_text(encoding="utf-8"), (folder / "report.html").read_text(encoding="utf-8")


def terminal(audit) -> str:
    stream = io.StringIO()
    print_audit(audit, stream)
    return stream.getvalue()


# --- the report of a run --------------------------------------------------------------------------


def test_a_blocked_run_says_on_its_first_screen_what_blocks_and_what_to_do(tmp_path) -> None:
    text, page = report(blocked_story(tmp_path), tmp_path)
    first = section(text, "Verdict")
    assert text.startswith("# Triage report: BLOCKED")
    assert "**BLOCKED: KEYS_WRONG, EVAL_UNPAIRED. Training cannot fix this" in first
    assert "- **KEYS_WRONG**: KEYS_WRONG was seen. What KEYS_WRONG means." in first
    assert "DUPLICATES" not in first  # it does not block
    assert "0 s of training; the audit took 9.1 s" in first
    assert f"- **Next**: {REPAIR}" in first
    assert first.count(REPAIR) == 1
    assert "--allow KEYS_WRONG --allow EVAL_UNPAIRED" in first
    assert "python tune_jobs/triage.py --out 'a b'" in first
    assert "UNFINISHED" not in text
    for title in ("Models on the test split", "Gates", "Step by step", "Cost"):
        assert f"## {title}" not in text  # there is nothing to say there
    assert "## Where the numbers come from" in text
    assert Checker.of(page).problems == []


def test_an_override_is_said_at_the_top(tmp_path) -> None:
    audit = document("WARNINGS", allowed=["KEYS_WRONG", "EVAL_UNPAIRED", "SPACE_MISMATCH"])
    text, page = report(of_a_run(tmp_path, audit), tmp_path)
    first = section(text, "Verdict")
    warnings = [line for line in first.splitlines() if line.startswith("> **Warning:**")]
    assert "--allow KEYS_WRONG: the audit would have stopped this run." in warnings[0]
    assert "--allow EVAL_UNPAIRED" in warnings[1]
    assert "SPACE_MISMATCH" not in first  # allowed, but nothing was there to allow
    assert page.index("--allow KEYS_WRONG") < page.index("<dl>")
    audited = section(text, "The audit")
    assert "block (allowed)" in audited
    assert "**KEYS_WRONG**" not in audited  # only what stops a run is set off
    assert text.index("## Gates") < text.index("## The audit") < text.index("## Step by step")


def test_a_run_without_an_audit_reads_as_before(tmp_path) -> None:
    text, page = report(events_of(fixed_story(tmp_path)), tmp_path)
    assert "audit" not in text.lower()
    assert "The audit" not in page


def test_a_clean_audit_names_its_counts_in_a_finished_run(tmp_path) -> None:
    text, _ = report(of_a_run(tmp_path, document("CLEAN", [])), tmp_path)
    line = "- **Audit**: clean: 1 check passed, 3 had no input"
    assert line in section(text, "Verdict")
    assert "No findings." in section(text, "The audit")


def test_a_broken_check_is_a_warning_at_the_top(tmp_path) -> None:
    broke = check("HUBNESS", "FAILED", "IndexError: index 3")
    text, _ = report(of_a_run(tmp_path, document("UNSURE", [], checks=[broke])), tmp_path)
    assert "Check HUBNESS crashed, so the data cannot be called clean: IndexError" in section(
        text, "Verdict"
    )


# --- the section ----------------------------------------------------------------------------------


def test_the_audit_alone_is_complete(tmp_path) -> None:
    text, page = alone(document(), tmp_path)
    assert text.startswith("# Audit report: BLOCKED")
    assert "<h1>Audit report</h1>" in page
    audit = section(text, "The audit")
    assert "| **KEYS_WRONG** | **block** | **KEYS_WRONG was seen** | **none of it** |" in audit
    assert "eval, data/e.npz: 5,200 of 5,244 rows; rows 7, 9" in audit
    assert audit.index("KEYS_WRONG") < audit.index("EVAL_UNPAIRED") < audit.index("DUPLICATES")
    assert "- **DUPLICATES, eval**: What DUPLICATES means." in audit
    assert "- LOADER, COLLAPSE: there is no checkpoint (give --checkpoint)" in audit
    assert "- SCHEMA: what of SCHEMA?" in audit
    assert "- COLLAPSE: step 2 first" in audit
    assert "Order of the steps: temperature." in audit
    assert "| copy_last | 0.457 | 0.312 |" in audit
    assert "- **Eval**: data/e.npz; 5,244 windows; width 768" in audit
    assert Checker.of(page).problems == []


def test_hostile_text_is_escaped(tmp_path) -> None:
    where = {"input": "eval", "source": HOSTILE, "slot": HOSTILE}
    hostile = finding("KEYS_WRONG", seen=HOSTILE, meaning=HOSTILE, next=HOSTILE, where=where)
    drawn = {"position_profile": {HOSTILE: profile(0.1, 0.2)}}
    text, page = alone(document(findings=[hostile], plots=drawn), tmp_path)
    assert "<script" not in page
    assert Checker.of(page).problems == []
    outside = re.sub(r"```text\n.*?\n```", "", text, flags=re.S)
    assert not re.search(r"(?<!\\)<script", outside)
    widths = {len(re.findall(r"(?<!\\)\|", ln)) for ln in outside.splitlines() if ln[:4] == "| **"}
    assert widths == {6}  # a pipe in a text does not add a column


@pytest.mark.parametrize("part", ["plots", "ladder", "inputs", "allowed", "seconds", "quick"])
def test_what_was_not_always_written_may_be_missing(part, tmp_path) -> None:
    audit = plain()
    del audit[part]
    text, page = alone(convert(audit, AuditDocument), tmp_path)
    assert "KEYS_WRONG" in text
    assert Checker.of(page).problems == []


def test_where_in_words() -> None:
    where = {
        "input": "bank",
        "count": 12345,
        "of": 99999,
        "rows": list(range(8)),
        "articles": [4],
        "blocks": [[1, 3], [9, 12]],
        "slot": 2,
    }
    assert where_in_words(where) == (
        "bank: 12,345 of 99,999 rows; rows 0, 1, 2, 3, 4 …; articles 4; "
        "blocks of articles 1–3, 9–12; slot 2"
    )
    assert where_in_words({"input": "gate"}) == "gate"
    assert where_in_words({}) == ""


def plots(found) -> Plots:
    return convert(found, Plots)


# --- the plots ------------------------------------------------------------------------------------


def drawings(markup: str) -> dict[str, ElementTree.Element]:
    """The panels by their text alternative; parsing them is the first test."""
    root = ElementTree.fromstring(markup)
    return {svg.get("aria-label"): svg for svg in root.iter("svg") if svg.get("role") == "img"}


def test_every_plot_is_drawn_with_a_text_alternative(tmp_path) -> None:
    found = list(drawings(small_plots.panels(plots(PLOTS))))
    starts = (
        "Contexts against",
        "Vectors of a window",
        "Last context against",
        "Coherence by block",
        "Mean of the contexts against targets, train",
        "Mean of the contexts against targets, eval",
        "Predictions against",
    )
    assert len(found) == len(starts)
    for said, start in zip(found, starts, strict=True):
        assert said.startswith(start)
    assert "eval: -5 0.140" in found[0]
    assert "articles 12–20: 0.010" in found[3]
    assert "own target, mean 0.520" in found[4]
    _, page = alone(document(), tmp_path)
    assert page.count('role="img"') == len(starts)


def test_drawings_hold_numbers_only_and_stay_inside() -> None:
    markup = small_plots.panels(plots(PLOTS))
    assert "nan" not in markup.lower()
    assert "None" not in markup
    for svg in drawings(markup).values():
        for element in svg.iter():
            for name in ("x", "x1", "x2", "cx"):
                assert 0 <= float(element.get(name, 0)) <= WIDTH
            for name in ("y", "y1", "y2", "cy"):
                assert 0 <= float(element.get(name, 0)) <= HEIGHT


def test_values_lie_where_the_axis_says() -> None:
    """Higher values are drawn higher, and the peak of the sweep lies on its guide."""
    sweep = next(
        v for k, v in drawings(small_plots.panels(plots(PLOTS))).items() if k[:4] == "Last"
    )
    marks = {g.find("title").text: g for g in sweep.iter("g") if g.find("title") is not None}
    peak, beside = marks["train, -1: 1.000"], marks["train, -2: 0.440"]

    def height(g) -> float:
        bar = g.find("line")
        return (float(bar.get("y1")) + float(bar.get("y2"))) / 2

    assert height(peak) < height(beside)
    guide = next(line for line in sweep.iter("line") if line.get("class") == "rung")
    assert peak.find("line").get("x1") == guide.get("x1")
    assert len(marks) == 9 + 6  # None is no point


@pytest.mark.parametrize("name", list(PLOTS))
def test_each_plot_can_be_missing_or_alone(name) -> None:
    rest = {key: value for key, value in PLOTS.items() if key != name}
    alone_, without = (
        drawings(small_plots.panels(plots({name: PLOTS[name]}))),
        small_plots.panels(plots(rest)),
    )
    assert len(alone_) == (2 if name == "cosine_histograms" else 1)
    assert not set(alone_) & set(drawings(without))
    assert plot_words.as_text(plots({name: PLOTS[name]}))


def test_without_numbers_nothing_is_drawn() -> None:
    empty = {
        "position_profile": {"eval": {"x": [1], "mean": [None], "error": [None]}},
        "coherence_blocks": {"blocks": []},
        "cosine_histograms": {},
    }
    assert small_plots.panels(plots(empty)) == small_plots.panels(Plots()) == ""
    assert plot_words.as_text(plots(empty)) == ""


def test_one_block_without_a_train_side_is_drawn() -> None:
    part = {"blocks": PLOTS["coherence_blocks"]["blocks"][:1], "by_article": False}
    (said,) = drawings(small_plots.panels(plots({"coherence_blocks": part})))
    assert "stretch 3–11 of the file: 0.290" in said
    assert "Train" not in said


def test_markdown_holds_the_numbers_of_the_plots(tmp_path) -> None:
    text, page = alone(document(), tmp_path)
    rows = {line.split("  ")[0]: line.split() for line in text.splitlines()}
    assert " ".join(rows["train"][1:]) == "0.350 0.380 0.440 1.000 0.450 0.390 0.360 0.340 0.330"
    assert rows["eval"][-4:] == ["0.150", "–", "–", "–"]
    assert "train peaks at -1 (1.000); eval is flat (0.130 to 0.150)." in text
    assert "train goes from 0.340 to 0.460; eval goes from 0.140 to 0.140." in text
    assert "within 20% of the train level 0.300: 2 of 3 lie outside" in text
    assert "|▃▅▃|" in text  # shares .25 .5 .25 against the highest, .75
    assert "the means differ by +0.002" in text
    assert "|▃▅▃|" not in page  # HTML draws it


def test_many_blocks_are_listed_by_how_far_off_they_are() -> None:
    part = PLOTS["coherence_blocks"]
    block = part["blocks"][0]
    many = [{**block, "first": i, "last": i, "near": 0.3 + i / 1000} for i in range(25)]
    text = plot_words.as_text(plots({**PLOTS, "coherence_blocks": {**part, "blocks": many}}))
    assert "the 10 of 25 farthest off" in text
    assert "25: articles 24" in text
    assert "1: articles 0 " not in text


# --- the terminal ---------------------------------------------------------------------------------


def test_the_terminal_answers_first() -> None:
    lines = terminal(document()).splitlines()
    assert lines[0] == "BLOCKED: KEYS_WRONG, EVAL_UNPAIRED"
    assert lines[-1] == "9.1 s"
    codes = [line.split()[0] for line in lines if re.match(r"[A-Z_]+ +(block|warn) ", line)]
    assert codes == ["KEYS_WRONG", "EVAL_UNPAIRED", "DUPLICATES"]
    assert "EVAL_UNPAIRED: What EVAL_UNPAIRED means." in lines
    assert lines.count(f"  next: {REPAIR}") == 3
    blind = [line.strip() for line in lines]
    assert "LOADER, COLLAPSE: there is no checkpoint (give --checkpoint)" in blind


def test_a_plain_stream_has_no_codes_and_80_columns() -> None:
    long = finding("KEYS_WRONG", meaning="word " * 60, seen="seen " * 30, next=REPAIR)
    text = terminal(document(findings=[long]))
    assert "\x1b" not in text
    for line in text.splitlines():
        assert len(line.rstrip()) <= 80 or line.startswith("  next: ")  # copied whole


def test_markup_in_a_text_is_shown_as_it_is() -> None:
    text = terminal(document(findings=[finding("KEYS_WRONG", meaning="[red]x[/red]")]))
    assert "KEYS_WRONG: [red]x[/red]" in text


@pytest.mark.parametrize(
    ("audit", "want"),
    [
        (document(), "BLOCKED: KEYS_WRONG, EVAL_UNPAIRED"),
        (document(allowed=["KEYS_WRONG"]), "BLOCKED: EVAL_UNPAIRED"),
        (document("CLEAN", []), "clean: 1 check passed, 3 had no input"),
        (
            document("WARNINGS", [finding("POOL", "warn"), finding("POOL", "warn")]),
            "warnings: POOL; 1 check passed, 3 had no input",
        ),
        (
            document("UNSURE", [finding("POOL", "warn")], checks=[check("HUBNESS", "FAILED")]),
            "not sure: HUBNESS crashed; found: POOL; 0 checks passed, 0 had no input",
        ),
    ],
)
def test_the_answer(audit, want) -> None:
    assert answer(audit) == want
    assert terminal(audit).splitlines()[0] == want


def test_an_override_is_said_on_the_terminal() -> None:
    text = terminal(document("WARNINGS", allowed=["KEYS_WRONG", "EVAL_UNPAIRED"]))
    assert "--allow KEYS_WRONG: the audit would have stopped this run." in text
    assert "(allowed)" in text


def test_reasons_are_told_once() -> None:
    assert not_looked_at(document()) == [
        "LOADER, COLLAPSE: there is no checkpoint (give --checkpoint)",
        "INDEX_MISMATCH: there is no index",
    ]


def test_what_the_model_of_phase_1_shows_orders_the_steps_and_is_said(tmp_path) -> None:
    told = fixed_story(tmp_path)
    found = finding("COLLAPSE", seen="dispersion .1", meaning="It shrinks.")
    about = {"arm": "a", "name": "InfoNCE+AR"}
    reasons = ["steps 2 and 5 first: predictions have collapsed"]
    told.add(Inspected, findings=[found], reasons=reasons, **about)
    said = str(list(audit_section(run_of(events_of(told)))))
    for words in ("InfoNCE+AR, on dev", "COLLAPSE: dispersion .1. It shrinks.", "steps 2 and 5"):
        assert words in said
    told.add(Inspected, findings=[], reasons=reasons, **about)
    bare = str(list(audit_section(run_of(events_of(told)))))
    assert "none of the checks of predictions found it odd" in bare
