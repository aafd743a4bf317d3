import copy
import math
import re
import tomllib
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from msgspec.structs import replace

from lvm.core.config.recipe import Recipe
from lvm.core.config.run import RunConfig
from lvm.core.errors import UsageError
from lvm.core.records import Estimate, Evaluation, GateResult, Pool, StopReason, Verdict, to_plain
from lvm.triage.arm import ArmSpec
from lvm.triage.events import (
    ArmEnded,
    ArmJudged,
    Confirmed,
    Decision,
    Epoch,
    Interrupted,
    Ladder,
    Phase1Judged,
    Resumed,
    Rung,
    RunStarted,
    Settled,
    StepEnded,
    StepStarted,
    TestJudged,
    event_of,
    told,
)
from lvm.triage.journal import SCHEMA, Journal
from lvm.triage.state import RunState
from lvm.triage.step import Role
from lvm.triage.verdict import build_verdict
from lvm.views.report import Run, Section, Table, html, plots
from lvm.views.report.markdown import plain, write_report
from lvm.views.report.models import _model_row

RESUME = "python tune_jobs/triage.py --resume runs/7"
HOSTILE = '<script>alert("x")</script> | `a` **b** [c](http://example.org) & \nrest'
POOL = Pool(id="pool0123", size=9876, mask="own contexts")
CONFIG = RunConfig(recipe=Recipe(seed=11))
RAW = {"objective.space": "raw", "search_space": "raw"}

PASS, FAIL, UNSURE = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE


def evaluation(seed: float, *, split: str = "test", space: str = "raw") -> Evaluation:
    """Metrics that differ in every column, so that a swapped column is seen."""
    names = ("eval_cosine", "r_at_1", "r_at_5", "r_at_10", "mrr", "contain_at_50", "eff_at_5")
    masked = {name: seed + 0.0107 * (i + 1) for i, name in enumerate((*names, "percentile"))}
    raw = {name: value / 2 for name, value in masked.items()}
    return Evaluation(
        split=split,
        space=space,
        num_windows=432,
        num_articles=19,
        pool=POOL,
        masked=masked,
        raw=raw,
        latency={"p50_ms": 1.2345 + seed, "p95_ms": 2.3456 + seed} if split == "test" else {},
    )


PAIRED = {"p_value": 0.0101, "adjusted_p": 0.0404, "num_tests": 4, "sign_flip_p": 0.0123}


def gate(kind: str, metric: str, value: float, verdict: Verdict, bound: float = 0.0) -> GateResult:
    estimate = Estimate(
        value=value,
        lower=value - 0.0213,
        upper=value + 0.0317,
        confidence=0.95,
        num_windows=432,
        num_articles=19,
    )
    return GateResult(
        gate=kind,
        metric=metric,
        bound=bound,
        estimate=estimate,
        verdict=verdict,
        reason=f"{kind} of {metric} in words",
        design_effect=2.16,
        effective_articles=12.34,
        size_correlation=-0.449,
        **{} if kind == "stage" else PAIRED,
    )


def success(r_at_5: float, mrr: float, verdict: Verdict) -> list[GateResult]:
    return [
        gate("success", "r_at_5", r_at_5, verdict, 0.10),
        gate("success", "mrr", mrr, FAIL, 0.05),
        gate("gain", "r_at_5", r_at_5 - 0.01, verdict),
        gate("gain", "mrr", mrr - 0.01, verdict),
    ]


