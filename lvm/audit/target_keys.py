"""Where the windows of a side are from, and which eval articles are copies or parts of train ones.

The content of the bank says it, else the keys of the windows do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import bdtrc  # type: ignore[import-untyped]  # scipy has no stubs

from lvm.audit.blame import counted_off, wrong_bank
from lvm.audit.coherence import sample_rows
from lvm.audit.finding import Seen, Severity
from lvm.audit.lineage import Places
from lvm.audit.location import (
    RoughIndex,
    centre_and_spread,
    find_rows,
    same_limit,
    unit,
    unit_or_zero,
)
from lvm.audit.material import Material, Side, once
from lvm.audit.stated import mostly
from lvm.data.rows import take

QUICK_TRAIN = 100_000  # train windows that a quick audit compares
MIN_CHUNKS = 6  # of an article that is compared, half of which make a mean
MIN_ARTICLES = 12  # of the train side
MAX_ARTICLES, MAX_CHUNKS = 10_000, 32  # of a side, and of an article
READ_TOGETHER = 128  # articles
MAX_ASKED = 2000  # articles that are looked for among the others
APART = 0.5  # of halves more than of others lie above the limit that parts them best
CHANCE = 1e-4  # that as many articles are so like train by chance
PARTS_BLOCK = 0.5  # of the eval articles, estimated


def target_keys(material: Material, side: Side) -> Places | None:
    """Return the key of each target as its content says, else as stated, and where that is known.

    A target whose vector the bank holds several times has no certain place and counts as unknown.
    Of the train side only a sample is followed in a quick audit.
    """
    if side.windows is not None:
        return material.pool.keys[side.windows.targets], np.ones(len(side), dtype=bool)
    quick = material.quick and side.name == "train"
    if side.name == "eval":
        return _keys_by_context(material, side)
    rows = sample_rows(material, side) if quick else np.arange(len(side))
    vectors = side.targets(rows) if quick else side.stored_targets
    keys, known = _placed(material, side, rows, vectors)
    if _speaks(material, side):
        known &= ~_foreign(material, side, rows, keys, known)
    return (keys, known) if known.any() else None


def _placed(
    material: Material,
    side: Side,
    rows: Int[np.ndarray, " m"],
    vectors: Float[np.ndarray, "m D"],
    ahead: int = 0,
) -> Places:
    """Return the keys of windows, so many chunks ahead of where their vectors lie, else stated."""
    stated = side.keys
    keys = np.zeros((len(rows), 2), np.int64) if stated is None else stated[rows].astype(np.int64)
    known = np.full(len(rows), stated is not None and not counted_off(stated))
    if _speaks(material, side):
        places = find_rows(material, side.stored(vectors))
        once = material.held_once(places)
        keys[once] = material.pool.keys[places[once]] + [0, ahead]
        if once.mean() > 0.5:  # content speaks: stated keys of the rest could be as wrong
            known = once
    return keys, known


def _speaks(material: Material, side: Side) -> bool:
    """Say whether the bank's keys tell where the vectors of a side are from."""
    if material.bank is None or side.width != material.bank.width:
        return False
    return wrong_bank(material) is None


def _foreign(
    material: Material,
    train: Side,
    rows: Int[np.ndarray, " m"],
    keys: Int[np.ndarray, "m 2"],
    known: Bool[np.ndarray, " m"],
) -> Bool[np.ndarray, " m"]:
    """Which train targets seem to be of an eval article, while their contexts are of another one.

    Such a target was overwritten: EVAL_UNPAIRED says so, and no eval text was trained on in order.
    """
    foreign = np.zeros(len(rows), dtype=bool)
    mine = _keys_by_context(material, material.eval) if material.eval is not None else None
    if mine is None or train.file is None:
        return foreign
    shared = np.flatnonzero(known & np.isin(keys[:, 0], mine[0][mine[1], 0]))
    last = train.stored(take(train.file.contexts, rows[shared])[:, -1])
    places = find_rows(material, last) if len(shared) else np.empty(0, np.int64)
    there = material.held_once(places)
    other = material.pool.keys[np.maximum(places, 0), 0] != keys[shared, 0]
    foreign[shared[there & other]] = True
    return foreign


def _keys_by_context(material: Material, side: Side) -> Places | None:
    """Return where eval windows lie by their last context: targets may have been overwritten."""
    rows = np.arange(len(side))
    keys, known = _placed(material, side, rows, side.contexts(rows)[:, -1], ahead=1)
    return (keys, known) if known.any() else None


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
    copies = mostly(keys[known, 0], found[known])
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


# --- parts of one article under two ids -----------------------------------------------------------
#
# An article's chunks share a subject. Halves of a train article say how alike parts of one article
# are, its most similar other article how alike others are. Where these lie apart, eval articles
# that are as like a train article as its halves are like each other are parts of it.


@dataclass(frozen=True, eq=False)
class Means:
    """The mean of all chunks of an article, and of its first and second half."""

    articles: Int[np.ndarray, " A"]
    whole: Float[np.ndarray, "A D"]
    first: Float[np.ndarray, "A D"]
    second: Float[np.ndarray, "A D"]


