"""Has the given model, or one that it was started from, been trained on the eval text?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int

from lvm.audit.finding import NotEvaluable, Seen, Severity
from lvm.audit.lineage import (
    BEHIND,
    ITSELF,
    TrainedOn,
    read_lineage,
    seen_articles,
    unknown_lineage,
)
from lvm.audit.material import Material
from lvm.audit.where import where_found

FEW_WINDOWS = 0.01  # of the eval windows: text that few of them share with other articles

Places = tuple[Int[np.ndarray, "m 2"], Bool[np.ndarray, " m"]]  # keys, and where they are known


def seen_before(material: Material, places: Places | None) -> TrainedOn | None:
    """Return which eval articles were trained on; None without a given model or an eval side.

    `places` are the keys of the eval windows; without them no article is known.
    """
    part, side = material.checkpoint, material.eval
    if side is None or (part is None and material.predictions is None):
        return None
    if places is None:
        model = BEHIND if part is None else ITSELF
        return TrainedOn(
            articles=np.empty(0, np.int64),
            unknown={model: "the articles of the eval windows are not known"},
        )
    lineage = unknown_lineage() if part is None else read_lineage(part.manifest, part.path)
    keys, known = places
    rows = np.flatnonzero(known)
    return seen_articles(
        lineage,
        material.bank,
        material.dataset,
        side.contexts(rows)[:, -1],
        keys[rows, 0],
        material.seen,
    )


def seen_findings(
    material: Material, places: Places | None, seen: TrainedOn | None
) -> Iterator[Seen]:
    """Report eval articles that were trained on."""
    part = material.checkpoint
    if seen is None or places is None or len(seen.articles) == 0:
        return
    model = "the checkpoint or one of its parents" if part is not None else BEHIND
    read_from = ("predictions",) if part is None else ("checkpoint", str(part.path))
    told = ", matched by text (their ids differ)" if seen.by_text else ""
    keys, known = places
    shared = known & np.isin(keys[:, 0], seen.articles)
    few = seen.by_text and shared.mean() <= FEW_WINDOWS
    total = len(np.unique(keys[known, 0]))
    yield Seen(
        severity=Severity.WARN if few else Severity.BLOCK,
        seen=f"{len(seen.articles)} of {total} eval articles were seen by {model}{told}",
        allowed=f"{FEW_WINDOWS:.0%} of the windows" if seen.by_text else "0",
        where=where_found(*read_from, count=shared.sum(), of=len(shared), articles=seen.articles),
        meaning="The model, or one it was initialised from, was trained on this eval text.",
        next="evaluate it on articles that no ancestor has seen, or train again without the "
        "parents",
        values={"articles": float(len(seen.articles)), "by_text": float(seen.by_text)},
    )


def require_known(seen: TrainedOn | None) -> None:
    """Raise NotEvaluable where what the given model or a parent saw cannot be compared."""
    if seen is not None and seen.unknown:
        name, why = next(iter(seen.unknown.items()))
        raise NotEvaluable(
            f"it is unknown whether {name} has seen the eval text: {why}",
            "name the articles that it has read (--seen FILE), or evaluate it on text that is "
            "newer than the model",
        )