def evidence(seed: float, space: str) -> dict:
    """Evidence of a model: both spaces where it is searched in the projected one, four rows."""

    def of(level: float) -> dict:
        return {
            "low": -0.05,
            "width": 0.05,
            "paired": [0.0, 0.25, level, 0.75 - level],
            "shuffled": [level, 1 - level, 0.0, 0.0],
            "paired_mean": level,
            "shuffled_mean": level / 7,
            "closer": 0.5 + level / 2,
            "r_at_1": level / 9,
            "r_at_5": level / 3,
            "r_at_10": level / 2,
            "mrr": level / 4,
            "contain_at_50": level,
        }

    other = {"raw": of(seed / 2)} if space == "projected" else {}
    return {
        "windows": 432,
        "spaces": {space: of(seed), **other},
        "reach": {
            "k": [1, 2, 5, 10, 100, 1000, 9871],
            "share": [0.01, 0.02, seed / 3, seed / 2, 0.6, 0.9, 1.0],
        },
        "ranks": [7.0, 31.5, 1234.0],
        "hubs": [{"row": 3, "windows": 61}],
        "found": {"hit": 5, "near miss": 17, "miss": 410},
        "examples": [
            {
                "kind": "hit",
                "contexts": [0, 1],
                "target": 2,
                "rank": 1.0,
                "cosine": 0.7123,
                "retrieved": [2, 3, 1],
                "scores": [0.7123, 0.6001, 0.5002],
            },
            {
                "kind": "hub",
                "contexts": [1, 2],
                "target": 0,
                "rank": 87.5,
                "cosine": 0.1234,
                "retrieved": [3, 1],
                "scores": [0.4001, 0.3002],
                "hub": 3,
            },
        ],
        "words": {
            str(row): {"key": [7, row + 40], "text": f"chunk {row} <b>of</b> a text"}
            for row in range(4)
        },
        "titles": {"7": "Abacus & Sons"},
        "source": "A source",
        "licence": "CC0",
    }