def halves(material: Material, mine: Places, theirs: Places) -> Iterator[Seen]:
    """Report eval articles that are as like a train article as its own other half."""
    eval_, train = material.side("eval"), material.side("train")
    if material.quick or eval_.width != train.width or len(theirs[0]) != len(train):
        return
    known, asked = article_means(train, *theirs), article_means(eval_, *mine)
    if len(known.articles) < MIN_ARTICLES or len(asked.articles) < 3:
        return
    centre = known.whole.mean(axis=0)
    first, second = _directions(known.first, centre), _directions(known.second, centre)
    whole, same = _directions(known.whole, centre), np.einsum("ad,ad->a", first, second)
    some = np.unique(np.linspace(0, len(first) - 1, min(len(first), MAX_ASKED)).astype(int))
    among = whole[some] @ whole.T
    among[np.arange(len(some)), some] = -1
    other = among.max(axis=1)
    limit = _limit(same, other)
    likeness = (_directions(asked.whole, centre) @ whole.T).max(axis=1)
    odd, usual = likeness >= limit, float((other >= limit).mean())
    apart = float((same >= limit).mean()) - usual
    doubt = usual + 2 * ((usual + 1 / len(other)) / len(other)) ** 0.5
    by_chance = float(bdtrc(int(odd.sum()) - 1, len(odd), min(1.0, doubt)))
    if apart < APART or by_chance > CHANCE:
        return
    share = min(1.0, (float(odd.mean()) - usual) / apart)
    yield Seen(
        severity=Severity.BLOCK if share >= PARTS_BLOCK else Severity.WARN,
        seen=f"{int(odd.sum())} of {len(odd)} eval articles are as similar to one train article "
        f"(cosine {limit:.2f} or more of their means) as two halves of one article; of "
        f"train articles {usual:.0%} are as similar to another",
        allowed=f"{doubt:.0%} of the articles, as in train ({PARTS_BLOCK:.0%} blocks)",
        where=eval_.where(
            count=odd.sum(), of=len(odd), articles=asked.articles[np.argsort(-likeness)]
        ),
        meaning="Parts of one article are on both sides under two ids, so the model has read "
        "the rest of the text that it is evaluated on.",
        next="give all parts of an article one id, split by article, and cut the windows again",
        values={"articles": float(odd.sum()), "share": share, "limit": limit},
    )


def _limit(same: Float[np.ndarray, " A"], other: Float[np.ndarray, " B"]) -> float:
    """Return the likeness above which most halves of one article lie, and fewest others."""
    tried = np.sort(np.concatenate([same, other]))
    above = [1 - np.searchsorted(np.sort(part), tried) / len(part) for part in (same, other)]
    return float(tried[np.argmax(above[0] - above[1])])


def _directions(means: Float[np.ndarray, "A D"], centre: Float[np.ndarray, " D"]) -> np.ndarray:
    return unit_or_zero(means - centre)


def article_means(side: Side, keys: np.ndarray, known: np.ndarray) -> Means:
    """Return the means of the articles of a side by the last contexts of their windows."""
    rows = np.flatnonzero(known)
    order = rows[np.lexsort((keys[rows, 1], keys[rows, 0]))]
    articles, start, count = np.unique(keys[order, 0], return_index=True, return_counts=True)
    long = np.flatnonzero(count >= MIN_CHUNKS)
    long = long[np.unique(np.linspace(0, len(long) - 1, min(len(long), MAX_ARTICLES)).astype(int))]
    chosen = []
    for article in long:
        mine = order[start[article] : start[article] + count[article]]
        mine = mine[np.linspace(0, len(mine) - 1, min(len(mine), MAX_CHUNKS)).astype(int)]
        chosen.append(mine)
    means = np.empty((len(long), 3, side.width), dtype=np.float32)
    for first in range(0, len(long), READ_TOGETHER):
        some = slice(first, first + READ_TOGETHER)
        for one, vectors in zip(means[some], _read(side, chosen[some]), strict=True):
            half = len(vectors) // 2
            one[:] = [part.mean(axis=0) for part in (vectors, vectors[:half], vectors[half:])]
    return Means(articles[long], means[:, 0], means[:, 1], means[:, 2])


def _read(side: Side, articles: list[Int[np.ndarray, " n"]]) -> Iterator[Float[np.ndarray, "n D"]]:
    """Yield the unit vectors at the rows of each article; zeros where too few have a direction."""
    rows = np.concatenate(articles)
    # Targets of the eval side may have been overwritten.
    read = unit(side.targets(rows) if side.name == "train" else side.contexts(rows)[:, -1])
    for vectors in np.split(read, np.cumsum([len(mine) for mine in articles])[:-1]):
        usable = vectors[np.isfinite(vectors).all(axis=1)]
        yield usable if len(usable) >= MIN_CHUNKS else np.zeros_like(vectors)
