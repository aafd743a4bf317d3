"""Which articles the judged model has read: known, stated by a person, or unknown.

A model that this run trains has read the train split. One that was handed in has read what its
manifest and those of its parents say, or what --seen says in their place; a `.pt` file and a file
of predictions say nothing. A verdict that rests on a model of unknown lineage is no plain one.
"""

from __future__ import annotations

from enum import StrEnum

from lvm.audit.lineage import Lineage, TrainedOn, read_lineage, seen_articles, unknown_lineage
from lvm.core.outside import printable
from lvm.core.records import Estimate
from lvm.training.checkpoint import read_manifest
from lvm.training.manifest import Stated
from lvm.triage.events.evidence import LineageTold
from lvm.triage.request import Request
from lvm.triage.runner import Runner
from lvm.triage.trace import Trace


class Articles(StrEnum):
    """How it is known which articles a model has read."""

    KNOWN = "known"  # trained in this run, or by the manifests of the model and its parents
    STATED = "stated"  # by --seen, where the manifests do not say
    UNKNOWN = "unknown"


def unread(lineage: LineageTold) -> str:
    """Return the model whose articles are unknown, by its lineage; else ""."""
    return str(lineage.model) if lineage.articles == Articles.UNKNOWN else ""


def judged_lineage(
    runner: Runner, trace: Trace | None = None, off_contexts: dict[str, Estimate] | None = None
) -> LineageTold:
    """Return the lineage of what phase 1 judges, by the articles of the test windows."""
    found = _handed_in(runner.request)
    if found is None:
        return LineageTold(articles=Articles.KNOWN)
    model, lineage = found
    bank, test = runner.dataset.bank, runner.dataset.test
    seen = seen_articles(
        lineage,
        bank,
        runner.dataset,
        bank.rows(test.contexts[:, -1]),
        test.articles,
        runner.request.seen,
    )
    why = "; ".join(f"{name}: {reason}" for name, reason in seen.unknown.items())
    return LineageTold(
        articles=_state(seen),
        model=model,
        why=why,
        read=len(seen.articles),
        trace=None if trace is None else trace.in_journal(),
        off_contexts=off_contexts,
    )


def _handed_in(request: Request) -> tuple[str, Lineage] | None:
    if request.predictions is not None:
        return f"the model behind {printable(request.predictions.name)}", unknown_lineage()
    if request.checkpoint is None:
        return None
    place = request.given or request.checkpoint
    manifest = read_manifest(request.checkpoint) or Stated()
    return printable(place.name), read_lineage(manifest, place)


def _state(seen: TrainedOn) -> Articles:
    if seen.unknown:
        return Articles.UNKNOWN
    return Articles.STATED if seen.stated else Articles.KNOWN
