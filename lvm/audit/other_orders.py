"""Orders that chunks are stored in by mistake, and whether an article reads better undone.

Each mistake names the order in which the stored places of an article would have to be read:

    file names      chunks sorted as text, 1, 10, 11, 2; or their numbers given in that order
    turned batches  every batch of b chunks stored last one first; pairs swapped are b = 2
    merged          w documents taken in turn, a run of b chunks of each

Text of one article resembles itself most between neighbours. Undoing a mistake that was made turns
places that are far apart into neighbours that are alike, and parts others that are not:

    gain    cosine of places that become neighbours, minus that of neighbours that are parted
    other   the first minus other pairs of places as far apart: speakers who take turns and records
            of five fields have far pairs that are alike too, but all along the article
    kept    neighbours that stay neighbours, minus those that are parted

No part of the data has to be healthy for this. A whole article stored last one first is not seen:
every cosine stays as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lvm.audit.articles import Article

MAX_BATCH, MAX_RUN, MAX_WAYS = 10, 10, 4
MAX_TURNS = 8  # documents merged chunk by chunk
MIN_PAIRS = 3  # of a kind, in an article that is looked at
ALONE_PAIRS = 6  # of a kind, in one that is judged alone
CLEAR_ARTICLE = 3.0  # standard errors of the gain within an article
MIN_SHARE = 0.05  # of articles: chance makes one in a hundred look so where text has no order
CLEAR = 6.0  # standard errors of the mean gain over articles
MIN_ARTICLES = 3
SHARE_OF_GAIN = 0.5  # that `other` and `kept` must have where they exist
OWN = 0.25  # of the lift of new neighbours: nearer places with less are of two documents
LASTS = 0.25  # of it, two turns apart: a document is of one subject, a state that rotates is not

Order = Callable[[int], Int[np.ndarray, " n"]]  # number of chunks -> places in the order to read


@dataclass(frozen=True)
class Mistake:
    """A way to store an article out of order."""

    name: str
    meaning: str
    undo: Order


@dataclass(frozen=True, eq=False)
class Pairs:
    """Places [k, 2] of an article of n chunks that a mistake makes and parts, and keeps.

    The lower place of a pair comes first.
    """

    made: Int[np.ndarray, "a 2"]
    parted: Int[np.ndarray, "b 2"]
    kept: Int[np.ndarray, "c 2"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """How J articles read with a mistake undone."""

    mistake: Mistake
    ids: Int[np.ndarray, " J"]
    hit: np.ndarray  # [J] bool: the mistake was made in this article
    gain: float  # mean over these
    error: float


@functools.cache  # the same ones every time: they are keys of `_pairs_of`
def mistakes() -> tuple[Mistake, ...]:
    """Return every mistake that is looked for."""
    text = "Chunks are sorted by their numbers as text (1, 10, 11, 2), like files that "
    named = [
        Mistake("sorted as text", text + "are listed by name.", functools.partial(_as_text, first))
        for first in (0, 1)
    ]
    named += [
        Mistake(
            "numbered as text",
            text + "are numbered by name.",
            functools.partial(_numbered_as_text, first),
        )
        for first in (0, 1)
    ]
    turned = [
        Mistake(
            f"batches of {b} last one first" if b > 2 else "pairs swapped",
            "Chunks were stored batch by batch, each batch reversed.",
            functools.partial(_turned, b),
        )
        for b in range(2, MAX_BATCH + 1)
    ]
    merged = [
        Mistake(
            f"{w} documents merged in runs of {b}",
            "Articles were interleaved, as parallel ingestion can do.",
            functools.partial(_merged, b, w),
        )
        for b in range(1, MAX_RUN + 1)
        for w in range(2, (MAX_WAYS if b > 1 else MAX_TURNS) + 1)
        if b > 1 or w > 2  # chunk by chunk, two by two: seen in the windows themselves
    ]
    return (*named, *turned, *merged)


def _as_text(first: int, n: int) -> Int[np.ndarray, " n"]:
    return np.argsort(_numbered_as_text(first, n), kind="stable")


@functools.lru_cache(maxsize=1024)
def _numbered_as_text(first: int, n: int) -> Int[np.ndarray, " n"]:
    return np.array(sorted(range(n), key=lambda i: str(i + first)))


def _turned(batch: int, n: int) -> Int[np.ndarray, " n"]:
    places = np.arange(n)
    return np.lexsort((-places, places // batch))


def _merged(run: int, ways: int, n: int) -> Int[np.ndarray, " n"]:
    places = np.arange(n)
    return np.lexsort((places, places // run % ways))


def pairs(order: Int[np.ndarray, " n"]) -> Pairs:
    """Return which neighbours an order makes, parts and keeps."""
    first, second = np.minimum(order[:-1], order[1:]), np.maximum(order[:-1], order[1:])
    near = second - first == 1
    parted = np.ones(len(order) - 1, dtype=bool)
    parted[first[near]] = False
    made = np.column_stack([first[~near], second[~near]])
    parted_at, kept_at = np.flatnonzero(parted), np.flatnonzero(~parted)
    return Pairs(
        made=made,
        parted=np.column_stack([parted_at, parted_at + 1]),
        kept=np.column_stack([kept_at, kept_at + 1]),
    )


@functools.lru_cache(maxsize=16384)
def _pairs_of(mistake: Mistake, length: int, seen: int) -> Pairs:
    """Return the pairs of an article of `length` chunks whose first `seen` are looked at."""
    whole = pairs(mistake.undo(length))
    if seen >= length:
        return whole
    within = [rows[rows[:, 1] < seen] for rows in (whole.made, whole.parted, whole.kept)]
    return Pairs(*within)


# --- reading articles -----------------------------------------------------------------------------


def best_reading(articles: list[Article]) -> Reading | None:
    """Return the mistake that, undone, makes most articles read better, or None."""
    grams = [article.vectors @ article.vectors.T for article in articles]
    sums = [_by_distance(gram) for gram in grams]
    found = [
        reading for one in mistakes() if (reading := _read(one, articles, grams, sums)) is not None
    ]
    return max(found, key=lambda reading: reading.hit.sum() * reading.gain, default=None)


def _by_distance(gram: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " n"]:
    """Return the sum of cosines of places 0, 1, 2, ... apart."""
    n = len(gram)
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    return np.bincount(distance.ravel(), weights=gram.ravel(), minlength=n) / 2


def _read(
    mistake: Mistake, articles: list[Article], grams: list[np.ndarray], sums: list[np.ndarray]
) -> Reading | None:
    judged = [
        (i, chosen)
        for i, article in enumerate(articles)
        if min(
            len((chosen := _pairs_of(mistake, article.length, len(article.vectors))).made),
            len(chosen.parted),
        )
        >= MIN_PAIRS
    ]
    if len(judged) < MIN_ARTICLES:
        return None
    made, parted = (
        _moments([(getattr(chosen, kind), grams[i]) for i, chosen in judged])
        for kind in ("made", "parted")
    )
    gain, error = made[0] - parted[0], (made[1] + parted[1]) ** 0.5
    alone = [min(len(chosen.made), len(chosen.parted)) >= ALONE_PAIRS for _, chosen in judged]
    hit = (gain > CLEAR_ARTICLE * error) & np.array(alone)
    if gain.mean() > CLEAR * gain.std(ddof=1) / len(gain) ** 0.5:
        hit[:] = True  # short articles: all together say what none says alone
    if hit.sum() < max(MIN_ARTICLES, MIN_SHARE * len(hit)):
        return None
    told = [
        _beside(chosen, grams[i], sums[i], articles[i].vectors, articles[i - 1].vectors)
        for (i, chosen), one in zip(judged, hit, strict=True)
        if one
    ]
    if not _specific(float(gain[hit].mean()), np.array(told)):
        return None
    return Reading(
        mistake=mistake,
        ids=np.array([articles[i].id for i, _ in judged]),
        hit=hit,
        gain=float(gain[hit].mean()),
        error=float(gain[hit].std(ddof=1) / hit.sum() ** 0.5),
    )


def _moments(
    read: list[tuple[Int[np.ndarray, "k 2"], Float[np.ndarray, "n n"]]],
) -> tuple[Float[np.ndarray, " J"], Float[np.ndarray, " J"]]:
    """Return the mean cosine of the pairs of each article, and the variance of that mean."""
    values = np.concatenate([gram[places[:, 0], places[:, 1]] for places, gram in read])
    counts = np.array([len(places) for places, _ in read])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    means = np.add.reduceat(values, starts) / counts
    squares = np.add.reduceat((values - np.repeat(means, counts)) ** 2, starts)
    return means, squares / counts / (counts - 1)


def _beside(
    chosen: Pairs, gram: np.ndarray, sums: np.ndarray, mine: np.ndarray, other: np.ndarray
) -> tuple[float, float, float, float, float]:
    """Return `other` and `kept`, and the lifts of nearer places, made ones, and two turns apart.

    NaN where there are no such pairs.
    """
    made, parted, kept = (gram[p[:, 0], p[:, 1]] for p in (chosen.made, chosen.parted, chosen.kept))
    apart = chosen.made[:, 1] - chosen.made[:, 0]
    count, summed = (np.bincount(apart, weights=w, minlength=len(gram)) for w in (None, made))
    left = len(gram) - np.arange(len(gram)) - count  # other pairs as far apart
    usual = (sums - summed) / np.where(left > 0, left, np.nan)
    beside = (made - usual[apart])[left[apart] > 0]
    # Of documents merged chunk by chunk, no two places nearer than a whole turn are of one.
    turn = int(np.bincount(apart).argmax())
    nearer = max(sums[k] / (len(gram) - k) for k in range(1, max(2, turn)))
    chance, later = _chance(chosen.made, mine, other), 2 * turn
    lasting = sums[later] / (len(gram) - later) if later < len(gram) else np.nan
    return (
        float(beside.mean()) if len(beside) > len(made) / 2 else np.nan,
        float(kept.mean() - parted.mean()) if len(kept) else np.nan,
        float(nearer) - _chance(chosen.parted, mine, other),
        float(made.mean()) - chance,
        float(lasting) - chance,
    )


def _chance(places: Int[np.ndarray, "k 2"], mine: np.ndarray, other: np.ndarray) -> float:
    """Return the cosine of the same places in two articles."""
    there = places[places[:, 1] < len(other)]
    if len(there) == 0:
        return float((mine @ other.mean(axis=0)).mean())
    return float(np.einsum("md,md->m", mine[there[:, 0]], other[there[:, 1]]).mean())


def _specific(gain: float, told: Float[np.ndarray, "J 5"]) -> bool:
    """Say whether nothing but the mistake explains the gain."""
    columns = [values[np.isfinite(values)] for values in told[:, :2].T]
    # Of documents merged chunk by chunk only the shortest have such pairs, at their ends.
    columns = [values for values in columns if 2 * len(values) > len(told)]
    if not columns:
        lift, lasting = float(told[:, 3].mean()), told[np.isfinite(told[:, 4]), 4]
        lasts = len(lasting) == 0 or float(lasting.mean()) >= LASTS * lift
        return float(told[:, 2].mean()) < OWN * lift and lasts
    return all(float(values.mean()) >= SHARE_OF_GAIN * gain for values in columns)
