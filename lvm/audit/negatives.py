"""Does the number of negatives match the configuration? The functions behind NEGATIVES_FEWER."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping

from lvm.audit.finding import Finding, Seen, Severity
from lvm.audit.training_log import TrainingLog, where_in

KEPT_NEGATIVES = 0.75  # share of the configured negatives that masks must leave
INFORMED = 0.5  # a first loss that fits this share of the columns did not see the others
KNOWS = 0.3  # below the loss of guessing: an untrained model with a residual path knows something


def negatives_fewer(log: TrainingLog) -> Iterator[Finding | Seen]:
    """Compare the negatives used per target with those in the recipe."""
    if log.recipe.objective.contrastive_weight == 0:
        return
    configured = log.first("configured_negatives")
    columns = min(value for _, value in log.series("columns"))
    seen = statistics.fmean(r.train.get("num_negatives", configured) for r in log.records)
    first: float | None = log.first("first_contrastive")
    if first is not None and first < math.log(seen + 1) - KNOWS:
        first = None
    found = stated_negatives_finding(round(columns), round(configured) + 1, first, where_in(log))
    if found is not None:
        yield found
    elif seen < KEPT_NEGATIVES * configured:
        yield Seen(
            where=where_in(log),
            seen=f"{seen:.1f} negatives per row after masking, of {configured:.0f} configured",
            allowed=f"at least {KEPT_NEGATIVES:.0%} of them",
            meaning="Most candidates were dropped as duplicates, own contexts or false "
            "negatives, so the contrastive loss compared the target with only a few "
            "rows.",
            next="raise negatives.false_negative_margin, or training.batch_size",
            values={"seen": seen, "stated": configured},
        )


def stated_negatives_finding(
    seen_columns: int, stated: int, first_loss: float | None, where: Mapping[str, object]
) -> Finding | None:
    """Return the finding on a softmax of `seen_columns` that is stated to have `stated` columns.

    `first_loss` is the contrastive loss of the first update of an untrained model: it is about
    ln(columns), so one far below tells of fewer. None where it is not known.
    """
    values = {"columns": float(seen_columns), "stated": float(stated)}
    signs = []
    if seen_columns < stated:
        signs.append(f"{seen_columns - 1} negatives per row, {stated - 1} stated")
    if first_loss is not None:
        values["first_loss"] = first_loss
        if math.exp(min(first_loss, 700.0)) < INFORMED * stated:
            signs.append(
                f"a first loss of {first_loss:.2f}, that of {math.exp(first_loss):.0f} rows"
            )
    if not signs:
        return None
    return Finding(
        code="NEGATIVES_FEWER",
        severity=Severity.WARN,
        seen="; ".join(signs),
        allowed=f"{stated - 1} negatives per row, a first loss of about {math.log(stated):.2f}",
        where=where,
        meaning="The contrastive task was easier than stated: gradient accumulation adds no "
        "negatives, nor do workers that do not gather each other's rows.",
        next=f"set training.batch_size = {stated}, which puts all its rows into one softmax, or "
        'negatives.candidates = "bank"',
        values=values,
    )
