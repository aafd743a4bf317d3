"""Is every vector finite, and of length 1?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lvm.audit.check import About, check
from lvm.audit.finding import REPAIR, Seen, Severity
from lvm.audit.gaps import is_padding
from lvm.audit.material import Material
from lvm.audit.scan import Scan, scans
from lvm.audit.where import where_found

NORM_TOLERANCE = 0.01  # of the mean from 1, and of the spread beside the mean


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
        off = abs(scan.mean_norm - 1) > NORM_TOLERANCE
        if off or scan.norm_spread > NORM_TOLERANCE:
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
