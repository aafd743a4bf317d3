"""The warnings that come with the verdict of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lvm.audit.document import AuditDocument, cautions
from lvm.core.records import (
    LIMITS,
    Absence,
    Estimate,
    Evaluation,
    FrontPosition,
    Position,
    RunVerdict,
)
from lvm.core.text import title_of
from lvm.triage.absence import sentences
from lvm.triage.seeds import basis, over_seeds, rests_on_one_seed
from lvm.triage.summary import ModelShown, Summary
from lvm.triage.worth import subjects


def of_the_absent(absent: Sequence[Absence], summary: Summary) -> list[str]:
    """Say which arms are no part of the evidence, and how to have them tried again."""
    if not absent:
        return []
    said = [text for text in sentences(absent) if text not in summary.headline]
    again = f"absent arms are not evidence; retry them and keep the rest: {summary.resume}"
    return [*said, again]


def of_the_audit(audit: AuditDocument, summary: Summary) -> list[str]:
    """Return the audit's warnings for the verdict: overrides, blind spots, weak gates."""
    said = cautions(audit)
    if summary.verdict in (RunVerdict.PASSED, RunVerdict.FIXED):
        said += [
            f"{f.seen}."
            for f in audit.findings
            if f.code == "GATE_BELOW_TRIVIAL" and f.severity == "warn"
        ]
    return said


def of_the_seeds(summary: Summary) -> list[str]:
    """Return what repeated seeds have to say against a verdict that rests on one."""
    seeds, claims = summary.seeds, summary.verdict in (RunVerdict.PASSED, RunVerdict.FIXED)
    if not seeds or not claims or not rests_on_one_seed(seeds):
        return []
    return [f"the verdict rests on {basis(seeds)}. {over_seeds(seeds)}"]


def of_the_ladder(summary: Summary) -> list[str]:
    """Return what a person must know before paying for scale: which models do not beat the front.

    By the differences on the same windows where the journal has them, else by the plain means.
    """
    if not summary.ladder:
        return []
    said = []
    for model in subjects(summary):
        found = summary.front.get(model.arm)
        if found is not None and found.distance:
            said.append(_against_front(model, found))
        else:
            said += [_not_beaten(model, metric, summary.ladder) for metric in _shown(model)]
    return [text for text in said if text]


def _against_front(model: ModelShown, found: FrontPosition) -> str:
    """Say where a model lies that is not above the front; "" above it."""
    if found.position == Position.ABOVE:
        return ""
    metrics, gains = found.metrics, found.gains
    reached = ", ".join(f"{title_of(m)} {model.masked[m]:.3f}" for m in metrics)
    differences = " and ".join(f"{title_of(m)} {_interval(gains[m])}" for m in metrics)
    where = "is below" if found.position == Position.BELOW else "is not separable from"
    apart = "" if model.space == "raw" else " Its cosine is in a different space."
    return (
        f"{model.name} ({reached}) {where} the front of untrained baselines; the difference from "
        f"{found.rung} is {differences}.{apart}"
    )


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:+.3f} [{estimate.lower:.3f}, {estimate.upper:.3f}]"


def _shown(model: ModelShown) -> tuple[str, ...]:
    return ("r_at_5", "eval_cosine") if model.space == "raw" else ("r_at_5",)


def _not_beaten(model: ModelShown, metric: str, ladder: Mapping[str, Evaluation]) -> str:
    """Name the best untrained baseline if a model's mean does not exceed it; else ""."""
    values = {n: r.masked[metric] or 0.0 for n, r in ladder.items() if n not in LIMITS}
    best = max(values, key=lambda name: values[name], default="")
    value, title = model.masked[metric] or 0.0, title_of(metric)
    if not best or value > values[best]:
        return ""
    return (
        f"{model.name} reaches {title} {value:.3f}; {best} reaches {values[best]:.3f} without "
        "training."
    )
