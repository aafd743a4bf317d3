"""Is every vector finite, and of length 1? One pass over the rows of every stored array says it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lvm.audit.check import About, check
from lvm.audit.coherence import sample_rows
from lvm.audit.finding import REPAIR, NotEvaluable, Seen, Severity
from lvm.audit.material import NUM_NAMED, Material, Side, once, where_found
from lvm.audit.order_in_bank import is_padding
from lvm.data.rows import blocks, take

NORM_TOLERANCE = 0.01  # of the mean from 1, and of the spread relative to the mean
ZERO_LENGTH = 1e-6


@check("NONFINITE", "is every number finite?", About(blocks=True, cause=20))
def nonfinite(material: Material) -> Iterator[Seen]:
    """Report rows with NaN or infinite numbers, or with a length that float32 cannot square."""
    for scan in scans(material):
        if len(scan.nonfinite):
            yield _bad_rows(
                scan,
                scan.nonfinite,
                "not finite (NaN, infinite, or too long to be squared in float32)",
                "One such row turns every loss and mean that includes it into NaN.",
            )


@check("ZERO_ROWS", "did the encoder fail silently?", About(blocks=True, cause=30))
def zero_rows(material: Material) -> Iterator[Seen]:
    """Report zero vectors."""
    for scan in scans(material):
        if scan.part == "contexts" and is_padding(material, material.side(scan.input), scan.zero):
            yield _padded(scan)
        elif len(scan.zero):
            yield _bad_rows(
                scan,
                scan.zero,
                "zero",
                "A failing encoder often writes zeros. A zero vector has no direction, so a "
                "search cannot find it.",
            )


def _padded(scan: Scan) -> Seen:
    return Seen(
        severity=Severity.WARN,
        seen=f"{len(scan.zero)} of {scan.num_rows} windows have zero vectors before the first "
        "chunk of their article",
        allowed="0",
        where=_where(scan, scan.zero, len(scan.zero)),
        meaning="These windows are padded: too few chunks precede their target. A zero vector "
        "has no direction, so their scores mean something else.",
        next=REPAIR,
        values={"count": float(len(scan.zero)), "share": len(scan.zero) / scan.num_rows},
    )


def _bad_rows(scan: Scan, rows: np.ndarray, what: str, meaning: str) -> Seen:
    return Seen(
        seen=f"{len(rows)} of {scan.num_rows} rows of {scan.part} are {what}",
        allowed="0",
        where=_where(scan, rows, len(rows)),
        meaning=meaning,
        next=f"embed these chunks again, or remove their rows from {scan.source}",
        values={"count": float(len(rows)), "share": len(rows) / scan.num_rows},
    )


@check("UNNORMALISED", "does every vector have length 1?")
def unnormalised(material: Material) -> Iterator[Seen]:
    """Report arrays whose norms are off 1 or spread."""
    for scan in scans(material):
        if scan.is_off:
            yield Seen(
                seen=f"norms of {scan.part}: mean {scan.mean_norm:.3f}, spread "
                f"{scan.norm_spread:.1%} of it",
                allowed=f"mean 1 within {NORM_TOLERANCE}, spread at most {NORM_TOLERANCE:.0%}",
                where=_where(scan, scan.odd_rows, scan.num_rows),
                meaning="Inner-product search prefers long vectors, and the loss temperature "
                "means something different for each length.",
                next=REPAIR,
                values={"mean_norm": scan.mean_norm, "norm_spread": scan.norm_spread},
            )


def _where(scan: Scan, rows: np.ndarray, count: int) -> dict[str, object]:
    return where_found(scan.input, scan.source, count=count, of=scan.num_rows, rows=rows) | {
        "part": scan.part
    }


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

    @property
    def is_off(self) -> bool:
        """Whether the lengths are off 1, or spread."""
        return abs(self.mean_norm - 1) > NORM_TOLERANCE or self.norm_spread > NORM_TOLERANCE


@once
def scans(material: Material) -> list[Scan]:
    """Return a pass over every stored array; of a sample of the train side if quick."""
    made = [scan for side in material.sides for scan in _scan_side(material, side)]
    if (bank := material.bank) is not None:
        made.append(_scan("bank", bank.source, "vectors", bank.vectors, None))
    if not made:
        raise NotEvaluable("no vectors were given", "give --data, or --train, --eval, --payload")
    return made


def spoilt_rows(material: Material, name: str) -> Int[np.ndarray, " n"]:
    """Return the rows of an input that are not finite or zero, in rising order."""
    found = [scan for scan in scans(material) if scan.input == name]
    return np.unique(np.concatenate([rows for s in found for rows in (s.nonfinite, s.zero)]))


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
