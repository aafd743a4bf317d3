"""Two metrics in one file outside the package arrive wherever a metric should."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
import tiny
from frozen_runs import rendered

from lvm.core.config.recipe import Recipe
from lvm.core.config.run import GateConfig, ScheduleConfig
from lvm.core.errors import ConfigError, DataError
from lvm.core.metrics import METRICS, Metric, Shown
from lvm.core.records import Pool, Verdict, to_plain
from lvm.core.text import title_of
from lvm.evaluation.gates import gain, success_gates
from lvm.evaluation.measured import values_of
from lvm.triage.events import told
from lvm.triage.journal import read_run
from lvm.triage.over_seeds import gain_over_seeds
from lvm.triage.verdict import build_verdict
from lvm.views.terminal import models_table
from lvm.views.tracking.note import columns, table_name

MINE = """
import math
from lvm.core.metrics import METRICS, Metric, Shown

@METRICS.per_query(Metric(
    name="r_at_20", title="R@20", meaning="share in the top 20", shown=frozenset(Shown)))
def r_at_20(queries):
    return queries.hit(20)

@METRICS.per_query(Metric(
    name="mean_rank", title="mean rank", meaning="mean rank of the target", unit="places",
    higher_is_better=False, lowest=1.0, highest=math.inf, success=2.0))
def mean_rank(queries):
    return queries.rank
"""
POOL = Pool(id="abc", size=1000, mask="own contexts")
ARTICLES = np.repeat(np.arange(20), 10)


@dataclass(frozen=True, eq=False)
class Toy:
    """What a gate reads, from ranks without ties."""

    rank: np.ndarray
    cosine: np.ndarray
    articles: np.ndarray
    percentile: np.ndarray
    space: str = "raw"
    pool: Pool = POOL

    @property
    def reciprocal_rank(self) -> np.ndarray:
        return 1 / self.rank

    def hit(self, k: int) -> np.ndarray:
        return (self.rank <= k).astype(float)


def at_rank(rank: float) -> Toy:
    noise = np.random.default_rng(0).standard_normal(len(ARTICLES))
    zeros = np.zeros(len(ARTICLES))
    return Toy(rank + noise, zeros, ARTICLES, zeros)


@pytest.fixture(scope="module")
def plugged(tmp_path_factory):
    """The metrics above, imported from a folder of their own."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "metrics_of_mine.py").write_text(MINE)
    METRICS.names()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(METRICS, "_parts", dict(METRICS._parts))
        patch.syspath_prepend(folder)
        yield importlib.import_module("metrics_of_mine")
    del sys.modules["metrics_of_mine"]


@pytest.fixture(scope="module")
def run(plugged, tmp_path_factory, tiny_dataset):
    """A tiny triage of one step that knows both: its events, and what every view says."""
    folder = tmp_path_factory.mktemp("run")
    config = tiny.config(base=tiny.recipe(**{"training.epochs": 1}), stage=0.3, epochs=1)
    with tiny.shapes_known():
        tiny.triage(folder, tiny_dataset, config, num_steps=1)
    return [to_plain(event) for event in read_run(folder)], rendered(folder)


