"""One pass over the rows of every stored array: which are broken, and how long they are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lvm.audit.coherence import sample_rows
from lvm.audit.finding import NotEvaluable
from lvm.audit.material import Material, Side, once
from lvm.audit.where import NUM_NAMED
from lvm.data.rows import blocks, take

ZERO_LENGTH = 1e-6


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
