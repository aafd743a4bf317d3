"""Are there as many rows as the files say that they were made from?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

import numpy as np

from lvm.audit.check import check
from lvm.audit.coherence import coherence
from lvm.audit.finding import NotEvaluable, Seen, Severity
from lvm.audit.material import Material, most_frequent, or_none, where_found

DROPPED_SHARE = 0.01
# Words of the names under which a provenance states how many rows there were to begin with.
COUNT_WORDS = frozenset(
    [
        "num",
        "n",
        "total",
        "original",
        "declared",
        "expected",
        "input",
        "source",
        "raw",
        "before",
        "count",
        "counts",
        "rows",
    ]
)
UNITS = {"bank": {"vectors", "chunks", "entries"}}
WINDOW_UNITS = {"windows", "sequences", "samples", "pairs"}


@check("ROWS_DROPPED", "does the file hold as many rows as it was made from?")
def rows_dropped(material: Material) -> Iterator[Seen]:
    """Compare the counts that a provenance declares with the rows that are there."""
    yield from windows_across_gaps(material)
    stated = {
        side.name: (side.source, side.provenance, len(side))
        for side in material.sides
        if side.file is not None
    }
    if material.bank is not None:
        rows = len(material.bank.pool_rows)
        stated["bank"] = (material.bank.source, material.bank.manifest, rows)
    declared = {
        name: (source, max(counts.values()), max(counts, key=counts.__getitem__), rows)
        for name, (source, provenance, rows) in stated.items()
        if (counts := declared_counts(provenance, UNITS.get(name, WINDOW_UNITS)))
    }
    if not declared:
        raise NotEvaluable(
            "no provenance states the number of rows", "write num_windows into the provenance"
        )
    for name, (source, count, key, rows) in declared.items():
        share = 1 - rows / count
        if share > DROPPED_SHARE:
            yield Seen(
                seen=f"{rows} rows of the {count} stated in provenance.{key}: {share:.1%} missing",
                allowed=f"at most {DROPPED_SHARE:.0%}",
                where=where_found(name, source, count=count - rows, of=count),
                meaning="Rows that could not be matched were dropped. The rest is no longer "
                "the text that was to be evaluated, and a coverage of 100 % says "
                "nothing.",
                next=f"find out why rows were dropped when {source} was made, then make it again",
                values={"share": share, "declared": float(count), "rows": float(rows)},
            )


def declared_counts(provenance: Mapping[str, object], units: Set[str]) -> dict[str, int]:
    """Return what a provenance says of its number of rows, by (dotted) name."""
    found: dict[str, int] = {}
    for key, value in provenance.items():
        if isinstance(value, Mapping) and key not in ("split", "titles", "report_files", "norm"):
            found |= {f"{key}.{n}": c for n, c in declared_counts(value, units).items()}
        elif isinstance(value, int) and not isinstance(value, bool) and value > 0:
            words = set(key.lower().split("_"))
            if words <= COUNT_WORDS | units:
                found[key] = value
    return found


def windows_across_gaps(material: Material) -> Iterator[Seen]:
    """Count windows whose chunks follow each other in the bank, with numbers missing between them.

    Chunks that were filtered out before the windows were cut leave such gaps, and no error: the
    windows are runs of what there is. They are a little harder than others, so it is worth knowing.
    """
    for side in material.sides:
        found = or_none(coherence, material, side.name)
        if side.file is None or found is None or found.located is None:
            continue
        located, length = found.located, side.context_length
        one = (located.keys[..., 0] == located.keys[:, :1, 0]).all(axis=1)
        run = located.found.all(axis=1) & one & (np.diff(located.ranks, axis=1) == 1).all(axis=1)
        steps = np.diff(located.keys[..., 1].astype(np.int64), axis=1)
        across = run & (steps != located.unit).any(axis=1)
        if not across.any():
            continue
        rows, of = found.rows[across], int(run.sum())
        articles = most_frequent(located.keys[across, 0, 0])
        yield Seen(
            severity=Severity.INFO,
            seen=f"{len(rows)} of {of} {side.name} windows span a gap in the chunk numbers "
            f"({len(rows) / of:.1%}, {len(articles)} articles)",
            allowed="any number, since every key leads to its vector",
            where=side.where(count=len(rows), of=of, rows=rows, articles=articles),
            meaning=f"Chunks were left out before the windows were cut, so these {length} "
            "contexts and their target are not adjacent in the text.",
            next="restore the missing chunks if these windows should be like the others",
            values={"share": len(rows) / of, "windows": float(len(rows))},
        )
