"""What a verdict is worth if it is unknown which articles the judged model has read, in words."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import asdict, replace

from lvm.core.records import Estimate
from lvm.triage.events import Phase1Judged
from lvm.triage.events.evidence import LineageTold, TraceTold
from lvm.triage.state import RunState
from lvm.triage.summary import LineageShown, Summary

UNKNOWN, STATED = "unknown", "stated"
NO_REFERENCE = "nothing"  # of a trace: the cosine as it is
REMEDY = "Name what it has read with --seen FILE"


def lineage_part(state: RunState) -> LineageShown:
    """Return what is known of the articles that the judged model has read, in words too."""
    judged, stop = state.last(Phase1Judged), state.stop
    known = judged.lineage if judged else None
    shown = LineageShown(
        verdict_if_unseen=stop.if_unseen if stop else None,
        cause_if_unseen="+".join(stop.cause_if_unseen) or None if stop else None,
    )
    return shown if known is None else replace(shown, **asdict(known), sentence=_sentence(known))


def headline_if_unseen(summary: Summary) -> str | None:
    """Return the headline of a verdict that holds on one condition; None for any other."""
    lineage = summary.lineage
    verdict, model = lineage.verdict_if_unseen, lineage.model
    if not verdict:
        return None
    by = f" by {lineage.cause_if_unseen}" if lineage.cause_if_unseen else ""
    doubt = "which cannot be checked here"
    if _found(lineage):
        doubt = "and it shows a trace of them"
    return (
        f"INCONCLUSIVE: {verdict}{by} if {model} has not read the test articles, {doubt}: the "
        f"success gate holds, but what the model has read is unknown ({lineage.why}). {REMEDY}."
    )


def of_the_lineage(summary: Summary) -> list[str]:
    """Return the warning that a model shows a trace of the test articles."""
    lineage = summary.lineage
    return [lineage.sentence] if _found(lineage) else []


def _found(lineage: LineageShown) -> bool:
    return bool(lineage.trace and lineage.trace.found)


def _sentence(lineage: LineageTold) -> str:
    """Say which articles the model has read and what trace it shows; "" for one trained here."""
    model, state = lineage.model, lineage.articles
    if model is None:
        return ""
    if state == UNKNOWN:
        said = f"Which articles {model} has read is unknown."
    elif lineage.read:
        said = f"{model} has read {lineage.read} of the test articles."
    else:
        by = "as --seen states" if state == STATED else "as its manifest states"
        said = f"{model} has read none of the test articles, {by}."
    parts = said, _traced(lineage.trace), _off_contexts(lineage.off_contexts)
    return " ".join(part for part in parts if part)


def _off_contexts(found: Mapping[str, Estimate] | None) -> str:
    if found is None:
        return ""
    model, ar_only, on_train = (found[k] for k in ("model", "ar_only", "ar_only_on_train"))
    return (
        f"Off its contexts, it agrees with the test targets by {model.value:.3f} "
        f"[{model.lower:.3f}, {model.upper:.3f}]; AR-only, which has not read them, by "
        f"{ar_only.value:.3f}, and by {on_train.value:.3f} on train articles, which it has "
        "read. A better model also agrees more, so this alone proves nothing."
    )


def _traced(trace: TraceTold | None) -> str:
    if trace is None:
        return (
            "No trace of them could be measured, because that also needs the model's results "
            "on the dev articles."
        )
    gain, over = trace.surplus, trace.reference
    measured = (
        f"its {'cosine' if over == NO_REFERENCE else f'gain over {over} in cosine'} is "
        f"{gain.value:+.3f} [{gain.lower:+.3f}, {gain.upper:+.3f}] higher on the test "
        f"articles than on the dev articles ({gain.confidence:.0%} interval)"
    )
    if trace.found:
        return f"It shows a trace of the test articles: {measured}."
    if gain.upper < 0:
        return f"It may have read the dev articles, where a trace would not show: {measured}."
    return (
        f"It shows no trace of the test articles: {measured}. A model that has read the dev "
        "articles too shows none."
    )
