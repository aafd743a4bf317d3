"""Where a finding lies: the input, and the worst of its rows, articles and blocks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

NUM_NAMED = 10  # rows and articles that a finding names, the worst first
Ids = Sequence[int] | Int[np.ndarray, " n"]


def where_found(
    input: str,
    source: str | None = None,
    *,
    count: float | None = None,
    of: int | None = None,
    rows: Ids | None = None,
    articles: Ids | None = None,
    blocks: Sequence[Sequence[int]] | None = None,
) -> dict[str, object]:
    """Return the `where` of a finding without what is None; of long lists, the first few."""
    where = {
        "source": source,
        "count": None if count is None else int(count),
        "of": None if of is None else int(of),
        "rows": None if rows is None else [int(row) for row in rows[:NUM_NAMED]],
        "articles": None if articles is None else [int(a) for a in articles[:NUM_NAMED]],
        "blocks": None if blocks is None else [[int(a), int(b)] for a, b in blocks[:NUM_NAMED]],
    }
    return {"input": input, **{key: value for key, value in where.items() if value is not None}}


def most_frequent(ids: Int[np.ndarray, " n"]) -> Int[np.ndarray, " k"]:
    """Return the distinct ids, those that occur most often first."""
    distinct, counts = np.unique(ids, return_counts=True)
    ordered: Int[np.ndarray, " k"] = distinct[np.argsort(-counts, kind="stable")]
    return ordered
