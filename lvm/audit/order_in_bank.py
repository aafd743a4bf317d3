"""Which windows the bank contradicts, across articles or in another order, and which are padded.

Padding is the first chunk of an article once more, where a context has more places than chunks
before it. Windows are padded so in front, and so are articles of a bank. It is no disorder, and the
keys of such windows are right.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

from lvm.audit.articles import Article
from lvm.audit.coherence import Coherence, Level, coherence, level
from lvm.audit.finding import Seen, Severity
from lvm.audit.location import Located, unit
from lvm.audit.material import Material, Side, or_none
from lvm.data.rows import take

CLEAR = 5.0  # standard errors from which a difference is beyond doubt
BACKWARDS = "Contexts are newest first, so the model reads the text backwards."
CROSSING_BLOCK = 0.01  # share of windows across articles
DISORDER_BLOCK = 0.1  # share of windows whose contexts are out of order
BANK_ROWS, FAR = 4096, 5  # rows of the bank that are followed by their keys, and how far
PADDED_WARN = 0.01  # of windows that repeat the first chunk of their article
PADDED_SHARE = 0.9  # of windows with zero contexts, that have them in front, at an article's start
LOOKED_AT = 2048
ZERO_LENGTH = 1e-6


def profile(side: Coherence) -> str:
    """Say how near each context is to the target."""
    values = side.to_target.mean(axis=0)
    return "cosine with the target from the oldest context on: " + " ".join(
        f"{v:.3f}" for v in values
    )


def crossings(material: Material, side: Coherence) -> Iterator[Seen]:
    """Count windows whose vectors lie in more than one article of the bank."""
    if side.located is None or side.whole.file is None:
        return
    # A target from elsewhere is EVAL_UNPAIRED's to say: contexts alone decide here.
    keys, found = side.located.keys[:, :-1, 0], side.located.found[:, :-1]
    known = found.all(axis=1) & _certain(material, side.located)
    if not known.any():
        return
    crossing = known & (keys != keys[:, :1]).any(axis=1)
    share = float(crossing.sum() / known.sum())
    if share == 0:
        return
    rows = side.rows[crossing]
    yield Seen(
        severity=Severity.BLOCK if share > CROSSING_BLOCK else Severity.WARN,
        seen=f"{int(crossing.sum())} of {int(known.sum())} {side.whole.name} windows span two "
        "articles",
        allowed="0",
        where=side.whole.where(
            count=len(rows),
            of=known.sum(),
            rows=rows,
            articles=np.unique(side.located.keys[crossing, 0, 0]),
        ),
        meaning="These windows ask for the start of one article after the end of another.",
        next="cut the windows article by article",
        values={"share": share},
    )


def _certain(material: Material, located: Located) -> Bool[np.ndarray, " m"]:
    """Which windows have contexts whose places in the bank are certain."""
    return np.asarray(material.held_once(located.places[:, :-1]).all(axis=1))


def out_of_order(material: Material, side: Coherence) -> Iterator[Seen]:
    """Count windows whose contexts, found in the bank, are in another order than there.

    This needs no target and sees a few windows among many. It says nothing where the bank itself,
    in the order of its keys, does not read as text: then its keys may be what is wrong.
    """
    if side.located is None or side.whole.file is None:
        return
    keys = side.located.keys[:, :-1].astype(np.int64)
    known = side.located.found[:, :-1].all(axis=1) & _certain(material, side.located)
    known &= (keys[..., 0] == keys[:, :1, 0]).all(axis=1) & ~padded_by_content(material, side)
    if not known.any():
        return
    steps = np.diff(side.located.ranks[:, :-1], axis=1)
    wrong = known & (steps <= 0).any(axis=1)
    share = float(wrong.sum() / known.sum())
    if share == 0 or bank_direction(material).z < CLEAR:
        return
    backwards = float((steps[wrong] < 0).all(axis=1).mean())
    kind = "reversed" if backwards > 0.9 else "shuffled"
    rows = side.rows[wrong]
    yield Seen(
        severity=Severity.BLOCK if share > DISORDER_BLOCK else Severity.WARN,
        seen=f"{kind}: in {len(rows)} of {int(known.sum())} {side.whole.name} windows the "
        f"contexts are not in the bank's chunk order; {profile(side)}",
        allowed="0, oldest first",
        where=side.whole.where(
            count=len(rows), of=known.sum(), rows=rows, articles=np.unique(side.clusters[wrong])
        ),
        meaning=BACKWARDS
        if kind == "reversed"
        else "Contexts are out of order, so the last one is not the one before the target.",
        next="lvm audit ... --repair OUT cuts these windows again from the bank, in order",
        values={
            "share": share,
            "backwards": backwards,
            "direction": side.direction.value,
            "lift": side.lift.value,
        },
    )


def bank_direction(material: Material) -> Level:
    """Return how much nearer the next chunk is than the fifth one, in the order of bank keys."""
    bank = material.pool
    rows = material.sample(len(bank), BANK_ROWS, "audit", "bank order")
    keys = bank.keys[rows].astype(np.int64)
    places = [material.by_key.step(keys, step) for step in (1, FAR)]
    there = (places[0] >= 0) & (places[1] >= 0)
    here, near, far = (unit(take(bank.vectors, r[there])) for r in (rows, *places))
    values = np.einsum("md,md->m", here, near - far)
    good = np.isfinite(values)
    if not good.any():
        return Level(value=0.0, error=1.0, clusters=0)
    return level(values[good], keys[there][good, 0])


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
