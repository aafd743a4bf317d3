"""A small triage as MLflow is told of it: its journal, its files, and a server to send it to."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lvm.core.config.plain import to_dict
from lvm.core.config.recipe import HeadConfig, ModelConfig, Recipe, TrainingConfig
from lvm.core.config.run import GateConfig, RunConfig
from lvm.core.records import (
    Estimate,
    Evaluation,
    FrontPosition,
    GateResult,
    Pool,
    Position,
    StopReason,
    Verdict,
    to_plain,
)
from lvm.models.predictor import Predictor
from lvm.training.checkpoint import save_checkpoint
from lvm.training.manifest import Stated
from lvm.triage.arm import ArmSpec
from lvm.triage.events import (
    ArmEnded,
    ArmJudged,
    Audited,
    Compared,
    Confirmed,
    Decision,
    Epoch,
    Ladder,
    Phase1Judged,
    RunStarted,
    Settled,
    StepEnded,
    StepStarted,
    TestJudged,
    event_of,
)
from lvm.triage.journal import Journal, read_run
from lvm.triage.state import RunState
from lvm.triage.step import Role
from lvm.triage.summary import Summary
from lvm.triage.verdict import build_verdict
from lvm.views.tracking import Tracker

EPOCHS = 3
RECIPE = Recipe(
    model=ModelConfig(hidden=32, num_layers=1, state=8, head_dim=16),
    head=HeadConfig(hidden=16, width=8),
    training=TrainingConfig(epochs=EPOCHS),
)
WIDTH = 8
HERE = {"versions": {}, "platform": "here", "cpus": 1, "memory_gib": 1.0}
FINDING = {
    "code": "DUPLICATES",
    "severity": "warn",
    "seen": "4.3% of rows repeat another row",
    "allowed": "at most 1%",
    "where": {"input": "bank"},
    "meaning": "Copies.",
    "next": "repair",
    "values": {"share": 0.043},
}
AUDIT = {
    "schema": 1,
    "verdict": "WARNINGS",
    "allowed": [],
    "route": {"blocked": []},
    "findings": [FINDING, {**FINDING, "code": "HUBNESS"}, {**FINDING, "seen": "a lesser one"}],
    "checks": [
        {
            "code": "COLLAPSE",
            "question": "?",
            "status": "NOT_EVALUABLE",
            "reason": "no model",
            "next": "give one",
            "seconds": 0.0,
        },
        {
            "code": "DUPLICATES",
            "question": "?",
            "status": "FOUND",
            "reason": "",
            "next": "",
            "seconds": 0.1,
        },
    ],
}


# --- a small journal, written by the journal's own class from the run's own records --------------


def estimate(value: float) -> Estimate:
    return Estimate(
        value=value,
        lower=value - 0.02,
        upper=value + 0.02,
        confidence=0.95,
        num_windows=40,
        num_articles=8,
    )


def gate(name: str, metric: str, value: float, bound: float) -> GateResult:
    return GateResult(
        gate=name,
        metric=metric,
        bound=bound,
        estimate=estimate(value),
        verdict=Verdict.PASS if value - 0.02 >= bound else Verdict.FAIL,
        reason=f"{value:.3f} against a bound of {bound:.3f}",
        p_value=None if name == "stage" else 0.001,
    )


def evaluation(split: str, value: float) -> Evaluation:
    masked = {"eval_cosine": value, "r_at_5": value / 2, "mrr": value / 3, "eff_at_5": None}
    return Evaluation(
        split=split,
        space="raw",
        num_windows=40,
        num_articles=8,
        pool=Pool(id="p", size=100, mask="own contexts"),
        masked=masked,
        raw={k: v and v / 2 for k, v in masked.items()},
        latency={"p50_ms": 1.5, "p95_ms": 2.5} if split == "test" else {},
    )


@dataclass
class Writer:
    """Writes the events of a triage in which a lower temperature fixes the failure."""

    journal: Journal

    def spec(
        self, step: str, name: str, role: Role, *, test: bool = False, **changes: Any
    ) -> ArmSpec:
        dotted = {key.replace("__", "."): value for key, value in changes.items()}
        recipe = RECIPE.ar_only() if name == "AR-only" else RECIPE.with_changes(dotted)
        arm = f"{step}-{name}".replace(" ", "-").lower()
        return ArmSpec(
            id=arm,
            step=step,
            name=name,
            role=role,
            recipe=recipe,
            gates=GateConfig(),
            folder=self.journal.folder / "arms" / arm,
            evaluate_test=test,
            changes=dotted,
        )

    def start(self, fingerprint: str | None = "feedfacecafe") -> None:
        self.journal.append(
            event_of(
                RunStarted,
                schema=1,
                command="python tune_jobs/triage.py --data 'my bank'",
                arguments={"data": "my bank"},
                config=to_dict(RunConfig(recipe=RECIPE)),
                code="0.1.0+abc",
                commit="0123456789ab",
                environment=HERE,
                plan=["temperature"],
                identity={},
                data={
                    "source": "my bank",
                    "rows": 100,
                    "width": WIDTH,
                    "fingerprint": fingerprint,
                    "windows": {"train": 80, "dev": 40, "test": 40},
                    "articles": {},
                },
            )
        )
        self.journal.append(event_of(Audited, audit=AUDIT))
        for split in ("dev", "test"):
            rows = {"copy_last": evaluation(split, 0.21), "random": evaluation(split, 0.01)}
            self.journal.append(event_of(Ladder, split=split, rows=rows))

    def begin(self, step: str, specs: list[ArmSpec], **about: Any) -> None:
        arms = [spec.in_journal(Path("/run")) for spec in specs]
        self.journal.append(
            event_of(StepStarted, step=step, arms=arms, title=step, epochs=EPOCHS, **about)
        )

    def epoch(self, spec: ArmSpec, epoch: int, base: float) -> None:
        value = base + epoch / 100
        self.journal.append(
            event_of(
                Epoch,
                arm=spec.id,
                step=spec.step,
                name=spec.name,
                epoch=epoch,
                eval_cosine=value,
                r_at_5=value / 2,
                mrr=value / 3,
                stage="FAIL",
                loss=2.0 - value,
                num_negatives=255.0,
                gradient_norm=0.5,
                seconds=1.25,
                negatives={"batch": 1.0},
            )
        )

    def end(self, spec: ArmSpec, reason: StopReason, epoch: int) -> None:
        self.journal.append(
            event_of(
                ArmEnded,
                arm=spec.id,
                step=spec.step,
                name=spec.name,
                reason=reason,
                epoch=epoch,
                detail="the loss is NaN" if reason is StopReason.DIVERGED else "",
            )
        )

    def judge(self, spec: ArmSpec, reason: StopReason, epoch: int, value: float) -> None:
        gains = [gate("gain", "r_at_5", 0.1, 0.0)] if spec.role is Role.ARM else []
        self.journal.append(
            event_of(
                ArmJudged,
                arm=spec.id,
                step=spec.step,
                name=spec.name,
                role=spec.role,
                reason=reason,
                detail="",
                epoch=epoch,
                epochs_run=epoch,
                train_seconds=1.25 * epoch,
                evaluation=evaluation("dev", value),
                stage=gate("stage", "eval_cosine", value, 0.35),
                gains=gains,
            )
        )

    def arm(
        self,
        spec: ArmSpec,
        base: float,
        *,
        epochs: int = EPOCHS,
        reason: StopReason = StopReason.FINISHED,
    ) -> None:
        for epoch in range(1, epochs + 1):
            self.epoch(spec, epoch, base)
        self.end(spec, reason, epochs)

    def test(self, spec: ArmSpec, value: float) -> None:
        self.journal.append(
            event_of(
                TestJudged,
                arm=spec.id,
                step=spec.step,
                name=spec.name,
                role=spec.role,
                epochs=EPOCHS,
                evaluation=evaluation("test", value),
                ann={"recall_at_5": 0.99},
            )
        )

    def phase_1(self) -> None:
        specs = [
            self.spec("phase_1", "AR-only", Role.PHASE1, test=True),
            self.spec("phase_1", "InfoNCE+AR", Role.PHASE1, test=True),
        ]
        self.begin("phase_1", specs)
        for spec, value in zip(specs, (0.28, 0.22), strict=True):
            self.arm(spec, value)
        for spec, value in zip(specs, (0.31, 0.25), strict=True):
            self.judge(spec, StopReason.FINISHED, EPOCHS, value)
            self.test(spec, value)
        gates = [gate("success", "r_at_5", -0.03, 0.1), gate("success", "mrr", -0.02, 0.05)]
        self.journal.append(event_of(Phase1Judged, verdict="FAIL", gates=gates, baseline="AR-only"))

    def begin_temperature(self) -> list[ArmSpec]:
        specs = [
            self.spec("temperature", "control", Role.CONTROL),
            self.spec("temperature", "tau 0.2", Role.ARM, objective__temperature=0.2),
            self.spec("temperature", "tau 0.5", Role.ARM, objective__temperature=0.5),
            self.spec("temperature", "tau 0.01", Role.ARM, objective__temperature=0.01),
        ]
        self.begin(
            "temperature",
            specs,
            number=1,
            question="?",
            hypothesis="h",
            rules_out="r",
            carried=[],
            left_out={},
        )
        return specs

    def temperature(self, specs: list[ArmSpec]) -> None:
        control, good, pruned, diverged = specs
        self.arm(pruned, 0.2, epochs=2, reason=StopReason.PRUNED)
        self.epoch(pruned, 3, 0.2)  # it ran ahead of the decision
        self.arm(diverged, 0.1, epochs=1, reason=StopReason.DIVERGED)
        self.arm(good, 0.4, reason=StopReason.GATE_HELD)
        self.arm(control, 0.22, reason=StopReason.CANCELLED)
        self.judge(control, StopReason.CANCELLED, EPOCHS, 0.25)
        self.judge(good, StopReason.GATE_HELD, EPOCHS, 0.43)
        self.judge(pruned, StopReason.PRUNED, 2, 0.22)
        self.journal.append(
            event_of(
                ArmJudged,
                arm=diverged.id,
                step=diverged.step,
                name=diverged.name,
                role=diverged.role,
                reason=StopReason.DIVERGED,
                detail="the loss is NaN",
                epoch=1,
                epochs_run=1,
                train_seconds=1.25,
                evaluation=None,
                gains=[],
                stage=GateResult(
                    gate="stage",
                    metric="eval_cosine",
                    bound=0.0,
                    estimate=None,
                    verdict=Verdict.NOT_EVALUABLE,
                    reason="the loss is NaN",
                ),
            )
        )
        self.journal.append(
            event_of(
                StepEnded,
                step="temperature",
                stage="PASS",
                candidate="tau 0.2",
                kept="tau 0.2",
                conflicts=[],
            )
        )

    def confirm(self) -> None:
        spec = self.spec(
            "confirm_temperature", "tau 0.2", Role.CONFIRM, test=True, objective__temperature=0.2
        )
        self.begin(spec.step, [spec])
        self.arm(spec, 0.41)
        self.judge(spec, StopReason.FINISHED, EPOCHS, 0.44)
        self.test(spec, 0.44)
        gates = [gate("success", "r_at_5", 0.15, 0.1), gate("gain", "mrr", 0.06, 0.0)]
        self.journal.append(
            event_of(
                Confirmed,
                step="temperature",
                arm="tau 0.2",
                verdict="PASS",
                gates=gates,
                spec=spec.id,
                run_as=spec.step,
            )
        )

    def combine(self) -> None:
        """With every step: two that helped are trained together, and beat the better one."""
        spec = self.spec(
            "confirm_combination",
            "tau 0.2 + anchor",
            Role.CONFIRM,
            test=True,
            objective__temperature=0.2,
            objective__mmd_weight=0.1,
        )
        self.begin(spec.step, [spec])
        self.arm(spec, 0.45)
        self.judge(spec, StopReason.FINISHED, EPOCHS, 0.48)
        self.test(spec, 0.48)
        gates = [gate("success", "r_at_5", 0.17, 0.1), gate("gain", "r_at_5", 0.11, 0.0)]
        self.journal.append(
            event_of(
                Confirmed,
                step="combination",
                arm=spec.name,
                verdict="PASS",
                gates=gates,
                spec=spec.id,
                run_as=spec.step,
            )
        )
        adds = [gate("gain", "r_at_5", 0.03, 0.0), gate("gain", "mrr", 0.01, 0.0)]
        self.journal.append(
            event_of(Settled, best=["temperature", "tau 0.2"], comparisons=4, adds=adds)
        )

    def compare(self) -> None:
        """Place every model that was judged on test above the front."""
        arms = [event.arm for event in self.journal.events.of(TestJudged)]
        distance = Estimate(
            value=0.02, lower=0.01, upper=0.03, confidence=0.95, num_windows=40, num_articles=4
        )
        position = FrontPosition(
            position=Position.ABOVE,
            metrics=("eval_cosine", "r_at_5"),
            distance=distance,
            rung="copy_last",
            gains={"eval_cosine": distance, "r_at_5": distance},
        )
        self.journal.append(
            event_of(Compared, of="+".join(arms), front=dict.fromkeys(arms, position))
        )

    def stop(self, *cause: str) -> None:
        self.compare()
        self.journal.append(
            event_of(
                Decision,
                number=3,
                action="Stop",
                verdict="FIXED",
                cause=cause or ["temperature"],
                since="tau 0.2 holds the success gate on the test split",
            )
        )


LADDER = {"Ladder: copy_last": "FINISHED", "Ladder: random": "FINISHED"}
CHILDREN = {
    **LADDER,
    "phase_1: AR-only": "FINISHED",
    "phase_1: InfoNCE+AR": "FINISHED",
    "Step 1, temperature: control": "FINISHED",
    "Step 1, temperature: tau 0.2": "FINISHED",
    "Step 1, temperature: tau 0.5": "FINISHED",
    "Step 1, temperature: tau 0.01": "FAILED",
    "Confirm temperature: tau 0.2": "FINISHED",
}


def whole_journal(folder: Path) -> RunState:
    writer = Writer(Journal(folder))
    writer.start()
    writer.phase_1()
    writer.temperature(writer.begin_temperature())
    writer.confirm()
    writer.stop()
    return writer.journal.events


def write_documents(folder: Path) -> Summary:
    summary = build_verdict(read_run(folder), resume="resume")
    (folder / "verdict.json").write_text(json.dumps(to_plain(summary)))
    (folder / "report.md").write_text("# A report\n")
    (folder / "audit.json").write_text(json.dumps(AUDIT))
    return summary


def track(folder: Path, events: RunState, uri: str | None = None) -> Tracker:
    """Write all runs of a triage, with its verdict where it has one on disk."""
    told = (folder / "verdict.json").exists()
    tracker = Tracker(folder, uri)
    tracker.close(events, build_verdict(events, resume="resume") if told else None)
    return tracker


CONFIRMED = "confirm_temperature-tau-0.2"  # the arm whose model the verdict speaks for
REGISTERED = "lvm-feedfacecafe"


def write_checkpoint(folder: Path, arm: str) -> Predictor:
    """What training leaves of an arm, with an optimiser state that nobody may read."""
    predictor = Predictor(RECIPE, WIDTH).eval()
    place = folder / "arms" / arm / "checkpoint"
    place.parent.mkdir(parents=True)
    save_checkpoint(place, predictor, RECIPE, stated=Stated())
    (place / "state.pt").write_bytes(b"a pickle for all one knows")
    return predictor


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def ask(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            data: bytes = answer.read()
            return data

    def wait(self) -> None:
        deadline = time.monotonic() + 90
        while True:
            try:
                self.ask("health")
                return
            except (urllib.error.URLError, OSError):
                alive = self.process.poll() is None and time.monotonic() < deadline
                assert alive, self.log.read_text()
                time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextlib.contextmanager
def serving(words: list[str], port: int, folder: Path) -> Iterator[Server]:
    """A server with all its processes, ended as one."""
    log = folder / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            words, cwd=folder, stdout=output, stderr=output, start_new_session=True
        )
    started = Server(process, port, log)
    try:
        started.wait()
        yield started
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # its own session: the server and its workers
        process.wait(30)