class Story:
    """Writes the journal of a run that takes every turn a run can take."""

    def __init__(self, folder: Path, *, raw_name: str = "InfoNCE in the raw space") -> None:
        self.journal = Journal(folder)
        self.raw_name = raw_name

    def add(self, kind, **values) -> None:
        self.journal.append(event_of(kind, **values))

    def spec(self, step, name, role, changes=(), *, epochs=6, source=None) -> ArmSpec:
        recipe = CONFIG.recipe.with_changes({**dict(changes), "training.epochs": epochs})
        return ArmSpec(
            id=f"{step}-{name}"[:30].encode().hex(),
            step=step,
            name=name,
            role=role,
            recipe=recipe,
            folder=Path("runs/7/arms") / step,
            gates=CONFIG.gates,
            source=source,
            why=f"why {name}",
            changes=dict(changes),
        )

    def begin(self, step, specs, **about) -> None:
        arms = [spec.in_journal(Path("/run")) for spec in specs]
        self.add(StepStarted, step=step, arms=arms, epochs=6, **about)

    def epochs(self, spec: ArmSpec, upto: int, start: float, *, first: int = 1) -> None:
        for epoch in range(first, upto + 1):
            self.add(
                Epoch,
                arm=spec.id,
                step=spec.step,
                name=spec.name,
                epoch=epoch,
                eval_cosine=start + 0.0123 * epoch,
                r_at_5=start / 3 + 0.0111 * epoch,
                mrr=start / 4 + 0.0077 * epoch,
                stage=FAIL,
                loss=1.5 / (1 + epoch),
                seconds=2.53 if epoch else 0.0,
            )

    def end(self, spec: ArmSpec, reason: StopReason, epoch: int, detail: str = "") -> None:
        self.add(
            ArmEnded,
            arm=spec.id,
            step=spec.step,
            name=spec.name,
            reason=reason,
            epoch=epoch,
            detail=detail,
        )

    def judge(self, spec, reason, epoch, stage, seed, gains=(), *, ran=None, detail="") -> None:
        ran = epoch if ran is None else ran
        dev = (
            None if seed is None else evaluation(seed, split="dev", space=spec.recipe.search_space)
        )
        self.add(
            ArmJudged,
            arm=spec.id,
            step=spec.step,
            name=spec.name,
            role=spec.role,
            reason=reason,
            detail=detail,
            epoch=epoch,
            epochs_run=ran,
            train_seconds=2.53 * ran,
            evaluation=dev,
            stage=stage,
            gains=list(gains),
        )

    def test(self, spec: ArmSpec, seed: float) -> None:
        self.add(
            TestJudged,
            arm=spec.id,
            step=spec.step,
            name=spec.name,
            role=spec.role,
            epochs=0 if spec.source else 6,
            evaluation=evaluation(seed, space=spec.recipe.search_space),
            ann={
                "contain_at_50_exact": seed + 0.2,
                "contain_at_50_approximate": seed + 0.15,
                "difference": 0.0543,
            },
            evidence=evidence(seed, spec.recipe.search_space),
        )

    def start(self) -> None:
        windows = {"train": 7000, "dev": 410, "test": 432}
        self.add(
            RunStarted,
            schema=SCHEMA,
            command="python tune_jobs/triage.py --out 'a b'",
            arguments={},
            config=CONFIG,
            code="0.1.0+abcdef012345",
            commit="fedcba987654",
            environment={
                "versions": {"python": "3.11.9", "torch": "2.13.0"},
                "platform": "Linux-6",
                "cpus": 3,
                "memory_gib": 23.4,
            },
            plan=[
                "projection_head",
                "temperature",
                "contrastive_weight",
                "negatives",
                "anchor_mmd",
            ],
            data={
                "source": "the bundled sample",
                "rows": 9876,
                "width": 384,
                "fingerprint": "data4567",
                "windows": windows,
                "articles": {"train": 57, "dev": 18, "test": 19},
            },
            identity={},
        )
        names = {"oracle": 0.9, "random": 0.001, "copy_last": 0.41, "weighted_mix": 0.52}
        for split in ("dev", "test"):
            rows = {name: evaluation(seed, split=split) for name, seed in names.items()}
            self.add(Ladder, split=split, rows=rows)

    def phase1(self, verdict: Verdict = FAIL) -> None:
        self.add(Decision, number=0, action="RunPhase1", since="nothing is judged")
        ar = self.spec("phase_1", "AR-only", Role.PHASE1)
        self.base = self.spec("phase_1", "InfoNCE+AR", Role.PHASE1)
        self.begin("phase_1", [ar, self.base], title="Phase 1")
        for spec, seed in ((ar, 0.31), (self.base, 0.22)):
            self.epochs(spec, 6, seed)
            self.end(spec, StopReason.FINISHED, 6)
            self.judge(
                spec, StopReason.FINISHED, 6, gate("stage", "eval_cosine", seed, FAIL, 0.35), seed
            )
            self.test(spec, seed)
        gates = success(0.0122, 0.0044, verdict)[:2]
        self.add(Phase1Judged, verdict=verdict, gates=gates, baseline="AR-only")

    def step1(self) -> None:
        """A source arm, a conflict, a pruned arm; an INCONCLUSIVE confirmation; one arm kept."""
        step = "projection_head"
        self.add(Decision, number=1, action="RunStep", step=step, since="FAIL")
        control = self.spec(step, "control", Role.CONTROL)
        searched = self.spec(
            step,
            "search in the projected space",
            Role.ARM,
            {"search_space": "projected"},
            source=Path("runs/7/arms/base"),
        )
        raw = self.spec(step, self.raw_name, Role.ARM, RAW)
        both = self.spec(
            step, "gradient through both branches", Role.ARM, {"objective.stop_gradient": "none"}
        )
        self.begin(
            step,
            [control, searched, raw, both],
            title="Projection head",
            left_out={},
            carried=[],
            question="Should the head be used?",
            hypothesis="Two spaces.",
            number=1,
            rules_out="a split of the spaces",
        )
        self.epochs(searched, 0, 0.6, first=0)
        self.end(searched, StopReason.FINISHED, 0)
        for spec, seed, upto in ((control, 0.21, 6), (raw, 0.25, 6), (both, 0.19, 2)):
            self.epochs(spec, upto, seed)
        self.add(
            Rung,
            step=step,
            epoch=2,
            cutoff=0.2746,
            pruned=[both.id],
            held=[],
            values={control.id: 0.2346, raw.id: 0.2746, both.id: 0.2146},
        )
        self.end(both, StopReason.PRUNED, 2)
        self.end(control, StopReason.FINISHED, 6)
        self.end(raw, StopReason.FINISHED, 6)
        stage = gate("stage", "eval_cosine", 0.2871, FAIL, 0.35)
        kept = [gate("gain", "r_at_5", 0.0832, PASS), gate("gain", "mrr", 0.0412, PASS)]
        none = [gate("gain", "r_at_5", 0.0021, UNSURE), gate("gain", "mrr", 0.0013, UNSURE)]
        self.judge(control, StopReason.FINISHED, 6, stage, 0.28)
        self.judge(
            searched,
            StopReason.FINISHED,
            0,
            gate("success", "r_at_5", 0.0911, UNSURE, 0.1),
            0.61,
            kept,
        )
        self.judge(raw, StopReason.FINISHED, 6, stage, 0.2789, kept)
        self.judge(both, StopReason.PRUNED, 2, stage, 0.1987, none, ran=3)
        self.add(
            StepEnded,
            step=step,
            stage=UNSURE,
            candidate=searched.name,
            kept=raw.name,
            conflicts=[raw.name],
        )
        self.confirm(step, searched, 0.33, success(0.0913, 0.0311, UNSURE), UNSURE)
        self.add(Interrupted)
        self.add(Resumed, command=RESUME)

    def step2(self) -> None:
        """A diverged arm, an arm that holds the gate, a cancelled arm, an arm left out; PASS."""
        step = "temperature"
        self.add(Decision, number=3, action="RunStep", step=step, since="FAIL")
        sharp, held, flat = (
            self.spec(step, f"temperature {t:.2f}", Role.ARM, {**RAW, "objective.temperature": t})
            for t in (0.05, 0.10, 0.15)
        )
        control = self.spec(step, "control", Role.CONTROL, RAW)
        self.begin(
            step,
            [control, sharp, held, flat],
            title="Temperature",
            number=2,
            left_out={"temperature 9": "too flat by far"},
            carried=[["projection_head", self.raw_name]],
            question="Is it too sharp?",
            hypothesis="It is.",
            rules_out="the temperature",
        )
        for spec, seed in ((control, 0.26), (held, 0.37), (flat, 0.30)):
            self.epochs(spec, 2, seed)
        self.epochs(sharp, 1, 0.2)
        self.end(sharp, StopReason.DIVERGED, 1, "the loss is NaN at update 17")
        self.add(
            Rung,
            step=step,
            epoch=2,
            cutoff=None,
            pruned=[],
            held=[held.id],
            values={control.id: 0.2846, held.id: 0.3946, flat.id: 0.3246},
        )
        self.end(held, StopReason.GATE_HELD, 2)
        self.end(control, StopReason.CANCELLED, 2)
        self.end(flat, StopReason.CANCELLED, 2)
        stage = gate("stage", "eval_cosine", 0.3977, PASS, 0.35)
        nothing = GateResult(
            gate="stage",
            metric="eval_cosine",
            bound=0.0,
            estimate=None,
            verdict=Verdict.NOT_EVALUABLE,
            reason="the loss is NaN at update 17",
        )
        below = gate("stage", "eval_cosine", 0.2833, FAIL, 0.35)
        self.judge(control, StopReason.CANCELLED, 2, below, 0.28)
        self.judge(
            sharp, StopReason.DIVERGED, 1, nothing, None, detail="the loss is NaN at update 17"
        )
        gains = [gate("gain", "r_at_5", 0.0654, PASS), gate("gain", "mrr", 0.0234, UNSURE)]
        self.judge(held, StopReason.GATE_HELD, 2, stage, 0.3888, gains)
        self.judge(flat, StopReason.CANCELLED, 2, below, 0.32)
        self.add(
            StepEnded, step=step, stage=PASS, candidate=held.name, kept=held.name, conflicts=[]
        )
        self.confirm(step, held, 0.4321, success(0.1422, 0.0712, PASS), PASS)

    def confirm(self, step, arm, seed, gates, verdict) -> None:
        self.add(Decision, number=9, action="Confirm", step=step, since="it holds")
        spec = self.spec(f"confirm_{step}", arm.name, Role.CONFIRM, arm.changes, source=arm.source)
        self.begin(f"confirm_{step}", [spec], title=f"Confirm: {arm.name}")
        epoch = 0 if arm.source else 6
        self.epochs(spec, epoch, seed - 0.1, first=0 if arm.source else 1)
        self.end(spec, StopReason.FINISHED, epoch)
        stage = gate("stage", "eval_cosine", seed, UNSURE, 0.35)
        self.judge(spec, StopReason.FINISHED, epoch, stage, seed)
        self.test(spec, seed)
        self.add(
            Confirmed,
            step=step,
            arm=arm.name,
            verdict=verdict,
            gates=gates,
            spec=spec.id,
            run_as=spec.step,
        )

    def stop(self, verdict: str, cause=(), since="why") -> None:
        self.add(
            Decision, number=99, action="Stop", verdict=verdict, cause=list(cause), since=since
        )


