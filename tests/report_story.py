"""A whole run told event by event, and what its report says: for tests of the report."""

import re
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path

from lvm.core.config.recipe import Recipe
from lvm.core.config.run import RunConfig
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
from lvm.views.report import Run
from lvm.views.report.markdown import write_report

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


def report(events: Iterable[dict], folder: Path) -> tuple[str, str]:
    run = run_of(events)
    path = write_report(run.state, run.summary, folder)
    assert path == folder / "report.md"
    return path.read_text(encoding="utf-8"), (folder / "report.html").read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def row(text: str, name: str) -> list[str]:
    """Cells of the first table row that starts with `name`."""
    line = next(
        ln for ln in text.splitlines() if re.match(rf"\| (\*\*)?{re.escape(name)}(\*\*)? \|", ln)
    )
    return [cell.strip().strip("*") for cell in line.strip("|").split(" | ")]


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
