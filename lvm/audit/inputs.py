"""Checks of the files as such: arrays, numbers, lengths, counts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lvm.audit.check import About, check
from lvm.audit.coherence import sample_rows
from lvm.audit.finding import NUM_NAMED, REPAIR, Finding, NotEvaluable, Severity, where_found
from lvm.audit.gaps import is_padding, windows_across_gaps
from lvm.audit.material import Material, Side, once
from lvm.data.bank import Bank
from lvm.data.integrity import changed_files
from lvm.data.rows import blocks, take

NORM_TOLERANCE = 0.01  # of the mean from 1, and of the spread beside the mean
ZERO_LENGTH = 1e-6
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


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What one pass over the rows of one array found."""

    input: str  # "train", "eval" or "bank"
    source: str
    part: str  # "contexts", "targets" or "vectors"
    num_rows: int
    nonfinite: Int[np.ndarray, " n"]  # rows
    zero: Int[np.ndarray, " n"]
    mean_norm: float
    norm_spread: float  # standard deviation over mean
    odd_rows: Int[np.ndarray, " n"]  # rows whose norm is farthest from the mean
    sampled: bool


@check(
    "SCHEMA", "are all arrays there, with the right names and shapes?", About(blocks=True, cause=10)
)
def schema(material: Material) -> Iterator[Finding]:
    """Report what was found while opening, and parts that do not fit each other."""
    yield from (f for f in material.problems if f.code == "SCHEMA")
    if not material.sides and material.bank is None and not material.problems:
        raise NotEvaluable("no data was given", "give --data, or --train, --eval and --payload")
    widths = {side.name: side.width for side in material.sides}
    if material.bank is not None:
        widths["bank"] = material.bank.width
    if len(set(widths.values())) > 1:
        yield _schema(
            _odd_one(material),
            "widths " + ", ".join(f"{name} {width}" for name, width in widths.items()),
            "one width in all files",
            "Vectors of two widths cannot be compared, so they come from two encoders.",
            "embed all files with one model (lvm embed --model NAME)",
        )
    lengths = {side.name: side.context_length for side in material.sides}
    if len(set(lengths.values())) > 1:
        yield _schema(
            material.side("eval"),
            "contexts of " + ", ".join(f"{n} vectors in {name}" for name, n in lengths.items()),
            "one context length",
            "The model is trained on windows of another length than it is judged on.",
            "cut both files with one context length",
        )
    yield from _missing_keys(material)
    yield from _changed_files(material)


def _changed_files(material: Material) -> Iterator[Finding]:
    """Compare the files of a bank folder with the hashes and the count of its manifest."""
    bank = material.bank
    if bank is None or not Path(bank.source).is_dir():
        return
    for name, seen, stated in changed_files(Path(bank.source), bank.manifest):
        yield _of_bank(
            bank,
            f"{name} has sha256 {seen[:12]}, the manifest states {stated[:12]}",
            "the files that the manifest was written for",
        )
    count = bank.manifest.get("count", len(bank))
    if count < len(bank):  # more than there are is ROWS_DROPPED's to say
        yield _of_bank(
            bank, f"{len(bank)} rows, the manifest states {count:.0f}", "as many rows as it states"
        )


def _of_bank(bank: Bank, seen: str, allowed: str) -> Finding:
    return Finding(
        code="SCHEMA",
        severity=Severity.BLOCK,
        seen=seen,
        allowed=allowed,
        where=where_found("bank", bank.source),
        meaning="The vectors, the keys or the manifest were changed or damaged after the bank was "
        "written, so what the manifest says may be of other rows.",
        next="copy the bank again, or write it anew with lvm embed",
    )


def _odd_one(material: Material) -> Side:
    """Return the side whose width differs from the bank's, else the eval side."""
    width = material.bank.width if material.bank is not None else None
    odd = [side for side in material.sides if width is not None and side.width != width]
    return [*odd, *material.sides][0]


