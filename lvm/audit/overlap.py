"""Do neighbouring chunks share text?

Text hands on what it is about: chunks two places apart are at least as alike as a chain without
memory would have them, r2 >= r1^2, where r1 and r2 are the cosines at lags 1 and 2 beyond those of
random pairs. Chunks that overlap break this: what they share is shared by neighbours alone, so
likeness falls steeply from lag 1 to 2 and slowly from there. (Text that changes smoothly breaks it
too, but falls evenly.)
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lvm.audit.coherence import Coherence, Level, coherence
from lvm.audit.finding import Seen, Severity
from lvm.audit.material import Material, or_none

CLEAR = 4.0  # standard errors
LEAST = 0.03  # of a partial correlation: less is no shared text
STEEP = 2.0  # the fall from lag 1 to 2 beside that from 2 to 3


def overlapping(material: Material) -> Iterator[Seen]:
    """Report neighbours that share more than the text around them accounts for."""
    name = "train" if material.train is not None else "eval"
    side = or_none(coherence, material, name)
    if side is None or side.contexts.shape[1] < 3:
        return
    memory = partial_memory(side)
    lags = [float(side.lag(k).mean()) for k in (1, 2, 3)]
    steep = lags[0] - lags[1] > STEEP * (lags[1] - lags[2])
    if memory.above(CLEAR) >= -LEAST or not steep:
        return
    yield Seen(
        severity=Severity.WARN,
        seen=f"neighbouring chunks have a cosine of {lags[0]:.3f}, chunks two apart {lags[1]:.3f}: "
        f"a partial correlation of {memory.value:.2f} at lag 2",
        allowed=f"at least -{LEAST}: text on one subject is similar at both",
        where=material.side(name).where(count=len(side.rows), of=len(side.rows)),
        meaning="Each chunk shares text with the next, so part of the target is in the last "
        "context, and a model that copies it looks predictive.",
        next="cut the text into non-overlapping chunks and embed it again",
        values={"partial": memory.value, "lag_1": lags[0], "lag_2": lags[1]},
    )


def partial_memory(side: Coherence) -> Level:
    """Return the correlation at lag 2 that lag 1 does not account for, with its error.

    (r2 - r1^2) / (1 - r1^2), its error to first order over articles.
    """
    first, second, random = side.lag(1), side.lag(2), side.random_pairs
    base = max(0.0, float(random.mean()))
    rest = max(1e-6, 1 - base)
    r1, r2 = (float(lag.mean() - base) / rest for lag in (first, second))
    scale = max(1e-6, 1 - r1**2)
    slopes = (-2 * r1 / rest, 1 / rest, (2 * r1 * (1 - r1) - (1 - r2)) / rest)
    moved = [
        slope * (values - values.mean())
        for slope, values in zip(slopes, (first, second, random), strict=True)
    ]
    around = side.of(np.asarray(sum(moved)) / scale)
    return Level(value=(r2 - r1**2) / scale, error=around.error, clusters=around.clusters)
