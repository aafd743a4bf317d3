"""Is the order of the stored chunks the order of the text, as the text itself says?

This looks within the bank (or a side that lies in no bank), so damage that train and eval share is
seen as well. Each article is read in the order of its keys.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lvm.audit.articles import Article, Part, counted_by_side, draw, parts, shared
from lvm.audit.coherence import Level, level
from lvm.audit.finding import Seen, Severity
from lvm.audit.material import Material, where_found
from lvm.audit.order_in_bank import without_padding
from lvm.audit.other_orders import MIN_ARTICLES, Reading, best_reading

LEAST, CHUNKS, ROWS = 8, 256, 4096  # chunks of an article, chunks taken of it, rows in all
BLOCK_SHARE = 0.1  # of articles whose chunks are in another order
SIZES = (*range(3, 33), 40, 48, 50, 64)  # a batch of two is what question and answer look like
CLEAR = 6.0  # standard errors of a break
BREAK = 0.1  # of what neighbours share beyond chance
FLAT = 0.3  # of the break: text with less order within batches has none
FIELD = 0.25  # of the break: chunks b apart with more in common are fields of a record
UNRELATED = 0.25  # of the lift of neighbours: across an edge begins another text
IN_TURN = 3.0  # standard errors
MIN_TEXTS = 5


def stored_order(material: Material) -> Iterator[Seen]:
    """Report articles that read better in another order, or break at every b-th chunk."""
    for part in parts(material):
        drawn = draw(material, part, least=LEAST, chunks=CHUNKS, spread=False, rows=ROWS)
        articles = [a for a in map(without_padding, drawn) if len(a.rows) >= LEAST]
        if len(articles) < MIN_ARTICLES:
            continue
        reading = best_reading(articles)
        if reading is not None:
            yield _of_reading(material, part, reading)
        elif (found := find_break(articles)) is not None:
            yield _of_break(material, part, articles, found)


def _of_reading(material: Material, part: Part, reading: Reading) -> Seen:
    ids, judged = np.sort(reading.ids[reading.hit]).tolist(), reading.ids.tolist()
    counts = counted_by_side(material, judged, ids)
    share = len(ids) / len(judged)
    return _finding(
        part,
        counts,
        ids,
        len(judged),
        Severity.BLOCK if share >= BLOCK_SHARE else Severity.WARN,
        seen=f"{reading.mistake.name}: in {len(ids)} of {len(judged)} sampled articles of the "
        f"{part.name}{shared(counts)}, undoing this makes neighbours more similar, by "
        f"{reading.gain:.3f} (standard error {reading.error:.3f})",
        meaning=reading.mistake.meaning,
        values={"gain": reading.gain, "error": reading.error, "share": share},
    )


def _of_break(material: Material, part: Part, articles: list[Article], found: Break) -> Seen:
    ids = [article.id for article in articles]
    counts = counted_by_side(material, ids, ids)
    start = "the file" if found.of_file else "each article"
    where = f"batches of {found.size}, counted from the beginning of {start}"
    sure = found.in_turn if found.shuffled else found.of_file and found.unrelated
    meaning = (
        "Chunks were shuffled within batches, so the next one cannot be predicted inside a batch."
        if found.shuffled
        else "Batches of chunks are out of text order, so the text breaks off at their ends."
    )
    return _finding(
        part,
        counts,
        sorted(ids),
        len(ids),
        Severity.BLOCK if sure else Severity.WARN,
        seen=f"{'shuffled within' if found.shuffled else 'reordered'} {where}: neighbours "
        f"within a batch are more similar than across its end, by {found.drop.value:.3f} "
        f"(standard error {found.drop.error:.3f}){shared(counts)}",
        meaning=meaning + ("" if sure else " Sections of equal length would look the same."),
        values={"drop": found.drop.value, "z": found.drop.z, "batch": float(found.size)},
    )


def _finding(
    part: Part,
    counts: dict[str, tuple[int, int]],
    ids: list[int],
    judged: int,
    severity: Severity,
    *,
    seen: str,
    meaning: str,
    values: dict[str, float],
) -> Seen:
    damaged = [name for name, (odd, _) in counts.items() if odd]
    if part.name == "bank" and len(damaged) > 1:
        meaning += " Train and eval windows share the fault."
    return Seen(
        severity=severity,
        seen=seen,
        allowed="text that continues from chunk to chunk in key order",
        where=where_found(part.name, part.source, count=len(ids), of=judged, articles=ids),
        meaning=meaning,
        next=f"sort the chunks of every article of {part.source} by position in the text (as "
        "numbers), then cut the windows again (lvm embed keeps the order)",
        values=values,
    )


# --- batches --------------------------------------------------------------------------------------
#
# Two kinds leave a trace, whatever the other files hold. Chunks shuffled within batches of b:
# within a batch all are equally alike, across its edge they are less so. Batches in another order:
# within one the text runs on, across an edge it does not, and two neighbouring batches are no more
# alike than two far ones. Records of b fields break at edges too, but chunks b apart are then
# alike, being the same field. Batches may be counted from the beginning of an article or of the
# file.


@dataclass(frozen=True, kw_only=True)
class Break:
    """A break of the text at every `size`-th chunk."""

    size: int
    of_file: bool  # batches are counted from the beginning of the file
    drop: Level  # cosine of neighbours within a batch minus that across its edge
    shuffled: bool  # within batches; else batches as wholes
    in_turn: bool  # neighbouring batches are clearly more alike than far ones
    unrelated: bool  # nothing in common across an edge


@dataclass(frozen=True, kw_only=True, eq=False)
class _Text:
    gram: Float[np.ndarray, "n n"]
    slot: Int[np.ndarray, " n"]  # place of each chunk in the article or the file


def find_break(articles: list[Article]) -> Break | None:
    """Return the clearest break at equal distances that text does not explain, or None."""
    grams = [article.vectors @ article.vectors.T for article in articles]
    near = _near(articles, grams)
    for of_file in (False, True):
        texts = list(_texts(articles, grams, of_file))
        if len(texts) < MIN_TEXTS:
            continue
        near_by = _Neighbours.of(texts)
        drops = [(drop, size) for size in SIZES if (drop := near_by.drop(size)) is not None]
        clear = [one for one in drops if one[0].z >= CLEAR and one[0].value > BREAK * near]
        # A batch of 5 breaks at every tenth chunk as well, but less clearly so.
        for drop, size in sorted(clear, key=lambda one: -one[0].z):
            if _has_fields(texts, size, drop):
                return None
            found = _explained(articles, texts, size, of_file, drop)
            if found is not None:
                return found
    return None


def _near(articles: list[Article], grams: list[np.ndarray]) -> float:
    """Return what neighbours share beyond chunks of two articles."""
    return float(np.mean([np.diagonal(gram, 1).mean() for gram in grams])) - _chance(articles)


def _texts(articles: list[Article], grams: list[np.ndarray], of_file: bool) -> Iterator[_Text]:
    for article, gram in zip(articles, grams, strict=True):
        if not of_file:
            yield _Text(gram=gram, slot=np.arange(len(gram)))
        elif (np.diff(article.rows) == 1).all():
            yield _Text(gram=gram, slot=article.rows)


def _level(values: Sequence[float] | Float[np.ndarray, " k"]) -> Level | None:
    good = np.asarray(values)[np.isfinite(values)]
    return level(good, np.arange(len(good))) if len(good) >= MIN_TEXTS else None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Neighbours:
    """All neighbours of all texts, in one array."""

    cosine: Float[np.ndarray, " k"]
    slot: Int[np.ndarray, " k"]  # of the first of the two
    text: Int[np.ndarray, " k"]

    @classmethod
    def of(cls, texts: list[_Text]) -> _Neighbours:
        return cls(
            cosine=np.concatenate([np.diagonal(text.gram, 1) for text in texts]),
            slot=np.concatenate([text.slot[:-1] for text in texts]),
            text=np.repeat(np.arange(len(texts)), [len(text.slot) - 1 for text in texts]),
        )

    def drop(self, size: int) -> Level | None:
        """Return how much less alike neighbours across an edge are, over texts that have some."""
        edge = (self.slot + 1) % size == 0
        means = []
        for kind in (~edge, edge):
            count = np.bincount(self.text, kind)
            total = np.bincount(self.text, np.where(kind, self.cosine, 0.0))
            means.append(total / np.where(count > 0, count, np.nan))
        return _level(means[0] - means[1])


def _explained(
    articles: list[Article], texts: list[_Text], size: int, of_file: bool, drop: Level
) -> Break | None:
    """Return the break unless the text runs on across it, batch by batch."""
    inside = _level([_inside(text, size) for text in texts])
    further = _level([_further(text, size) for text in texts])
    if inside is None:
        return None
    shuffled = inside.value < FLAT * drop.value
    if not shuffled and (further is None or further.below(0) > FIELD * drop.value):
        return None  # neighbouring batches are neighbours: sections of the text
    edges = [_edges(text, size) for text in texts]
    lift = float(np.nanmean(edges)) - _chance(articles)
    neighbours = lift + drop.value
    return Break(
        size=size,
        of_file=of_file,
        drop=drop,
        shuffled=shuffled,
        in_turn=further is not None and further.z >= IN_TURN,
        unrelated=lift < UNRELATED * neighbours,
    )


def _has_fields(texts: list[_Text], size: int, drop: Level) -> bool:
    """Say whether the text consists of records of `size` fields."""
    fields = _level([_fields(text, size) for text in texts])
    return fields is not None and fields.value > FIELD * drop.value


def _inside(text: _Text, size: int) -> float:
    """Return how much more alike neighbours within a batch are than others within it."""
    batch = text.slot // size
    same = np.equal.outer(batch, batch)
    distance = np.subtract.outer(text.slot, text.slot)
    near, far = text.gram[same & (distance == 1)], text.gram[same & (distance > 1)]
    return float(near.mean() - far.mean()) if len(near) and len(far) else np.nan


def _fields(text: _Text, size: int) -> float:
    """Return how much more alike chunks b apart are than others in neighbouring batches."""
    batch = text.slot // size
    next_one = np.subtract.outer(batch, batch) == 1
    distance = np.subtract.outer(text.slot, text.slot)
    same = text.gram[next_one & (distance == size)]
    other = text.gram[next_one & (np.abs(distance - size) == 1)]
    return float(same.mean() - other.mean()) if len(same) and len(other) else np.nan


def _further(text: _Text, size: int) -> float:
    """Return how much more alike neighbouring batches are than those three or more apart."""
    batch = text.slot // size
    apart = np.subtract.outer(batch, batch)
    near, far = text.gram[apart == 1], text.gram[apart >= 3]
    return float(near.mean() - far.mean()) if len(near) and len(far) else np.nan


def _edges(text: _Text, size: int) -> float:
    edge = (text.slot[:-1] + 1) % size == 0
    return float(np.diagonal(text.gram, 1)[edge].mean()) if edge.any() else np.nan


def _chance(articles: list[Article]) -> float:
    """Return the mean cosine of chunks of two articles."""
    means = [article.vectors.mean(axis=0) for article in articles]
    return float(np.mean([a @ b for a, b in itertools.pairwise(means)]))
