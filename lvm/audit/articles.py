"""Articles of one part of the data, chunk after chunk: what statistics within a part look at.

A part is the bank, or the targets of a side that lies in no bank. Its keys say which rows are one
article and in which order; nothing here needs a healthy part to compare with.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lvm.audit.coherence import coherence
from lvm.audit.location import unit
from lvm.audit.material import Material, Side, or_none
from lvm.core.randomness import numpy_generator
from lvm.data.rows import key_codes, take

IN_BANK = 0.5  # share of targets that lie in the bank, from which a side needs no look of its own


@dataclass(frozen=True, eq=False)
class Part:
    """Rows with their keys: the bank, or the targets of one side."""

    name: str  # "bank", "train" or "eval"
    source: str
    keys: Int[np.ndarray, "N 2"]
    fetch: Callable[[Int[np.ndarray, " m"]], Float[np.ndarray, "m D"]]

    def rows_by_article(self) -> list[Int[np.ndarray, " n"]]:
        """Return the rows of every article in the order of its chunks, one row per key."""
        codes = key_codes(self.keys)
        order = np.argsort(codes, kind="stable")
        order = order[np.concatenate([[True], np.diff(codes[order]) != 0])]
        starts = np.flatnonzero(np.diff(self.keys[order, 0])) + 1
        return np.split(order, starts)


@dataclass(frozen=True, eq=False)
class Article:
    """Chunks of one article as unit vectors, in the order of their numbers."""

    id: int
    rows: Int[np.ndarray, " n"]  # of the part
    vectors: Float[np.ndarray, "n D"]
    length: int  # chunks of the whole article


def parts(material: Material) -> list[Part]:
    """Return the bank, and every side with keys that does not lie in it."""
    found = []
    bank = material.bank
    if bank is not None:
        fetch = functools.partial(take, bank.vectors)
        found.append(Part("bank", bank.source, bank.keys[bank.pool_rows], fetch))
    found += [
        Part(side.name, side.source, side.keys, side.targets)
        for side in material.sides
        if side.keys is not None and not (bank is not None and _in_bank(material, side))
    ]
    return found


def _in_bank(material: Material, side: Side) -> bool:
    if side.windows is not None:
        return True
    found = or_none(coherence, material, side.name)
    if found is None:
        return True  # too small for anything to be said of it
    located = found.located
    return located is not None and float(located.found[:, -1].mean()) >= IN_BANK


def draw(
    material: Material, part: Part, *, least: int, chunks: int, spread: bool, rows: int
) -> list[Article]:
    """Return random articles of at least `least` chunks, `rows` rows in all at the most.

    Of a longer article come the first `chunks` chunks, or as many `spread` over its length. An
    article with a vector that has no direction is left out.
    """
    articles = [mine for mine in part.rows_by_article() if len(mine) >= least]
    rng = numpy_generator(material.seed, "audit", "articles", part.name)
    chosen: list[Int[np.ndarray, " n"]] = []
    lengths: list[int] = []
    for i in rng.permutation(len(articles)):
        mine = articles[i]
        some = np.unique(np.linspace(0, len(mine) - 1, chunks).round().astype(int))
        taken = mine[:chunks] if len(mine) <= chunks or not spread else mine[some]
        if sum(map(len, chosen)) + len(taken) > rows:
            break
        chosen.append(taken)
        lengths.append(len(mine))
    return list(_articles(part, chosen, lengths))


def _articles(
    part: Part, chosen: list[Int[np.ndarray, " n"]], lengths: list[int]
) -> Iterator[Article]:
    if not chosen:
        return
    flat = np.concatenate(chosen)
    order = np.argsort(flat)  # a mapped file is read from its beginning to its end
    vectors = np.empty((len(flat), part.fetch(flat[:1]).shape[1]), dtype=np.float32)
    vectors[order] = unit(part.fetch(flat[order]))
    bounds = np.cumsum([len(rows) for rows in chosen])[:-1]
    for rows, mine, length in zip(chosen, np.split(vectors, bounds), lengths, strict=True):
        if np.isfinite(mine).all():
            yield Article(int(part.keys[rows[0], 0]), rows, mine, length)


def counted_by_side(
    material: Material, looked_at: Collection[int], odd: Collection[int]
) -> dict[str, tuple[int, int]]:
    """Return for each side how many of its articles that were looked at are odd, and how many."""
    found = {}
    for side in material.sides:
        given = or_none(coherence, material, side.name)
        if given is not None and given.by_article:
            mine = set(given.clusters.tolist()) & set(looked_at)
            found[side.name] = (len(mine & set(odd)), len(mine))
    return found


def shared(counts: dict[str, tuple[int, int]]) -> str:
    """Say in words which sides hold odd articles, for the end of a sentence."""
    told = ", ".join(f"{odd} of {of} {name} articles" for name, (odd, of) in counts.items() if of)
    return f" ({told})" if told else ""
