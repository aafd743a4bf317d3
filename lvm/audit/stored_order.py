"""Is the order of the stored chunks the order of the text, as the text itself says?

This looks within the bank (or a side that lies in no bank), so damage that train and eval share is
seen as well. Each article is read in the order of its keys.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lvm.audit.articles import Article, Part, counted_by_side, draw, parts, shared
from lvm.audit.batches import Break, find_break
from lvm.audit.finding import Seen, Severity
from lvm.audit.material import Material
from lvm.audit.other_orders import MIN_ARTICLES, Reading, best_reading
from lvm.audit.padding import without_padding
from lvm.audit.where import where_found

LEAST, CHUNKS, ROWS = 8, 256, 4096  # chunks of an article, chunks taken of it, rows in all
BLOCK_SHARE = 0.1  # of articles whose chunks are in another order


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