def row(text: str, beginning: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {beginning}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


# --- a run ---------------------------------------------------------------------------------------


def test_every_evaluation_holds_them_masked_and_raw(run):
    events, _ = run
    tests = [e["evaluation"] for e in events if e["event"] == "test_judged"]
    assert tests
    for found in tests:
        for part in (found["masked"], found["raw"]):
            assert part["r_at_10"] <= part["r_at_20"] <= part["contain_at_50"]
            assert 1 <= part["mean_rank"] <= found["pool"]["size"]
        assert found["masked"]["mean_rank"] < found["raw"]["mean_rank"]  # own contexts go
    spaces = [e["evidence"]["spaces"] for e in events if e["event"] == "test_judged"]
    assert all(0 <= space["also"]["r_at_20"] <= 1 for found in spaces for space in found.values())
    ladder = next(e["rows"] for e in events if e["event"] == "ladder" and e["split"] == "test")
    assert ladder["oracle"]["masked"]["mean_rank"] == 1


def test_an_epoch_measures_those_that_say_so(run):
    events, _ = run
    for epoch in (e for e in events if e["event"] == "epoch"):
        assert 0 <= epoch["also"]["r_at_20"] <= 1
        assert "mean_rank" not in epoch


def test_one_with_a_bound_is_among_the_success_gates_and_the_gains(run):
    events, _ = run
    phase_1 = next(e for e in events if e["event"] == "phase_1_judged")
    gates = {g["metric"]: g for g in phase_1["gates"] if g["gate"] == "success"}
    assert list(gates) == ["r_at_5", "mrr", "mean_rank"]
    assert [g["bound"] for g in gates.values()] == [0.1, 0.05, 2.0]
    assert gates["mean_rank"]["num_tests"] % 3 == 0
    masked = {
        e["name"]: e["evaluation"]["masked"]
        for e in events
        if e["event"] == "test_judged" and e["step"] == "phase_1"
    }
    fall = masked["AR-only"]["mean_rank"] - masked["InfoNCE+AR"]["mean_rank"]
    assert gates["mean_rank"]["estimate"]["value"] == pytest.approx(fall, rel=1e-5)
    judged = [e for e in events if e["event"] == "arm_judged" and e["gains"]]
    assert judged
    assert "mean_rank" in {g["metric"] for e in judged for g in e["gains"]}


def test_the_report_shows_them_in_its_tables(run):
    events, views = run
    report = views["report.md"]
    header = row(report, "Model | Epochs")
    assert header[-4:] == ["R@20", "mean rank", "P50 ms", "P95 ms"]
    found = next(e for e in events if e["event"] == "test_judged" and e["name"] == "AR-only")
    masked = found["evaluation"]["masked"]
    cells = row(report[report.index("| Model | Epochs") :], "AR-only")
    assert cells[-4:-2] == [f"{masked['r_at_20']:.3f}", f"{masked['mean_rank']:.3f}"]
    gate = next(
        g
        for e in events
        if e["event"] == "phase_1_judged"
        for g in e["gates"]
        if g["metric"] == "mean_rank"
    )
    below = row(report, "Δ InfoNCE+AR")[-3]
    assert below.startswith(f"{-gate['estimate']['value']:+.3f} [")  # a difference, as its caption
    assert "R@5 +0.1 or MRR +0.05 or mean rank +2 over AR-only" in report
    assert "dev R@20" in report
    assert row(report, "Model | Space | Own target")[-1] == "R@20"


def test_the_terminal_json_lines_and_mlflow_show_them(run):
    events, views = run
    summary = build_verdict(map(told, events), resume="")
    titles = [str(c.header) for c in models_table(summary).columns]
    assert "R@20" in titles
    assert "mean rank" not in titles  # it did not say so
    lines = [json.loads(line) for line in views["progress.jsonl"].splitlines()]
    assert all(line["mean_rank"] >= 1 for line in lines if line["event"] == "test_judged")
    assert all("r_at_20" in line for line in lines if line["event"] == "epoch")
    seen = json.loads(views["status.json"])
    assert seen["verdict"]
    arms = [json.loads(line) for line in views["mlflow.jsonl"].splitlines()]
    arm = next(a for a in arms if a["name"] == "Phase 1: InfoNCE+AR")
    names = {point[0] for point in arm["metrics"]}
    assert {
        "test.mean_rank",
        "test.raw.r_at_20",
        "R at 20",
        "mean rank",
        "r_at_20",
    } <= names
    assert table_name("r_at_20") == "R at 20"
    assert {"metrics.`R at 20`", "metrics.`mean rank`", "metrics.`Dev R at 20`"} <= set(columns())


def test_a_journal_is_read_without_the_file_that_declared_them(run, monkeypatch, tmp_path):
    known = {n: m for n, m in METRICS._parts.items() if n not in ("r_at_20", "mean_rank")}
    events, _ = run
    (tmp_path / "journal.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    monkeypatch.setattr(METRICS, "_parts", known)
    assert title_of("mean_rank") == "mean_rank"
    assert "mean_rank" in rendered(tmp_path)["report.md"]  # in the table of every gate


# --- a gate --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [(40, 60, Verdict.PASS), (60, 40, Verdict.FAIL), (59, 60, Verdict.FAIL)],
)
def test_a_fall_is_a_gain_where_lower_is_better(plugged, ours, theirs, verdict):
    """No rank is below 40, so neither R@5 nor a bound of .05 in MRR is reached."""
    whole, results = success_gates(at_rank(ours), at_rank(theirs), GateConfig(), 0)
    found = {r.metric: r for r in results}
    assert found["mean_rank"].verdict is verdict
    assert found["mean_rank"].estimate.value == pytest.approx(theirs - ours)
    assert found["r_at_5"].verdict is found["mrr"].verdict is Verdict.FAIL
    assert whole is verdict
    beats = gain(at_rank(ours), at_rank(theirs), "mean_rank", GateConfig(), 0)
    assert (beats.verdict is Verdict.PASS) == (ours < theirs)
    pair = [at_rank(ours)] * 2, [at_rank(theirs)] * 2
    assert gain_over_seeds(*pair, "mean_rank", GateConfig()).value == pytest.approx(theirs - ours)


def test_a_rung_ranks_by_a_metric_of_every_epoch_where_higher_is_better(plugged):
    assert ScheduleConfig(rung_metric="r_at_20").rung_metric == "r_at_20"
    with pytest.raises(ConfigError, match=r"^schedule\.rung_metric .*\(got 'mean_rank'\)"):
        ScheduleConfig(rung_metric="mean_rank")


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"success": -0.1}, r"must be above 0 and below 1 \(got -0\.1\); it is the rise that"),
        ({"success": 0.0}, r"must be above 0 and below 1 \(got 0\); it is the rise that"),
        ({"success": 1.0}, r"must be above 0 and below 1 \(got 1\); it is the rise that"),
        ({"success": math.nan}, r"must be above 0 and below 1 \(got nan\); it is the rise that"),
        (
            {"success": -50, "higher_is_better": False, "lowest": 1, "highest": math.inf},
            r"must be above 0 and below inf \(got -50\); it is the fall that",
        ),
    ],
)
def test_a_bound_of_the_wrong_direction_or_out_of_range_is_refused(declared, message):
    with pytest.raises(ConfigError, match=rf"^the success bound of metric 'x' {message}") as told:
        METRICS.per_query(Metric(name="x", title="x", meaning="x", **declared))
    assert "\n" not in str(told.value)
    assert "x" not in METRICS.names()


