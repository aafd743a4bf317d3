"""Does the encoder that is said to have made the vectors give them again?

A few chunk texts are embedded anew and compared with their stored vectors. This is the one look
that sees a damage which leaves train, eval and bank alike in every statistic: all of them made by
another encoder than the one that is named, or from other text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int

from lvm.audit.articles import Part, parts
from lvm.audit.finding import NotEvaluable, Seen, Severity
from lvm.audit.location import unit
from lvm.audit.material import EncoderRequest, Material, where_found
from lvm.core.errors import LvmError
from lvm.core.randomness import numpy_generator
from lvm.data.corpus import Document
from lvm.data.encoder import Encoder, fit, load_encoder, token_counter
from lvm.data.rows import KeyIndex

NUM_TEXTS = 64
MIN_TEXTS = 8
SAME = 0.99  # cosine of one text embedded twice: half precision and other batches cost .001
BLOCK_SHARE = 0.05  # of texts whose vector is another


def reembedded(material: Material) -> Iterator[Seen]:
    """Compare stored vectors with new ones of the same texts; NotEvaluable without either."""
    request = material.encoder
    if request is None:
        return
    if not (found := parts(material)):
        raise NotEvaluable("no part of the data has keys", "give --data or --payload")
    part, encoder = found[0], _load(material, request)
    rows, texts = _texts(material, part, request, encoder)
    new, stored = encoder.encode(texts, 16), part.fetch(rows)
    if new.shape[1] != stored.shape[1]:
        seen = f"{encoder.name} gives vectors of width {new.shape[1]}, but the {part.name} has "
        seen += f"width {stored.shape[1]}"
        yield _finding(part, rows, np.zeros(len(rows)), seen, {})
        return
    cosine = np.nan_to_num(np.einsum("md,md->m", unit(new), unit(stored)))
    other = cosine < SAME
    if other.any():
        median, share = float(np.median(cosine)), float(other.mean())
        seen = f"{int(other.sum())} of {len(rows)} chunks have a vector in the {part.name} that "
        seen += f"differs from {encoder.name}'s for their text (median cosine "
        seen += f"{np.median(cosine[other]):.3f})"
        values = {"lowest": float(cosine.min()), "median": median, "share": share}
        yield _finding(part, rows, cosine, seen, values)


def _load(material: Material, request: EncoderRequest) -> Encoder:
    name = request.name or str(
        (material.bank.manifest if material.bank else {}).get("embedder", "")
    )
    if not name:
        raise NotEvaluable("no manifest names an encoder", "name it: --encoder NAME")
    try:
        return load_encoder(name)
    except LvmError as error:
        raise NotEvaluable(
            f"the stored texts could not be embedded again: {error}",
            "name a folder with the model: --encoder FOLDER",
        ) from None


def _texts(
    material: Material, part: Part, request: EncoderRequest, encoder: Encoder
) -> tuple[Int[np.ndarray, " m"], list[str]]:
    """Return rows of the part, over as many articles as there are, and the text of each."""
    if request.documents is not None:
        rows, texts = _of_documents(part, request.documents, encoder)
    else:
        stored = material.bank.load_texts() if material.bank is not None else None
        if stored is None:
            raise NotEvaluable(
                "no texts are stored with the vectors", "give the documents: --texts FILE.jsonl"
            )
        rows, texts = np.arange(len(part.keys)), stored
    if len(rows) < MIN_TEXTS:
        raise NotEvaluable(
            f"{len(rows)} chunks of the documents have a row in the {part.name} with their key "
            f"(need {MIN_TEXTS})",
            "give the documents that were embedded, in the same order",
        )
    order = numpy_generator(material.seed, "audit", "encoder").permutation(len(rows))
    _, first = np.unique(part.keys[rows[order], 0], return_index=True)
    rest = np.setdiff1d(np.arange(len(order)), first)
    chosen = order[np.concatenate([np.sort(first), rest])[:NUM_TEXTS]]
    return rows[chosen], [texts[i] for i in chosen]


def _of_documents(
    part: Part, documents: Sequence[Document], encoder: Encoder
) -> tuple[Int[np.ndarray, " m"], list[str]]:
    """Return the rows of chunks by their keys, as `lvm embed` numbers them, and the chunks."""
    fitted = fit(documents, token_counter(encoder), encoder.limit, skip=True)
    numbered = [
        (article, chunk, text)
        for article, document in enumerate(fitted.documents)
        for chunk, text in enumerate(document.chunks)
    ]
    keys = np.array([(a, c) for a, c, _ in numbered], dtype=np.int64).reshape(-1, 2)
    rows = KeyIndex(part.keys).find(keys)
    return rows[rows >= 0], [numbered[i][2] for i in np.flatnonzero(rows >= 0)]


def _finding(
    part: Part,
    rows: Int[np.ndarray, " m"],
    cosine: Float[np.ndarray, " m"],
    seen: str,
    values: dict[str, float],
) -> Seen:
    other = cosine < SAME
    odd = rows[other]
    articles = np.unique(part.keys[odd, 0])
    return Seen(
        severity=Severity.BLOCK if other.mean() >= BLOCK_SHARE else Severity.WARN,
        seen=seen,
        allowed=f"a cosine of {SAME} or more with the stored vector, for every chunk",
        where=where_found(
            part.name, part.source, count=len(odd), of=len(rows), rows=odd, articles=articles
        ),
        meaning="The vectors come from another encoder, another pooling, prefix or precision, "
        "or other texts; all files cut from them share the fault."
        if other.all()
        else "These chunks come from a different encoder than the rest, or their text is not "
        "the text that was embedded.",
        next=f"embed the texts of {part.source} again in one run (lvm embed --model NAME), or name "
        "the encoder that made the vectors",
        values=values,
    )
