"""The first chunk of an article once more, where a context has more places than chunks before it.

Windows are padded so in front, and so are articles of a bank. It is no disorder, and the keys of
such windows are right.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

from lvm.audit.articles import Article
from lvm.audit.coherence import Coherence, coherence
from lvm.audit.finding import Seen, Severity
from lvm.audit.material import Material, Side, or_none

PADDED_WARN = 0.01  # of windows that repeat the first chunk of their article
PADDED_SHARE = 0.9  # of windows with zero contexts, that have them in front, at an article's start
LOOKED_AT = 2048
ZERO_LENGTH = 1e-6


def repeats_in_front(contexts: Float[np.ndarray, "m T D"]) -> Int[np.ndarray, " m"]:
    """Return how many contexts at the front of each window are the same as the one after them."""
    same = (contexts[:, :-1] == contexts[:, 1:]).all(axis=2)
    return np.asarray(np.logical_and.accumulate(same, axis=1).sum(axis=1))


def padding_by_keys(
    material: Material, keys: Int[np.ndarray, "m 2"], contexts: Float[np.ndarray, "m T D"]
) -> Bool[np.ndarray, "m T"]:
    """Say which contexts are padding: the first chunk of the article, by its key, once more."""
    count, length = repeats_in_front(contexts), contexts.shape[1]
    for repeated in np.unique(count[count > 0]).tolist():
        mine = np.flatnonzero(count == repeated)
        row = material.by_key.step(keys[mine].astype(np.int64), repeated - length)
        first = _starts_article(material, material.pool.keys[row]) & (row >= 0)
        count[mine[~first]] = 0
    return np.asarray(np.arange(length) < count[:, None])


def padded_by_content(material: Material, side: Coherence) -> Bool[np.ndarray, " m"]:
    """Say which windows begin with such padding, by where their vectors lie in the bank."""
    count = repeats_in_front(side.contexts)
    if side.located is None:
        return np.zeros(len(count), dtype=bool)
    first = np.arange(len(count)), count
    there = side.located.found[first]
    return np.asarray((count > 0) & there & _starts_article(material, side.located.keys[first]))


def _starts_article(material: Material, keys: Int[np.ndarray, "m 2"]) -> Bool[np.ndarray, " m"]:
    return np.asarray(material.by_key.step(keys.astype(np.int64), -1) < 0)


def repeated_first_chunks(material: Material) -> Iterator[Seen]:
    """Count windows that are padded with the first chunk of their article."""
    for side in material.sides:
        found = or_none(coherence, material, side.name)
        if side.file is None or found is None:
            continue
        padded = padded_by_content(material, found)
        if padded.mean() <= PADDED_WARN:
            continue
        rows, of = found.rows[padded], len(padded)
        yield Seen(
            severity=Severity.WARN,
            seen=f"{len(rows)} of {of} {side.name} windows repeat the first chunk of their article "
            f"in front ({len(rows) / of:.1%})",
            allowed=f"at most {PADDED_WARN:.0%}",
            where=side.where(count=len(rows), of=of, rows=rows),
            meaning="These windows are padded: too few chunks precede their target, so one "
            "chunk fills the remaining context places.",
            next=f"leave out the windows of the first {side.context_length} chunks of an "
            "article if the model should not learn from repetitions",
            values={"share": len(rows) / of, "windows": float(len(rows))},
        )


def padding_rows(
    group: Int[np.ndarray, " N"], keys: Int[np.ndarray, "N 2"]
) -> Bool[np.ndarray, " N"]:
    """Say which rows of a bank repeat the first chunk of their article right behind it.

    `group` is the first equal row of every row.
    """
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    article, content = keys[order, 0], group[order]
    same = np.concatenate([[False], (np.diff(article) == 0) & (np.diff(content) == 0)])
    first = np.concatenate([[True], np.diff(article) != 0])
    start = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    broken = np.cumsum(~same)  # rises where a row is not the one before it
    padding = np.zeros(len(order), dtype=bool)
    padding[order] = same & (broken == broken[start])
    return padding


def without_padding(article: Article) -> Article:
    """Return an article from the last repetition of its first chunk on."""
    same = (article.vectors[1:] == article.vectors[:-1]).all(axis=1)
    count = int(np.logical_and.accumulate(same).sum())
    return dataclasses.replace(
        article,
        rows=article.rows[count:],
        vectors=article.vectors[count:],
        length=article.length - count,
    )


def what_copies_mean(copies: Bool[np.ndarray, " N"], padding: Bool[np.ndarray, " N"]) -> str:
    """Return what the copies in a bank mean, or what most of them are."""
    meaning = (
        "A repeated target cannot be told from its copies, which bounds every retrieval "
        "number, and copies are negatives of each other."
    )
    if 2 * int(padding.sum()) <= int(copies.sum()):
        return meaning
    return f"Articles are padded with their first chunk ({int(padding.sum())} rows). {meaning}"


def is_padding(material: Material, side: Side, rows: Int[np.ndarray, " n"]) -> bool:
    """Say whether the windows with zero contexts are the first ones of articles, padded in front.

    An encoder that failed leaves zeros anywhere, and the same chunk is zero in every window that
    holds it.
    """
    if len(rows) == 0:
        return False
    rows = rows[np.linspace(0, len(rows) - 1, min(LOOKED_AT, len(rows))).astype(int)]
    zero = np.linalg.norm(side.contexts(rows), axis=2) <= ZERO_LENGTH
    count = zero.sum(axis=1)
    front = (zero == (np.arange(side.context_length) < count[:, None])).all(axis=1)
    if side.keys is not None and material.bank is not None:
        before = side.context_length - count  # chunks of the article before the target
        for left in np.unique(before):
            mine = np.flatnonzero(before == left)
            keys = side.keys[rows[mine]].astype(np.int64)
            front[mine] &= material.by_key.step(keys, -int(left) - 1) < 0
    return float(front.mean()) >= PADDED_SHARE
