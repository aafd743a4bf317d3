"""Are there as many rows as the files say, is none of them repeated, do neighbours share text?

Text hands on what it is about: chunks two places apart are at least as alike as a chain without
memory would have them, r2 >= r1^2, where r1 and r2 are the cosines at lags 1 and 2 beyond those of
random pairs. Chunks that overlap break this: what they share is shared by neighbours alone, so
likeness falls steeply from lag 1 to 2 and slowly from there. (Text that changes smoothly breaks it
too, but falls evenly.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

import numpy as np
from jaxtyping import Bool, Int

from lvm.audit.check import check
from lvm.audit.coherence import Coherence, Level, coherence
from lvm.audit.finding import REPAIR, NotEvaluable, Seen, Severity
from lvm.audit.material import Material, Side, most_frequent, or_none, where_found
from lvm.data.rows import digests, key_codes, take

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
REPEATED_WARN = 0.01  # share of windows that repeat another one
BLOCK_ROWS = 4096
SAMPLED = 4096  # windows of the train side that a quick audit compares
CLEAR = 4.0  # standard errors
LEAST = 0.03  # of a partial correlation: less is no shared text
STEEP = 2.0  # the fall from lag 1 to 2 relative to that from 2 to 3


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


def repeated(side: Side, rows: Int[np.ndarray, " m"]) -> Bool[np.ndarray, " m"]:
    """Say which of the given windows repeat an earlier one: the same contexts and target."""
    codes = np.empty(len(rows), dtype=np.uint64)
    assert side.file is not None
    for start in range(0, len(rows), BLOCK_ROWS):
        part = rows[start : start + BLOCK_ROWS]
        contexts, targets = take(side.file.contexts, part), take(side.file.targets, part)
        whole = np.concatenate([contexts.reshape(len(part), -1), targets], axis=1)
        codes[start : start + len(part)] = digests(whole, np.dtype(np.float32))
    return repeats(codes)


def repeats(values: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Say which values stand earlier in the array."""
    again = np.ones(len(values), dtype=bool)
    again[np.unique(values, return_index=True)[1]] = False
    return again


def suspects(side: Side) -> Int[np.ndarray, " m"]:
    """Return the windows whose key another one has too, without keys all of them."""
    if side.keys is None:
        return np.arange(len(side))
    _, place, counts = np.unique(key_codes(side.keys), return_inverse=True, return_counts=True)
    return np.flatnonzero(counts[place.ravel()] > 1)


def repeated_windows(material: Material) -> Iterator[Seen]:
    """Report files that repeat windows."""
    for side in material.sides:
        if side.file is None:
            continue
        rows = suspects(side)
        share = len(rows) / len(side)
        if share <= REPEATED_WARN or (side.keys is None and material.quick):
            continue
        if material.quick and side.name == "train" and side.keys is not None:
            rows = whole_keys(side, rows)
        again = repeated(side, rows)
        share *= float(again.mean())
        if share <= REPEATED_WARN:
            continue
        times = 1 / (1 - share)
        yield Seen(
            severity=Severity.WARN,
            seen=f"{share:.1%} of {len(side)} {side.name} windows repeat another one: each "
            f"occurs {times:.1f} times on average",
            allowed=f"at most {REPEATED_WARN:.0%}",
            where=side.where(count=round(share * len(side)), of=len(side), rows=rows[again]),
            meaning="Repeated windows count several times in every mean and epoch, but add no "
            "text.",
            next=REPAIR,
            values={"repeated": share, "times": times},
        )


def whole_keys(side: Side, rows: Int[np.ndarray, " m"]) -> Int[np.ndarray, " n"]:
    """Return about SAMPLED of the rows, all of a key or none."""
    assert side.keys is not None
    codes = key_codes(side.keys[rows])
    some = np.unique(codes)
    some = some[:: max(1, len(rows) // SAMPLED)]
    return rows[np.isin(codes, some)]


def overlapping(material: Material) -> Iterator[Seen]:
    """Report neighbours that share more than the text around them accounts for."""
    name = "train" if material.train is not None else "eval"
    side = or_none(coherence, material, name)
    if side is None or side.contexts.shape[1] < 3:
        return
    memory = partial_memory(side)
    lags = [float(side.lag(k).mean()) for k in (1, 2, 3)]
    steep = lags[0] - lags[1] > STEEP * (lags[1] - lags[2])
    if memory.above(CLEAR) >= -LEAST or not steep:
        return
    yield Seen(
        severity=Severity.WARN,
        seen=f"neighbouring chunks have a cosine of {lags[0]:.3f}, chunks two apart {lags[1]:.3f}: "
        f"a partial correlation of {memory.value:.2f} at lag 2",
        allowed=f"at least -{LEAST}: text on one subject is similar at both",
        where=material.side(name).where(count=len(side.rows), of=len(side.rows)),
        meaning="Each chunk shares text with the next, so part of the target is in the last "
        "context, and a model that copies it looks predictive.",
        next="cut the text into non-overlapping chunks and embed it again",
        values={"partial": memory.value, "lag_1": lags[0], "lag_2": lags[1]},
    )


def partial_memory(side: Coherence) -> Level:
    """Return the correlation at lag 2 that lag 1 does not account for, with its error.

    (r2 - r1^2) / (1 - r1^2), its error to first order over articles.
    """
    first, second, random = side.lag(1), side.lag(2), side.random_pairs
    base = max(0.0, float(random.mean()))
    rest = max(1e-6, 1 - base)
    r1, r2 = (float(lag.mean() - base) / rest for lag in (first, second))
    scale = max(1e-6, 1 - r1**2)
    slopes = (-2 * r1 / rest, 1 / rest, (2 * r1 * (1 - r1) - (1 - r2)) / rest)
    moved = [
        slope * (values - values.mean())
        for slope, values in zip(slopes, (first, second, random), strict=True)
    ]
    around = side.of(np.asarray(sum(moved)) / scale)
    return Level(value=(r2 - r1**2) / scale, error=around.error, clusters=around.clusters)
