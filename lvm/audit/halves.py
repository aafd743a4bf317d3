"""Parts of one article under two ids, one on each side of the split.

An article's chunks share a subject. Halves of a train article say how alike parts of one article
are, its most similar other article how alike others are. Where these lie apart, eval articles that
are as like a train article as its halves are like each other are parts of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.special import bdtrc  # type: ignore[import-untyped]  # scipy has no stubs

from lvm.audit.finding import Seen, Severity
from lvm.audit.location import unit, unit_or_zero
from lvm.audit.material import Material, Side

MIN_CHUNKS = 6  # of an article that is compared, half of which make a mean
MIN_ARTICLES = 12  # of the train side
MAX_ARTICLES, MAX_CHUNKS = 10_000, 32  # of a side, and of an article
READ_TOGETHER = 128  # articles
MAX_ASKED = 2000  # articles that are looked for among the others
APART = 0.5  # of halves more than of others lie above the limit that parts them best
CHANCE = 1e-4  # that as many articles are so like train by chance
PARTS_BLOCK = 0.5  # of the eval articles, estimated

Keys = tuple[np.ndarray, np.ndarray]  # [M, 2] keys of windows, and where they are known


@dataclass(frozen=True, eq=False)
class Means:
    """The mean of all chunks of an article, and of its first and second half."""

    articles: Int[np.ndarray, " A"]
    whole: Float[np.ndarray, "A D"]
    first: Float[np.ndarray, "A D"]
    second: Float[np.ndarray, "A D"]


def halves(material: Material, mine: Keys, theirs: Keys) -> Iterator[Seen]:
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