def _missing_keys(material: Material) -> Iterator[Finding]:
    side = material.eval
    if side is None or side.keys is not None:
        return
    yield Finding(
        code="SCHEMA",
        severity=Severity.BLOCK,
        seen=f"{side.source} has no truth_keys",
        allowed="truth_keys [M, 2], the (article, chunk) of every target",
        where=where_found("eval", side.source, count=len(side), of=len(side)),
        meaning="Without keys nobody can tell which row of the bank is the right answer, nor which "
        "windows belong together.",
        next=REPAIR,
    )


def _schema(side: Side, seen: str, allowed: str, meaning: str, next: str) -> Finding:
    return Finding(
        code="SCHEMA",
        severity=Severity.BLOCK,
        seen=seen,
        allowed=allowed,
        where=where_found(side.name, side.source),
        meaning=meaning,
        next=next,
    )


# --- values ---------------------------------------------------------------------------------------


@check("NONFINITE", "is every number finite?", About(blocks=True, cause=20))
def nonfinite(material: Material) -> Iterator[Finding]:
    """Report rows with NaN or infinite numbers, or with a length that float32 cannot square."""
    for scan in scans(material):
        if len(scan.nonfinite):
            yield _bad_rows(
                "NONFINITE",
                scan,
                scan.nonfinite,
                "not finite (NaN, infinite, or too long to be squared in float32)",
                "One such row turns every loss and every mean that it touches into NaN.",
            )


@check("ZERO_ROWS", "did the encoder fail silently?", About(blocks=True, cause=30))
def zero_rows(material: Material) -> Iterator[Finding]:
    """Report zero vectors."""
    for scan in scans(material):
        if scan.part == "contexts" and is_padding(material, material.side(scan.input), scan.zero):
            yield _padded(scan)
        elif len(scan.zero):
            yield _bad_rows(
                "ZERO_ROWS",
                scan,
                scan.zero,
                "zero",
                "An encoder that fails often writes zeros; they have no direction to be found by.",
            )


def _padded(scan: Scan) -> Finding:
    return Finding(
        code="ZERO_ROWS",
        severity=Severity.WARN,
        seen=f"{len(scan.zero)} of {scan.num_rows} windows have zero vectors before the first "
        "chunk of their article",
        allowed="0",
        where=_where(scan, scan.zero, len(scan.zero)),
        meaning="These windows are padding: fewer chunks come before their target than a context "
        "has places. A zero vector has no direction, so their scores mean something else.",
        next=REPAIR,
        values={"count": float(len(scan.zero)), "share": len(scan.zero) / scan.num_rows},
    )


def _bad_rows(code: str, scan: Scan, rows: np.ndarray, what: str, meaning: str) -> Finding:
    return Finding(
        code=code,
        severity=Severity.BLOCK,
        seen=f"{len(rows)} of {scan.num_rows} rows of {scan.part} are {what}",
        allowed="0",
        where=_where(scan, rows, len(rows)),
        meaning=meaning,
        next=f"embed these chunks again, or remove their rows from {scan.source}",
        values={"count": float(len(rows)), "share": len(rows) / scan.num_rows},
    )


@check("UNNORMALISED", "does every vector have length 1?")
def unnormalised(material: Material) -> Iterator[Finding]:
    """Report arrays whose norms are off 1 or spread."""
    for scan in scans(material):
        off = abs(scan.mean_norm - 1) > NORM_TOLERANCE
        if off or scan.norm_spread > NORM_TOLERANCE:
            yield Finding(
                code="UNNORMALISED",
                severity=Severity.WARN,
                seen=f"norms of {scan.part}: mean {scan.mean_norm:.3f}, spread "
                f"{scan.norm_spread:.1%} of it",
                allowed=f"mean 1 within {NORM_TOLERANCE}, spread at most {NORM_TOLERANCE:.0%}",
                where=_where(scan, scan.odd_rows, scan.num_rows),
                meaning="Search by inner product prefers long vectors, and the temperature of the "
                "loss means something else for each of them.",
                next=REPAIR,
                values={"mean_norm": scan.mean_norm, "norm_spread": scan.norm_spread},
            )


def _where(scan: Scan, rows: np.ndarray, count: int) -> dict[str, object]:
    return where_found(scan.input, scan.source, count=count, of=scan.num_rows, rows=rows) | {
        "part": scan.part
    }