@pytest.mark.parametrize("made_from", [{}, {"of_means": lambda means: None}])
def test_a_bound_needs_values_per_window(made_from):
    metric = Metric(name="x", title="x", meaning="x", success=0.1, **made_from)
    with pytest.raises(ConfigError, match=r"^metric 'x' has a success bound but no values"):
        METRICS.register("x")(metric)
    assert "x" not in METRICS.names()


def test_an_empty_range_is_refused():
    with pytest.raises(ConfigError, match=r"^the lowest value of metric 'x' .* \(got 1 and 1\)"):
        Metric(name="x", title="x", meaning="x", lowest=1)


def test_two_metrics_of_one_name_are_refused(plugged):
    again = replace(METRICS.get("r_at_5"), title="again")
    with pytest.raises(
        ConfigError,
        match=r"^two metrics are named 'r_at_5', from lvm\.core\.metrics and .*test_open_m",
    ):
        METRICS.per_query(again)(lambda queries: queries.hit(5))
    with pytest.raises(ConfigError, match=r"^two metrics .* 'mean_rank', from metrics_of_mine"):
        METRICS.register("mean_rank")(METRICS.get("mean_rank"))


def test_a_loss_term_takes_no_name_of_a_metric(plugged):
    with pytest.raises(ConfigError):
        Recipe().with_changes({"objective.terms.mean_rank.weight": 0.1})


def test_values_of_another_shape_are_refused(plugged, monkeypatch):
    wrong = replace(METRICS.get("r_at_20"), values=lambda queries: queries.rank[:3])
    monkeypatch.setitem(METRICS._parts, "r_at_20", wrong)
    with pytest.raises(DataError, match=r"^metric 'r_at_20' .* \(200,\) .*\(3,\)"):
        values_of(at_rank(3), "r_at_20")


def test_a_command_that_reads_a_journal_starts_without_numpy():
    code = (
        "import sys, lvm.core.text, lvm.views.status; print({'numpy', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_table_is_in_the_order_of_declaration():
    assert METRICS.shown(Shown.DEV)[:3] == ("eval_cosine", "r_at_5", "mrr")
    assert METRICS.judged[:2] == ("r_at_5", "mrr")
