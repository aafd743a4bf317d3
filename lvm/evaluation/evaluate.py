"""Judge predictions against the vectors that really came next.

The pool is every row of the bank that may be retrieved; a number without its pool means nothing, so
each evaluation carries one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from lvm.core.device import ids_on, synchronise
from lvm.core.errors import DataError
from lvm.core.records import Evaluation, Pool
from lvm.data.bank import Bank
from lvm.data.windows import Windows
from lvm.evaluation.index import Index
from lvm.evaluation.metrics import PerQuery, evaluation_of, target_ranks

BLOCK = 8192  # predictions compared with their targets at once


def evaluate(
    predictions: Float[Tensor, "M W"],
    windows: Windows,
    bank: Bank,
    *,
    pool_vectors: Float[Tensor, "P W"] | None = None,
    space: str,
    split: str,
) -> tuple[Evaluation, PerQuery]:
    """Return the metrics of M predictions, and what was measured for each.

    `predictions` lie in the space of the search, `pool_vectors` are the rows of the bank in that
    space (by default the bank itself; rows after its `pool_size` are left out). A target is the
    pool's vector of its row, so in the projected space it is the projected target. All is computed
    on the device of the predictions; only six numbers per window come to the host.

    Raises DataError when shapes do not fit or a target is outside the pool, and ValueError when the
    pool is on another device: it is put on one once per process, not in every evaluation.
    """
    size = len(bank.pool_rows)
    vectors = bank.on(predictions.device) if pool_vectors is None else pool_vectors
    _check(predictions, windows, vectors[:size], size)
    pool, queries = vectors[:size].detach().float(), predictions.detach().float()
    raw, masked = target_ranks(
        queries, pool, windows.targets, windows.contexts, duplicate_group=bank.duplicate_group
    )
    per_query = PerQuery(
        cosine=_cosines(queries, pool, windows),
        masked=masked,
        raw=raw,
        articles=np.asarray(windows.articles, dtype=np.int64),
        space=space,
        pool=Pool(id=bank.fingerprint, size=size, mask="own contexts"),
    )
    return evaluation_of(per_query, split), per_query


def _check(predictions: Tensor, windows: Windows, vectors: Tensor, size: int) -> None:
    wanted = (len(windows), vectors.shape[1])
    if tuple(predictions.shape) != wanted:
        raise DataError(
            f"the predictions have shape {tuple(predictions.shape)}, expected {wanted}(one row "
            "per window, in the pool's width); predict exactly these windows."
        )
    if predictions.device != vectors.device:
        raise ValueError(
            f"the predictions are on {predictions.device}, but the pool is on {vectors.device}"
        )
    if len(vectors) != size:
        raise DataError(
            f"the pool has {len(vectors)} vectors but needs {size}, one per retrievable bank "
            "row; project every row."
        )
    outside = int(np.count_nonzero((windows.targets < 0) | (windows.targets >= size)))
    if outside:
        raise DataError(
            f"{outside} of {len(windows)} targets are missing from the {size}-row pool; add "
            "their vectors to the bank."
        )


def _cosines(
    queries: Float[Tensor, "M W"], pool: Float[Tensor, "P W"], windows: Windows
) -> Float[np.ndarray, " M"]:
    """Return the cosine of every prediction with the pool's vector of its target."""
    targets = ids_on(windows.targets, pool.device)
    parts = zip(torch.split(queries, BLOCK), torch.split(targets, BLOCK), strict=True)
    found = [functional.cosine_similarity(asked, pool[right], dim=1) for asked, right in parts]
    return np.asarray(torch.cat(found).cpu().numpy())


def measure_latency(
    predict: Callable[[Tensor], Tensor],
    index: Index,
    contexts: Float[Tensor, "Q T D"],
    *,
    warmup: int = 10,
    k: int = 50,
) -> Mapping[str, float]:
    """Return p50_ms and p95_ms of one query at a time: model and search for k rows, warm.

    `predict` maps [1, T, D] to [1, W] in the space of the index, on the device that it likes best.
    A query comes from the host and its k ids go back there, so that both ways count. The first
    `warmup` of the Q >= 1 queries run once before the clock starts.
    """

    def one(query: int) -> float:
        synchronise(index.device)  # what was asked of a GPU before is not this query's
        start = time.perf_counter()
        index.search(predict(contexts[query : query + 1]), k)
        synchronise(index.device)
        return 1e3 * (time.perf_counter() - start)

    with torch.inference_mode():
        for query in range(min(warmup, len(contexts))):
            one(query)
        p50, p95 = np.percentile([one(query) for query in range(len(contexts))], [50, 95])
    return {"p50_ms": float(p50), "p95_ms": float(p95)}


def ann_loss(
    predictions: Float[Tensor, "M W"], exact: Index, approximate: Index, windows: Windows
) -> Mapping[str, float]:
    """Return Contain@50 by exact and by approximate search, and what the second one loses.

    Measured on the model's own predictions with own contexts masked: rows of the bank used as
    queries find themselves almost always and hide the loss.
    """
    own = np.where(windows.contexts == windows.targets[:, None], -1, windows.contexts)
    found = []
    for index in (exact, approximate):
        ids, _ = index.search(predictions, 50, own)
        found.append(float((ids == windows.targets[:, None]).any(axis=1).mean()))
    return {
        "contain_at_50_exact": found[0],
        "contain_at_50_approximate": found[1],
        "difference": found[0] - found[1],
    }