@once
def scans(material: Material) -> list[Scan]:
    """Return a pass over every stored array; of a sample of the train side if quick."""
    made = [scan for side in material.sides for scan in _scan_side(material, side)]
    if (bank := material.bank) is not None:
        made.append(_scan("bank", bank.source, "vectors", bank.vectors, None))
    if not made:
        raise NotEvaluable("no vectors were given", "give --data, or --train, --eval, --payload")
    return made


def _scan_side(material: Material, side: Side) -> Iterator[Scan]:
    if side.file is None:  # its vectors are rows of the bank, which is scanned once
        return
    file, rows = side.file, None
    if material.quick and side.name == "train":
        rows = sample_rows(material, side)
    yield _scan(side.name, side.source, "targets", file.targets, rows)
    yield _scan(side.name, side.source, "contexts", file.contexts, rows)


def _scan(input: str, source: str, part: str, array: np.ndarray, chosen: np.ndarray | None) -> Scan:
    """Scan the rows of [N, ..., D]; a row with several vectors is as bad as its worst."""
    data = array if chosen is None else take(array, chosen)
    longest, shortest = np.empty(len(data)), np.empty(len(data))
    total = squares = count = 0.0
    for start, block in blocks(data):
        norms = _norms(block)
        longest[start : start + len(block)] = norms.max(axis=1)
        shortest[start : start + len(block)] = norms.min(axis=1)
        finite = norms[np.isfinite(norms) & (norms > ZERO_LENGTH)].astype(np.float64)  # summed up
        total, squares = total + finite.sum(), squares + (finite**2).sum()
        count += len(finite)
    bad = ~np.isfinite(longest)
    zero = np.flatnonzero(~bad & (shortest <= ZERO_LENGTH))
    count = max(1.0, count)
    mean = total / count
    spread = math.sqrt(max(0.0, squares / count - mean**2)) / mean if mean > 0 else 0.0
    off = np.where(bad, 0, np.maximum(np.abs(longest - mean), np.abs(shortest - mean)))
    original = np.arange(len(data)) if chosen is None else chosen
    return Scan(
        input=input,
        source=source,
        part=part,
        num_rows=len(data),
        nonfinite=original[np.flatnonzero(bad)],
        zero=original[zero],
        mean_norm=float(mean),
        norm_spread=spread,
        odd_rows=original[np.argsort(-off, kind="stable")[:NUM_NAMED]],
        sampled=chosen is not None,
    )


def _norms(block: np.ndarray) -> Float[np.ndarray, "n k"]:
    """Return the lengths of all vectors of [n, ..., D].

    Not finite where a number is not, or where the sum of squares overflows float32: losses,
    cosines and searches all take that sum, whatever the numbers themselves are.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        flat = np.asarray(block, dtype=np.float32).reshape(-1, block.shape[-1])
        squares = np.einsum("nd,nd->n", flat, flat)
        return np.asarray(np.sqrt(squares).reshape(len(block), -1))


# --- counts ---------------------------------------------------------------------------------------


@check("ROWS_DROPPED", "are there as many rows as the file says it was made from?")
def rows_dropped(material: Material) -> Iterator[Finding]:
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
            "no provenance states a number of rows", "write num_windows into the provenance"
        )
    for name, (source, count, key, rows) in declared.items():
        share = 1 - rows / count
        if share > DROPPED_SHARE:
            yield Finding(
                code="ROWS_DROPPED",
                severity=Severity.WARN,
                seen=f"{rows} rows of the {count} that provenance.{key} declares: {share:.1%} gone",
                allowed=f"at most {DROPPED_SHARE:.0%}",
                where=where_found(name, source, count=count - rows, of=count),
                meaning="Rows that could not be matched were dropped; what is left is no longer "
                "the text that was to be judged, and a coverage of 100 % says nothing.",
                next=f"find out why rows were dropped when {source} was made, and make it again",
                values={"share": share, "declared": float(count), "rows": float(rows)},
            )


def declared_counts(provenance: Mapping[str, Any], units: Set[str]) -> dict[str, int]:
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
