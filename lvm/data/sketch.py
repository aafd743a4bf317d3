"""Sketches of the text a model was trained on: a few bytes by which it is known in another bank.

The id of an article means something within one bank alone. The vectors of its chunks are the same
wherever it was embedded by the same model, but for rounding. A sketch is the product of a unit
vector with 16 axes of fixed random signs, each in whole steps of .03: one byte an axis. The squared
distance of two sketches estimates that of their vectors (random signs: Achlioptas 2003), so the
same text lies within rounding, and text of a cosine of .98 some ten spreads further out.

What is kept is bounded: up to 4 chunks of an article and 20,000 in all, 400 kB whatever the data.
Text that was cut into other chunks, or embedded by another model, is not known again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from lvm.data.bank import Bank
from lvm.data.windows import Windows

AXES, STEP = 16, 0.03
CHUNKS_PER_ARTICLE, MAX_CHUNKS = 4, 20_000
SAME = 0.05  # distance of unit vectors of one text: a cosine of .99875


@dataclass(frozen=True, kw_only=True, eq=False)
class Sketches:
    """Sketches of n chunks of width D, and the article of each in the bank they came from."""

    width: int  # D
    articles: Int[np.ndarray, " n"]
    codes: Int[np.ndarray, "n A"]  # int8, A = 16 axes

    def to_plain(self) -> dict[str, object]:
        """Return JSON values."""
        return {
            "width": self.width,
            "articles": base64.b64encode(self.articles.astype("<i8").tobytes()).decode(),
            "codes": base64.b64encode(self.codes.astype(np.int8).tobytes()).decode(),
        }

    @classmethod
    def from_plain(cls, stated: object) -> Sketches | None:
        """Return what `to_plain` wrote; None for anything else, or for nothing."""
        if not isinstance(stated, Mapping):
            return None
        try:
            articles = np.frombuffer(base64.b64decode(stated["articles"], validate=True), "<i8")
            codes = np.frombuffer(base64.b64decode(stated["codes"], validate=True), np.int8)
            codes, width = codes.reshape(len(articles), AXES), int(stated["width"])
        except (KeyError, TypeError, ValueError, binascii.Error):
            return None
        usable = 0 < len(articles) <= MAX_CHUNKS and width > 0
        return cls(width=width, articles=articles, codes=codes) if usable else None


def sketch(bank: Bank, windows: Windows) -> Sketches:
    """Sketch the text of windows: chunks spread evenly over each article, by the last contexts.

    A chunk that reads the same in two articles tells neither, and is left out.
    """
    order = np.argsort(windows.articles, kind="stable")
    articles, start, count = np.unique(
        windows.articles[order], return_index=True, return_counts=True
    )
    some = np.unique(np.linspace(0, len(articles) - 1, min(len(articles), MAX_CHUNKS)).astype(int))
    each = int(np.clip(MAX_CHUNKS // len(some), 1, CHUNKS_PER_ARTICLE))
    at = (np.arange(each) + 0.5) / each  # of an article's length
    chosen = start[some, None] + (count[some, None] * at).astype(int)
    chosen = order[np.unique(chosen)]
    codes, known = _codes(bank.rows(windows.contexts[chosen, -1]))
    owner = windows.articles[chosen].astype(np.int64)
    known &= ~_in_several(codes, owner)
    return Sketches(width=bank.width, articles=owner[known], codes=codes[known])


def _in_several(
    codes: Int[np.ndarray, "n A"], owner: Int[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    _, place = np.unique(codes, axis=0, return_inverse=True)
    pairs = np.unique(np.column_stack([place.ravel(), owner]), axis=0)
    return np.asarray(np.bincount(pairs[:, 0])[place.ravel()] > 1)


def articles_again(
    seen: Sketches, vectors: Float[np.ndarray, "m D"], articles: Int[np.ndarray, " m"]
) -> Int[np.ndarray, " a"]:
    """Return those of the given articles whose text was sketched.

    An article is one of them when it holds half the sketched chunks of an article, and two of them
    where there are as many. None where the width differs: that is another encoder.
    """
    if vectors.shape[1] != seen.width:
        return np.empty(0, np.int64)
    codes, known = _codes(vectors)
    ids, mine = np.unique(articles[known], return_inverse=True)
    _, theirs, sizes = np.unique(seen.articles, return_inverse=True, return_counts=True)
    chunk, article = _same(seen.codes, codes[known], mine)
    pairs, held = np.unique(np.column_stack([theirs[chunk], article]), axis=0, return_counts=True)
    size = sizes[pairs[:, 0]]
    again = held >= np.maximum(np.minimum(size, 2), (size + 1) // 2)
    return np.asarray(np.unique(ids[pairs[again, 1]]))


def _same(
    seen: Int[np.ndarray, "n A"], codes: Int[np.ndarray, "m A"], article: Int[np.ndarray, " m"]
) -> tuple[Int[np.ndarray, " p"], Int[np.ndarray, " p"]]:
    """Return the pairs (sketch, article that holds it), each once."""
    from scipy.spatial import cKDTree  # type: ignore[import-untyped]  # scipy has no stubs

    # Other text lies some thirty times as far: nearly all of the tree is ruled out at once.
    near = cKDTree(seen.astype(np.float32)).query_ball_point(
        codes.astype(np.float32), AXES**0.5 * SAME / STEP
    )
    held = [
        np.column_stack([one, np.full(len(one), of)])
        for one, of in zip(near, article, strict=True)
        if one
    ]
    pairs = np.unique(np.concatenate([np.empty((0, 2), np.int64), *held]), axis=0)
    return pairs[:, 0].astype(np.int64), pairs[:, 1].astype(np.int64)


def _codes(
    vectors: Float[np.ndarray, "n D"],
) -> tuple[Int[np.ndarray, "n A"], Bool[np.ndarray, " n"]]:
    """Return the sketch of each vector, and which vectors have a direction."""
    rows = np.asarray(vectors, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        known = ((lengths > 0) & (lengths < np.inf))[:, 0]
        unit = np.where(known[:, None], rows / lengths, 0)
    steps = np.rint(unit @ _axes(rows.shape[1]) / STEP)
    return steps.clip(-127, 127).astype(np.int8), known


def _axes(width: int) -> Float[np.ndarray, "D A"]:
    """Return axes of signs that are the same in every version and on every machine."""
    drawn = hashlib.shake_256(b"sketch of text").digest(width * AXES // 8)
    bits = np.unpackbits(np.frombuffer(drawn, np.uint8)).reshape(width, AXES)
    return bits.astype(np.float32) * 2 - 1
