"""Text that occurs twice in other words, or is split under two ids: likeness beyond what is usual.

No cosine is a copy by itself: in some spaces all text lies at .98. The text that is searched is
taken in parts, each with its nearest chunk. A twin lies at half the distance, or less, of the fifth
nearest of these: among unrelated text, nearest neighbours of any space are about equally far. Where
that one lies at half its own usual distance, the chunk is boilerplate: it is in many articles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from lvm.audit.coherence import level
from lvm.audit.finding import Seen, Severity
from lvm.audit.location import unit
from lvm.audit.material import Material, where_found
from lvm.core.randomness import numpy_generator
from lvm.data.bank import Bank
from lvm.data.rows import BLOCK_BYTES, blocks, take

NUM_QUERIES = 256
PER_ARTICLE = {"bank": 2, "eval": 8}  # queries: a bank is looked at widely, an article as a whole
MIN_PARTS, REFERENCE = 16, 5  # of the text that is searched; the part that says what is usual
TWIN = 0.5  # of the distance of the reference
TWINS_WARN = 0.05  # of the chunks
# Of the eval windows. References say much the same of functions of one name in two packages: in
# those of numpy and scipy a third of a small eval side can be near-copies, and both are healthy.
PARAPHRASED_WARN, PARAPHRASED_BLOCK, MIN_BLOCK = 0.01, 0.4, 4  # and articles
MIN_ARTICLES = MIN_PARTS  # of the text that is searched


@dataclass(frozen=True, eq=False)
class Twins:
    """Queries, and the nearest chunk of another article where that is a twin."""

    rows: Int[np.ndarray, " q"]  # of what was asked
    articles: Int[np.ndarray, " q"]
    is_twin: Bool[np.ndarray, " q"]
    is_common: Bool[np.ndarray, " q"]  # near-copies of it are in many articles
    partner: Int[np.ndarray, " q"]  # article of the nearest chunk


def bank_twins(material: Material) -> Iterator[Seen]:
    """Report chunks of the bank that another article says again in other words."""
    bank = material.pool
    if material.quick:
        return
    size = len(bank.pool_rows)
    rows = _drawn(bank.articles[:size], PER_ARTICLE["bank"], material.seed)
    found = find_twins(bank.vectors[:size], bank.articles[:size], bank.vectors, bank.articles, rows)
    if found is None:
        return
    rows = found.rows
    exact = material.content.copies[rows] > 1  # those are counted as what they are
    yield from _boilerplate(bank, found, exact)
    share = level((found.is_twin & ~exact).astype(float), found.articles)
    if share.below() <= TWINS_WARN:
        return
    mine = np.flatnonzero(found.is_twin & ~exact)
    yield Seen(
        severity=Severity.WARN,
        seen=f"{share.value:.1%} of {len(rows)} sampled chunks have a twin in another article, "
        "at less than half the distance of other text",
        allowed=f"at most {TWINS_WARN:.0%}",
        where=where_found(
            "bank",
            bank.source,
            count=len(mine),
            of=len(rows),
            rows=rows[mine],
            articles=np.unique(found.articles[mine]),
        ),
        meaning="The bank holds the same text twice in other words (a revision, a translation, "
        "a second embedding). No prediction can tell a target from its twin, so R@1 is "
        "bounded, and twins are negatives of each other.",
        next="keep one of the articles that say the same, then embed the bank again",
        values={"twins": share.value, "error": share.error},
    )


def _boilerplate(bank: Bank, found: Twins, exact: Bool[np.ndarray, " q"]) -> Iterator[Seen]:
    common = found.is_common & ~exact
    share = level(common.astype(float), found.articles)
    if share.below() <= TWINS_WARN:
        return
    rows = found.rows[common]
    yield Seen(
        severity=Severity.WARN,
        seen=f"{share.value:.1%} of {len(found.rows)} sampled chunks are nearly repeated in "
        f"{REFERENCE} or more other places, at less than half the distance of other text",
        allowed=f"at most {TWINS_WARN:.0%}",
        where=where_found("bank", bank.source, count=len(rows), of=len(found.rows), rows=rows),
        meaning="Boilerplate (a header, a licence, a form) is in many articles. As a target it "
        "has many right answers, of which one counts; as a negative it may be the "
        "right answer.",
        next="remove the boilerplate from the text, then embed the bank again",
        values={"common": share.value, "error": share.error},
    )


def paraphrases(
    material: Material, mine: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray]
) -> Iterator[Seen]:
    """Report eval articles that say what a train article says, chunk by chunk, in other words.

    `mine` and `theirs` are the keys of the windows of both sides, and where they are known.
    """
    eval_, train = material.side("eval"), material.side("train")
    if material.quick or eval_.width != train.width or len(theirs[0]) != len(train):
        return
    known = np.flatnonzero(mine[1])
    rows = known[_drawn(mine[0][known, 0], PER_ARTICLE["eval"], material.seed)]
    vectors = eval_.contexts(rows)[:, -1]
    articles = np.where(theirs[1], theirs[0][:, 0], -1)
    found = find_twins(vectors, mine[0][rows, 0], train.stored_targets, articles)
    if found is None:
        return
    rows = rows[found.rows]
    copied = _in_one_article(found)
    windows = np.isin(found.articles, copied)
    share = float(windows.mean())
    if share <= PARAPHRASED_WARN or len(copied) < 2:
        return
    grave = share > PARAPHRASED_BLOCK and len(copied) >= MIN_BLOCK
    yield Seen(
        severity=Severity.BLOCK if grave else Severity.WARN,
        seen=f"{len(copied)} of {len(np.unique(found.articles))} sampled eval articles say what "
        f"one train article says, chunk by chunk ({share:.1%} of the windows)",
        allowed=f"{PARAPHRASED_WARN:.0%} of the windows ({PARAPHRASED_BLOCK:.0%} blocks)",
        where=eval_.where(
            count=windows.sum(), of=len(windows), rows=rows[windows], articles=copied
        ),
        meaning="The model has read this text in other words (a revision, a translation, a "
        "second embedding), so a score on it says little about text that it has not "
        "read.",
        next="put all versions of an article on one side of the split, then cut the windows again",
        values={"share": share, "articles": float(len(copied))},
    )


def _in_one_article(found: Twins) -> Int[np.ndarray, " a"]:
    """Return the articles half of whose chunks have their twins in one other article, two or more.

    A heading or a quotation has twins in many articles, or one alone. Rows of which nobody knows
    where they are from, as targets that were overwritten, make no article.
    """
    articles, place, sizes = np.unique(found.articles, return_inverse=True, return_counts=True)
    pairs = np.column_stack([place, found.partner])[found.is_twin & (found.partner >= 0)]
    pairs, held = np.unique(pairs, axis=0, return_counts=True)
    size = sizes[pairs[:, 0]]
    return np.asarray(articles[np.unique(pairs[(held >= 2) & (2 * held >= size), 0])])


def _drawn(articles: Int[np.ndarray, " n"], each: int, seed: int) -> Int[np.ndarray, " q"]:
    """Return rows of some articles, up to so many of each."""
    generator = numpy_generator(seed, "audit", "twins")
    order = generator.permutation(len(articles))
    ids, place = np.unique(articles, return_inverse=True)
    chosen = generator.permutation(len(ids))[: max(1, NUM_QUERIES // each)]
    rows = [order[place[order] == article][:each] for article in chosen]
    return np.sort(np.concatenate(rows))


def find_twins(
    vectors: Float[np.ndarray, "n D"],
    owner: Int[np.ndarray, " n"],
    table: Float[np.ndarray, "N D"],
    articles: Int[np.ndarray, " N"],
    rows: Int[np.ndarray, " q"] | None = None,
) -> Twins | None:
    """Look for twins of some `vectors` in the `table`, outside their own article.

    None where too few articles are searched to say what is usual.
    """
    rows = np.arange(len(vectors)) if rows is None else rows
    if len(np.unique(articles)) < MIN_ARTICLES:
        return None
    asked, owner = unit(take(vectors, rows)), owner[rows]
    good = np.isfinite(asked).all(axis=1)
    if not good.any():
        return None
    asked, owner, rows = asked[good], owner[good], rows[good]
    near, cosine = _nearest_by_part(asked, owner, table, articles)
    order = np.argsort(-cosine, axis=0, kind="stable")
    best, usual = (np.take_along_axis(cosine, order[[i]], axis=0)[0] for i in (0, REFERENCE - 1))
    partner = articles[np.take_along_axis(near, order[[0]], axis=0)[0]]
    is_twin = 1 - best < TWIN**2 * (1 - usual)
    is_common = 1 - usual < TWIN**2 * np.median(1 - usual)
    return Twins(rows, owner, is_twin, is_common, partner)


def _nearest_by_part(
    asked: Float[np.ndarray, "q D"],
    owner: Int[np.ndarray, " q"],
    table: Float[np.ndarray, "N D"],
    articles: Int[np.ndarray, " N"],
) -> tuple[Int[np.ndarray, "P q"], Float[np.ndarray, "P q"]]:
    """Return the nearest row outside the own article in each part of the table, and its cosine.

    The rows of an article lie together, so parts hold different articles; at least MIN_PARTS.
    """
    queries, own = torch.from_numpy(asked.T.copy()), torch.from_numpy(owner.astype(np.int64))
    size = len(table) * table.dtype.itemsize * table.shape[1]
    found = []
    for start, part in blocks(table, num_bytes=min(BLOCK_BYTES, max(1, size // MIN_PARTS))):
        values = np.asarray(part, dtype=np.float32)
        of = torch.from_numpy(articles[start : start + len(part)].astype(np.int64))
        scores = torch.from_numpy(unit(values)) @ queries
        scores = scores.nan_to_num_(-2.0).masked_fill_(of[:, None] == own, -2.0)
        value, row = scores.max(dim=0)
        found.append((row + start, value))
    near, cosine = (torch.stack(list(part)).numpy() for part in zip(*found, strict=True))
    return near, cosine