def fixed_story(folder: Path, **names) -> Story:
    story = Story(folder, **names)
    story.start()
    story.phase1()
    story.step1()
    story.step2()
    story.stop("FIXED", ["projection_head", "temperature"])
    return story


def events_of(story: Story) -> list[dict]:
    """Return the events of a story as a journal holds them."""
    return [to_plain(event) for event in story.journal.events]


def state_of(events: Iterable[dict]) -> RunState:
    return RunState(told(event) for event in events)


def run_of(events: Iterable[dict]) -> Run:
    state = state_of(events)
    return Run(state, build_verdict(state, resume=RESUME))


@pytest.fixture(scope="module")
def story_events(tmp_path_factory):
    return events_of(fixed_story(tmp_path_factory.mktemp("story")))


@pytest.fixture
def events(story_events):
    return copy.deepcopy(story_events)


def report(events: Iterable[dict], folder: Path) -> tuple[str, str]:
    run = run_of(events)
    path = write_report(run.state, run.summary, folder)
    assert path == folder / "report.md"
    return path.read_text(encoding="utf-8"), (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def fixed(story_events, tmp_path_factory):
    """report.md and report.html of the whole story."""
    return report(story_events, tmp_path_factory.mktemp("fixed"))


def section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def row(text: str, name: str) -> list[str]:
    """Cells of the first table row that starts with `name`."""
    line = next(
        ln for ln in text.splitlines() if re.match(rf"\| (\*\*)?{re.escape(name)}(\*\*)? \|", ln)
    )
    return [cell.strip().strip("*") for cell in line.strip("|").split(" | ")]


# --- what is said ---------------------------------------------------------------------------------


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


# --- robustness -----------------------------------------------------------------------------------


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


# --- the page -------------------------------------------------------------------------------------


class Checker(HTMLParser):
    """Collects what is wrong with a page: unbalanced tags, links that leave it, scripts, no alt."""

    VOID = ("meta", "link", "br", "img", "hr", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.problems: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    @classmethod
    def of(cls, page: str) -> "Checker":
        checker = cls()
        checker.feed(page)
        checker.problems += [f"not closed: {tag}" for tag in checker.open]
        checker.problems += [f"dead link {a}" for a in checker.links if a[1:] not in checker.ids]
        checker.problems += [f"id {i} twice" for i in checker.ids if checker.ids.count(i) > 1]
        return checker

    def handle_starttag(self, tag, attrs) -> None:
        found = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in ("script", "link", "img", "iframe", "object"):
            self.problems.append(f"tag {tag}")
        if tag == "svg" and "aria-hidden" not in found and not found.get("aria-label"):
            self.problems.append("svg without a text alternative")
        self.ids += [found["id"]] if "id" in found else []
        for name, value in attrs:
            if name in ("src", "href", "srcset", "xlink:href"):
                self.links.append(value)
            if name.startswith("on") or "url(" in (value or ""):
                self.problems.append(f"attribute {name}={value}")
            if "nan" in (value or "") and name in ("x", "y", "points", "cx", "cy", "width"):
                self.problems.append(f"{name} is {value}")

    def handle_startendtag(self, tag, attrs) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag) -> None:
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"unexpected </{tag}>")


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
