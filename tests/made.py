"""Events and their parts as tests need them: what a test does not look at has a plain value."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
import tiny

from lvm.audit.check import CHECKS
from lvm.audit.document import AuditDocument
from lvm.core.config.recipe import Recipe
from lvm.core.config.run import GateConfig
from lvm.core.records import Estimate, Evaluation, GateResult, Pool, Verdict, to_plain
from lvm.triage.events import (
    ArmEnded,
    ArmJudged,
    ArmRestarted,
    Audited,
    BelowLadder,
    Confirmed,
    Decision,
    Epoch,
    Event,
    Forecast,
    Inspected,
    Ladder,
    Phase1Judged,
    Reopened,
    Repeated,
    Rung,
    RunStarted,
    Settled,
    StepEnded,
    StepStarted,
    TestJudged,
    Tidied,
    Waiting,
    event_of,
)
from lvm.triage.events.evidence import SeededTold
from lvm.triage.events.parts import Arm

E = TypeVar("E", bound=Event)

NAMES = {"arm": "a", "step": "s", "name": "arm a"}


def event(kind: type[E], **values: object) -> E:
    """Return an event of a kind; `values` are the fields that matter."""
    return event_of(kind, **{**_plain(kind), **values})


def arm(id: str = "a", *, epochs: int | None = None, **values: Any) -> Arm:
    """Return an arm as its step starts it, of the default recipe with `epochs` of training."""
    recipe = Recipe() if epochs is None else Recipe().with_changes({"training.epochs": epochs})
    plain: dict[str, Any] = {
        "id": id,
        "step": "s",
        "name": f"arm {id}",
        "role": "arm",
        "recipe": recipe,
        "folder": f"/f/{id}",
        "gates": GateConfig(),
        "source": None,
        "baseline": None,
        "evaluate_test": False,
        "workers": 1,
        "threads": 1,
        "device": "cpu",
        "commit": None,
        "why": "",
    }
    return Arm(**{**plain, **values})


def estimate(value: float, lower: float | None = None, upper: float | None = None) -> Estimate:
    """Return a mean with its interval, 0.02 to both sides where none is given."""
    return Estimate(
        value=value,
        lower=value - 0.02 if lower is None else lower,
        upper=value + 0.02 if upper is None else upper,
        confidence=0.95,
        num_windows=40,
        num_articles=8,
    )


def seeded(value: float, lower: float, upper: float) -> SeededTold:
    """Return a mean over three seeds."""
    shares = dict.fromkeys(("between_seeds", "between_articles", "rest"), 0.0)
    plain = to_plain(estimate(value, lower, upper))
    return SeededTold(**plain, **shares, num_seeds=3)


def gate(name: str = "stage", metric: str = "eval_cosine", **values: Any) -> GateResult:
    """Return a gate that nothing could judge, but for `values`."""
    plain: dict[str, Any] = {
        "bound": 0.0,
        "estimate": None,
        "verdict": Verdict.NOT_EVALUABLE,
        "reason": "",
    }
    return GateResult(gate=name, metric=metric, **{**plain, **values})


def evaluation(**masked: float | None) -> Evaluation:
    """Return the metrics of a predictor on test, the same with and without own contexts."""
    metrics = {"eval_cosine": 0.0, "r_at_5": 0.0, "mrr": 0.0, **masked}
    return Evaluation(
        split="test",
        space="raw",
        num_windows=40,
        num_articles=8,
        pool=Pool(id="p", size=100, mask="own contexts"),
        masked=metrics,
        raw=metrics,
    )


def audit(**values: object) -> AuditDocument:
    """Return an audit that found nothing, but for `values`."""
    return msgspec.convert(to_plain({**AUDIT, **values}), AuditDocument)


def _plain(kind: type[Event]) -> dict[str, object]:
    """Return what a kind of event cannot be told without."""
    if kind is RunStarted:
        return tiny.started(tiny.config())
    return PLAIN.get(kind, {})


AUDIT = {"verdict": "CLEAN", "findings": [], "checks": [], "route": {"blocked": []}}
PROBE = dict.fromkeys(
    ("seconds", "update_seconds", "dev_seconds", "test_seconds", "start_seconds"), 1.0
)
PLAIN: dict[type[Event], dict[str, object]] = {
    Reopened: {"step": "s", "arms": []},
    Audited: {"audit": AUDIT},
    Forecast: {"seconds": 1.0, "lower": 1.0, "upper": 1.0, "parts": {}, "probe": PROBE},
    Ladder: {"split": "test", "rows": {}},
    Phase1Judged: {"verdict": Verdict.FAIL, "gates": [], "baseline": "AR-only"},
    BelowLadder: {"findings": [], "gains": {}, "reason": "", "arm": "a", "name": "arm a"},
    Inspected: {"findings": [], "arm": "a", "name": "arm a"},
    StepStarted: {"step": "s", "title": "A step", "arms": [], "epochs": 1},
    Epoch: {**NAMES, "epoch": 1},
    Rung: {"step": "s", "epoch": 1, "values": {}, "cutoff": None, "pruned": [], "held": []},
    ArmRestarted: {**NAMES, "attempt": 1, "epoch": 0, "detail": ""},
    Waiting: {"step": "s", "detail": ""},
    ArmEnded: {**NAMES, "reason": "finished", "epoch": 1, "detail": ""},
    ArmJudged: {
        **NAMES,
        "reason": "finished",
        "detail": "",
        "epoch": 1,
        "evaluation": None,
        "role": "arm",
        "epochs_run": 1,
        "train_seconds": 1.0,
        "stage": gate(),
        "gains": [],
    },
    TestJudged: {**NAMES, "role": "confirm", "epochs": 1, "evaluation": evaluation()},
    StepEnded: {
        "step": "s",
        "stage": Verdict.FAIL,
        "candidate": None,
        "kept": None,
        "conflicts": [],
    },
    Confirmed: {
        "step": "s",
        "arm": "arm a",
        "spec": "a",
        "verdict": Verdict.PASS,
        "gates": [],
        "run_as": "confirm_s",
    },
    Settled: {"best": None, "comparisons": 0, "adds": []},
    Repeated: {"seed": 1, "models": {}, "comparisons": []},
    Decision: {"action": "RunPhase1", "since": ""},
    Tidied: {"step": "s", "states": [], "weights": []},
}


def reported(code, look):
    """Return a function that gives what `look` sees as findings of a check."""

    def findings(*given):
        yield from map(CHECKS.get(code).finding, look(*given))

    return findings
