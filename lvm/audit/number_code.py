"""Are all vectors written in one code: full numbers, few levels, or cut and padded?

A vector kept as signs, or cut to its first numbers and padded with zeros (as encoders trained for
that allow), still has a fair cosine with what it was, so no statistic of directions stands out. Its
numbers do. A row is coarse when its numbers have few magnitudes, and cut when its zeros stand in
the same places as in other rows. What all files share is no defect: it is their code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from lvm.audit.coherence import sample_rows
from lvm.audit.finding import Seen, Severity
from lvm.audit.material import Material, where_found
from lvm.data.rows import take

ROWS = 1024  # of each part
MIN_ROWS = 20
LEVELS, LEVELS_OF_WIDTH = 16, 0.25  # magnitudes of a coarse row: at most these, of its width
STEPS = 4096  # to which magnitudes are rounded, of the largest
SPARSE = 0.5  # share of zeros from which few magnitudes are those of few words
ZEROS = 0.05  # share of a cut row that is zero
APART = 0.5  # between the shares of two parts: they are written in two codes
MIXED_WARN, MIXED_BLOCK = 0.02, 0.05  # share of rows in another code than the rest of their part
SAID = {
    "coarse": ("numbers of few magnitudes", "only signs or a few levels, as search codes do"),
    "cut": ("zeros in the same places", "only part of the numbers, padded with zeros"),
}


@dataclass(frozen=True, eq=False)
class Coded:
    """Which rows of a sample of one part are coarse, and which are cut."""

    flags: Mapping[str, Bool[np.ndarray, " m"]]

    def share(self, kind: str) -> float:
        """Return the share of rows of one kind."""
        return float(self.flags[kind].mean())


def number_code(material: Material) -> Iterator[Seen]:
    """Report parts, or rows within all parts, that are written in another code than the rest."""
    found = _codes(material)
    for kind in SAID:
        shares = {name: coded.share(kind) for name, coded in found.items()}
        odd = _odd_part(shares)
        if odd:
            yield _finding(material, kind, odd, shares, Severity.BLOCK)
            continue
        mixed = {n: min(s, 1 - s) for n, s in shares.items() if min(s, 1 - s) >= MIXED_WARN}
        if mixed:
            sides = [name for name in mixed if name != "bank"]
            part = sides[0] if len(sides) == 1 or "bank" not in shares else "bank"
            most = max(mixed.values())
            severity = Severity.BLOCK if most >= MIXED_BLOCK else Severity.WARN
            yield _finding(material, kind, part, shares, severity)


def _odd_part(shares: Mapping[str, float]) -> str:
    """Return the part that is written in another code than the others, or nothing."""
    sides = {name: share for name, share in shares.items() if name != "bank"}
    bank = shares.get("bank")
    if len(sides) == 2 and max(sides.values()) - min(sides.values()) >= APART:
        if bank is None:
            return max(sides, key=sides.__getitem__)
        return max(sides, key=lambda name: abs(sides[name] - bank))
    if bank is not None and sides and min(abs(s - bank) for s in sides.values()) >= APART:
        return "bank"
    return ""


def _codes(material: Material) -> dict[str, Coded]:
    samples = {
        side.name: side.targets(sample_rows(material, side, ROWS)) for side in material.sides
    }
    if material.bank is not None:
        rows = material.sample(len(material.bank.pool_rows), ROWS, "audit", "number code")
        samples["bank"] = take(material.bank.vectors, rows)
    samples = {name: _with_direction(rows) for name, rows in samples.items()}
    samples = {name: rows for name, rows in samples.items() if len(rows) >= MIN_ROWS}
    if len({rows.shape[1] for rows in samples.values()}) != 1:
        return {}  # nothing to look at, or what SCHEMA says
    # Each vector once: copies of a sparse one have their zeros in common as well.
    usual = _usual_zeros(np.unique(np.concatenate(list(samples.values())), axis=0) == 0)
    return {
        name: Coded(
            {
                "coarse": _coarse(rows),
                "cut": (np.equal(rows, 0) == usual).all(axis=1)
                if usual is not None
                else np.zeros(len(rows), dtype=bool),
            }
        )
        for name, rows in samples.items()
    }


def _with_direction(rows: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "m D"]:
    good = np.isfinite(rows).all(axis=1) & (rows != 0).any(axis=1)
    return np.asarray(rows[good])


def _coarse(rows: Float[np.ndarray, "m D"]) -> Bool[np.ndarray, " m"]:
    """Say which rows have few magnitudes, though most of their numbers are not zero."""
    sizes = np.abs(rows)
    steps = np.sort(np.round(sizes / sizes.max(axis=1, keepdims=True) * STEPS), axis=1)
    levels = 1 + (np.diff(steps, axis=1) > 0).sum(axis=1)
    few = levels <= min(LEVELS, LEVELS_OF_WIDTH * rows.shape[1])
    return np.asarray(few & ((rows == 0).mean(axis=1) < SPARSE))


def _usual_zeros(zeros: Bool[np.ndarray, "m D"]) -> Bool[np.ndarray, " D"] | None:
    """Return the places of zeros that most rows with many zeros share; None without such rows."""
    patterns, counts = np.unique(
        np.packbits(zeros[zeros.mean(axis=1) >= ZEROS], axis=1), axis=0, return_counts=True
    )
    if len(counts) == 0:
        return None
    pattern = np.unpackbits(patterns[counts.argmax()], count=zeros.shape[1])
    return np.asarray(pattern.astype(bool))


def _finding(
    material: Material, kind: str, part: str, shares: Mapping[str, float], severity: Severity
) -> Seen:
    source = {"bank": material.bank, "eval": material.eval, "train": material.train}[part]
    rows, meaning = SAID[kind]
    told = ", ".join(f"{share:.0%} of {name}" for name, share in shares.items())
    return Seen(
        severity=severity,
        seen=f"rows with {rows}: {told}",
        allowed="one number format for all rows",
        where=where_found(part, source.source if source is not None else ""),
        meaning=f"Some of the vectors hold {meaning}. A cosine between two formats is too low, "
        "and a model of one does not predict the other.",
        next="write train, eval and bank with the same settings (precision, quantisation, number "
        "of dimensions), best in one run of lvm embed",
        values={f"{kind}_{name}": share for name, share in shares.items()},
    )
