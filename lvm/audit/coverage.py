"""Does the pool hold other text than that of the eval articles?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lvm.audit.coherence import coherence
from lvm.audit.finding import Seen
from lvm.audit.material import Material, or_none
from lvm.audit.where import where_found

OTHERS = 0.5  # of as many other articles as the train side has


def easy_pool(material: Material) -> Iterator[Seen]:
    """Report a pool of eval articles alone: a search among few is easier than among all."""
    bank, train = material.bank, material.train
    if bank is None or train is None or train.file is None or material.eval is None:
        return
    eval_, other = (or_none(coherence, material, name) for name in ("eval", "train"))
    if eval_ is None or other is None or not eval_.by_article or eval_.located is None:
        return
    mine = np.unique(material.eval.keys[:, 0]) if material.eval.keys is not None else None
    mine = np.unique(eval_.clusters) if mine is None else np.union1d(mine, eval_.clusters)
    size = len(bank.pool_rows)
    outside = ~np.isin(bank.articles[:size], mine)
    there = len(np.unique(bank.articles[:size][outside]))
    trained = len(np.unique(other.clusters if train.keys is None else train.keys[:, 0]))
    if there >= OTHERS * trained:
        return
    yield Seen(
        seen=f"the pool holds {size} rows, {int(outside.sum())} of them of articles ({there}) "
        f"outside the eval side; the train side has {trained} articles",
        allowed=f"{OTHERS:.0%} of as many other articles as are trained on",
        where=where_found("bank", bank.source, count=size - int(outside.sum()), of=size),
        meaning="The target is searched only among the eval articles, which is easier than in "
        "the whole collection: recall here overstates recall there.",
        next="add the chunks of the train articles to the payload, or state the size of the pool "
        "with every number",
        values={
            "pool_size": float(size),
            "other_articles": float(there),
            "train_articles": float(trained),
        },
    )
