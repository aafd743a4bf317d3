"""Are all vectors written in one code, and are contexts what the bank holds for their chunks?

A vector kept as signs, or cut to its first numbers and padded with zeros (as encoders trained for
that allow), still has a fair cosine with what it was, so no statistic of directions stands out. Its
numbers do. A row is coarse when its numbers have few magnitudes, and cut when its zeros stand in
the same places as in other rows. What all files share is no defect: it is their code.

Targets that lie in the bank say which chunks come before them. A context that is in the bank
nowhere, and yet is where one of its rows should, is either other text or the same text in
another form: another encoder, a prefix such as "query: ", an added or removed mean. The cosines of
contexts among themselves tell which: they agree with those of the rows only for the same text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from lvm.audit.coherence import coherence, sample_rows
from lvm.audit.finding import REPAIR, Seen, Severity
from lvm.audit.location import same_from, unit
from lvm.audit.material import Material, or_none, where_found
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
MIN_CONTEXTS = 50
WARN, BLOCK = 0.02, 0.2  # share of contexts that are not the rows of their chunks
SAME_TEXT = 0.5  # correlation of cosines, of contexts with those of rows


def number_code(material: Material) -> Iterator[Seen]:
    """Report parts, or rows within all parts, that are written in another code than the rest."""
    for kind, shares in _codes(material).items():
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


def _codes(material: Material) -> dict[str, dict[str, float]]:
    """Return the share of coarse rows, and of cut ones, in a sample of each part."""
    samples = {
        side.name: side.targets(sample_rows(material, side, ROWS)) for side in material.sides
    }
    if material.bank is not None:
        rows = material.sample(len(material.bank.pool_rows), ROWS, "audit", "number code")
        samples["bank"] = take(material.bank.vectors, rows)
    for name, rows in samples.items():
        samples[name] = rows[np.isfinite(rows).all(axis=1) & (rows != 0).any(axis=1)]
    samples = {name: rows for name, rows in samples.items() if len(rows) >= MIN_ROWS}
    if len({rows.shape[1] for rows in samples.values()}) != 1:
        return {}  # nothing to look at, or what SCHEMA says
    # Each vector once: copies of a sparse one have their zeros in common as well.
    usual = _usual_zeros(np.unique(np.concatenate(list(samples.values())), axis=0) == 0)
    shares = {name: float(_coarse(rows).mean()) for name, rows in samples.items()}
    cut = dict.fromkeys(samples, 0.0)
    if usual is not None:
        for name, rows in samples.items():
            cut[name] = float((np.equal(rows, 0) == usual).all(axis=1).mean())
    return {"coarse": shares, "cut": cut}


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


@dataclass(frozen=True, kw_only=True)
class OwnRows:
    """How the contexts of a side lie to the bank rows of their chunks."""

    share: float  # contexts that are another vector than their row, and in the bank nowhere
    cosine: float  # of these with their rows, the median
    same_text: float  # correlation of cosines among these with cosines among their rows
    windows: list[int]  # with such a context
    looked_at: int


def contexts_elsewhere(material: Material) -> Iterator[Seen]:
    """Report sides whose contexts are another form of the bank's vectors than their targets."""
    found = {
        side.name: own
        for side in material.sides
        if side.file is not None and (own := own_rows(material, side.name)) is not None
    }
    other = {n: o for n, o in found.items() if o.share >= WARN and o.same_text >= SAME_TEXT}
    for name, own in other.items():
        both = " of train and eval alike" if len(other) == len(found) > 1 else ""
        yield Seen(
            severity=Severity.BLOCK if own.share >= BLOCK else Severity.WARN,
            seen=f"{own.share:.1%} of the contexts of {name} differ from the bank's vectors for "
            f"their chunks (median cosine {own.cosine:.3f}), while the targets match",
            allowed=f"at most {WARN:.0%} ({BLOCK:.0%} blocks) below a cosine of "
            f"{same_from(material):.4g}",
            where=material.side(name).where(
                count=len(own.windows), of=own.looked_at, rows=own.windows
            )
            | {"part": "contexts"},
            meaning=f"The contexts{both} have the right text, but are in a different space from "
            "targets and bank: another encoder, a prefix, or a mean that was added or "
            "subtracted. The keys are right.",
            next=f"embed contexts and targets with the same settings, or let {REPAIR} cut the "
            "contexts from the bank",
            values={"share": own.share, "cosine": own.cosine, "same_text": own.same_text},
        )


def own_rows(material: Material, name: str) -> OwnRows | None:
    """Compare the contexts of a side with the bank rows before their target; None without any."""
    side = or_none(coherence, material, name)
    if side is None or side.located is None:
        return None
    bank, located, length = material.pool, side.located, side.contexts.shape[1]
    keys = located.keys[:, -1:].astype(np.int64) - np.stack(
        [np.zeros(length, dtype=np.int64), np.arange(length, 0, -1)], axis=1
    )
    rows = material.by_key.find(keys.reshape(-1, 2)).reshape(-1, length)
    judged = (rows >= 0) & located.found[:, -1:]
    if int(judged.sum()) < MIN_CONTEXTS:
        return None
    odd = judged & ~located.found[:, :-1]
    if not odd.any():
        return OwnRows(share=0.0, cosine=1.0, same_text=1.0, windows=[], looked_at=len(rows))
    mine, theirs = side.contexts[odd], unit(take(bank.vectors, rows[odd]))
    cosine = np.einsum("md,md->m", mine, theirs)
    other = cosine < same_from(material)
    return OwnRows(
        share=float(other.sum() / judged.sum()),
        cosine=float(np.median(cosine[other])) if other.any() else 1.0,
        same_text=_agreement(mine, theirs),
        windows=side.rows[odd.any(axis=1)].tolist(),
        looked_at=int(judged.any(axis=1).sum()),
    )


def _agreement(mine: Float[np.ndarray, "m D"], theirs: Float[np.ndarray, "m D"]) -> float:
    """Return the correlation of cosines of neighbours in the list, in both forms of the text."""
    if len(mine) < MIN_CONTEXTS:
        return 1.0
    # Neighbours and far ones: within an article and beyond it, cosines differ most.
    pairs = [(mine[:-k], mine[k:], theirs[:-k], theirs[k:]) for k in (1, len(mine) // 2)]
    cosines = [(np.einsum("md,md->m", a, b), np.einsum("md,md->m", c, d)) for a, b, c, d in pairs]
    x, y = (np.concatenate(values) for values in zip(*cosines, strict=True))
    if min(x.std(), y.std()) < 1e-6:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])
