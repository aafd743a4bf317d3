"""Which eval articles are copies of train articles under another id?"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int

from lvm.audit.location import RoughIndex, centre_and_spread, same_limit, unit
from lvm.audit.material import Material, Side, once
from lvm.audit.target_keys import target_keys

COPIED_SHARE, MIN_COPIED = 0.5, 3  # of an article's windows, and their number
QUICK_TRAIN = 100_000  # train windows that a quick audit compares


@once
def copies_of_train(
    material: Material,
) -> tuple[Int[np.ndarray, " a"], Int[np.ndarray, " m"]]:
    """Return the eval articles that are copies of train text, and the eval windows that are.

    By their vectors, up to rounding: the same text in another batch, or on another machine, has
    other bits. An article is a copy when half its windows are; a heading that many articles share
    makes none. Nothing is looked for in a quick audit of many train windows, or where articles are
    not known.
    """
    nothing = np.empty(0, np.int64), np.empty(0, np.int64)
    train, eval_ = material.train, material.eval
    if train is None or eval_ is None or train.width != eval_.width:
        return nothing
    mine = target_keys(material, eval_)
    if mine is None or (material.quick and len(train) > QUICK_TRAIN):
        return nothing
    keys, known = mine
    last = eval_.contexts(np.arange(len(eval_)))[:, -1]  # a target may have been overwritten
    rows = RoughIndex(train.stored_targets).find(last)
    found = (rows >= 0) & _same_before(train, eval_, rows)
    articles, place = np.unique(keys[known, 0], return_inverse=True)
    whole, copied = np.bincount(place), np.bincount(place, weights=found[known])
    copies = articles[(copied >= COPIED_SHARE * whole) & (copied >= np.minimum(whole, MIN_COPIED))]
    return copies, np.flatnonzero(found & known & np.isin(keys[:, 0], copies))


def _same_before(train: Side, eval_: Side, rows: Int[np.ndarray, " m"]) -> Bool[np.ndarray, " m"]:
    """Say where the train window of each row has the same chunk before its target as eval has.

    A train target that was overwritten with a chunk of an eval article is no copy of that article.
    """
    same = np.ones(len(rows), dtype=bool)
    if min(train.context_length, eval_.context_length) < 2:
        return same
    found = np.flatnonzero(rows >= 0)
    theirs = unit(train.contexts(rows[found])[:, -1])
    mine = unit(eval_.contexts(found)[:, -2])
    limit = same_limit(centre_and_spread(train.stored_targets)[1])
    same[found] = np.einsum("md,md->m", theirs, mine) >= limit
    return same
