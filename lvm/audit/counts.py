"""Are there as many rows as the files say that they were made from?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

from lvm.audit.check import check
from lvm.audit.finding import NotEvaluable, Seen
from lvm.audit.gaps import windows_across_gaps
from lvm.audit.material import Material
from lvm.audit.where import where_found

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
