"""Sentence-transformers encoders (the only door to that package), and documents cut to one.

An encoder reads so many tokens of a text and drops the rest in silence: two chunks that begin alike
are then one vector. How many characters a token holds differs by a factor of ten between languages,
so the limit is counted by the encoder's own tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from lvm.core.errors import DataError, MissingExtraError
from lvm.data.corpus import Document

# Two encoders with the same name may still differ (another revision, pooling or precision). Their
# vectors of these sentences tell.
PROBES = (
    "The cat slept on the warm windowsill all afternoon.",
    "Interest rates rose by a quarter of a percentage point.",
    "Mitochondria produce most of the chemical energy of a cell.",
    "She tuned the violin before the concert began.",
    "The treaty was signed in 1648 and ended thirty years of war.",
    "def add(a, b): return a + b",
    "Heavy rain flooded the lower part of the town.",
    "Why do birds fly south in winter?",
)
BATCH = 4096  # chunks whose tokens are counted at once
NUM_NAMED = 3

Count = Callable[[Sequence[str]], Sequence[int]]  # texts -> tokens of each, without special ones


class Encoder(Protocol):
    """What turns texts into vectors; `name` goes into the manifest."""

    @property
    def name(self) -> str:
        """Name of the model, for example sentence-transformers/gtr-t5-base."""

    def encode(self, texts: Sequence[str], batch_size: int) -> Float[np.ndarray, "N D"]:
        """Return one float32 unit vector per text."""

    @property
    def limit(self) -> int | None:
        """Tokens that are read of a text, without special ones; None where that is not known."""

    def count(self, texts: Sequence[str]) -> Sequence[int] | None:
        """Return each text's number of tokens, without special ones; None where unknown."""


@dataclass(frozen=True)
class SentenceEncoder:
    """A loaded sentence-transformers model."""

    name: str
    model: Any  # sentence_transformers.SentenceTransformer, which is imported lazily

    def encode(self, texts: Sequence[str], batch_size: int) -> Float[np.ndarray, "N D"]:
        """Return one float32 unit vector per text."""
        vectors = self.model.encode(
            list(texts),
            batch_size=batch_size,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return np.asarray(vectors, dtype=np.float32)

    @property
    def limit(self) -> int | None:
        """Tokens that are read of a text, without special ones; None where that is not known."""
        length = getattr(self.model, "max_seq_length", None)
        return max(1, int(length) - len(self._ids([""])[0])) if length else None

    def count(self, texts: Sequence[str]) -> Sequence[int] | None:
        """Return each text's number of tokens, without special ones; None where unknown."""
        try:
            return [len(ids) for ids in self._ids(texts, special=False)]
        except (AttributeError, TypeError, ValueError):  # a tokenizer of another kind
            return None

    def _ids(self, texts: Sequence[str], special: bool = True) -> list[list[int]]:
        ids: list[list[int]] = self.model.tokenizer(
            list(texts), add_special_tokens=special, truncation=False, verbose=False
        )["input_ids"]
        return ids


def load_encoder(model: str | Path, *, name: str | None = None) -> SentenceEncoder:
    """Load a sentence-transformers model from a folder or, by name, from the hub or its cache.

    `name` is what the manifest says; by default the name as given or the name of the folder. Raises
    MissingExtraError without sentence-transformers, DataError when there is no such model.
    """
    folder = Path(model)
    local = folder.is_dir()
    if local and not (folder / "modules.json").is_file():
        raise DataError(
            f"{folder} has no modules.json; name a folder saved by sentence-transformers, or a "
            "model on the hub."
        )
    if not local and (folder.is_absolute() or str(model).startswith(".")):
        raise DataError(
            f"{folder} does not exist; --model must be a folder saved by sentence-transformers, "
            "or the name of a model on the hub."
        )
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingExtraError("sentence-transformers", "embed", "embedding text") from error
    try:
        loaded = SentenceTransformer(str(model), local_files_only=local)
    # The hub, the tokenizer and the weights each fail with errors of their own, down to KeyError.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"the encoder {model} could not be loaded ({reason}); check its name, or download "
            "the model and name its folder."
        ) from error
    # Some checkpoints are stored in half precision: the vectors must not depend on that.
    return SentenceEncoder(name or (folder.resolve().name if local else str(model)), loaded.float())


def token_counter(encoder: Encoder) -> Count | None:
    """Return what counts the tokens of texts; None for an encoder that does not say."""
    if encoder.count(PROBES) is None:
        return None
    return lambda texts: encoder.count(texts) or ()


@dataclass(frozen=True)
class Chunked:
    """A document and its chunks."""

    title: str
    chunks: list[str]


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The documents that are embedded, and what became of the others."""

    documents: list[Chunked]
    short: tuple[str, ...] = ()  # titles: no chunk in them
    unreadable: tuple[str, ...] = ()  # titles: a chunk without any token, or text that is none
    split: int = 0  # chunks that held more tokens than the encoder reads

    def for_manifest(self) -> dict[str, object]:
        """Return the titles by article id, and the counts of what was left out or split."""
        return {
            "titles": {str(i): document.title for i, document in enumerate(self.documents)},
            "left_out": {
                "short": len(self.short),
                "unreadable": len(self.unreadable),
                "split_chunks": self.split,
            },
        }

    def in_words(self) -> Iterator[str]:
        """Yield a sentence for each thing that a person should know."""
        if self.short:
            whole = len(self.short) + len(self.unreadable) + len(self.documents)
            yield (
                f"{len(self.short):,} of {whole:,} documents were left out because they have no "
                f"chunk of 150 characters or three sentences ({_named(self.short)})"
            )
        if self.unreadable:
            yield (
                f"{len(self.unreadable):,} documents were left out because they cannot be "
                f"embedded ({_named(self.unreadable)})"
            )
        if self.split:
            yield (
                f"{self.split:,} chunks were split because they were longer than the encoder reads"
            )


def _named(titles: Sequence[str]) -> str:
    more = f" and {len(titles) - NUM_NAMED:,} more" if len(titles) > NUM_NAMED else ""
    return f"{', '.join(repr(title[:60]) for title in titles[:NUM_NAMED])}{more}"


def fit(
    documents: Iterable[Document], count: Count | None, limit: int | None, *, skip: bool = False
) -> Fitted:
    """Return the chunks of documents, none of them longer than `limit` tokens.

    Without `count` or `limit` chunks stay as they are. A document with a lone surrogate or a chunk
    without a token is refused by its title (DataError), or left out where `skip` says so.
    """
    kept: list[Chunked] = []
    short, unreadable, split = [], [], 0
    for document in documents:
        reason = _no_text(document.text)
        if reason is None and not document.chunks:
            short.append(document.title)
            continue
        chunks: list[str] | None = None
        if reason is None:
            chunks, longer = _cut(document.chunks, count, limit)
            reason = "a chunk has no token that this encoder knows"
        if chunks is not None:
            kept.append(Chunked(document.title, chunks))
            split += longer
        elif skip:
            unreadable.append(document.title)
        else:
            raise DataError(
                f"the document {document.title[:60]!r} cannot be embedded ({reason}); fix it, "
                "or skip such documents with --skip."
            )
    return Fitted(documents=kept, short=tuple(short), unreadable=tuple(unreadable), split=split)


def _no_text(text: str) -> str | None:
    """Return why a text is none, as files of JSON lines can hold it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"half of a character, U+{ord(text[error.start]):04X}, at {error.start}"
    return None


def _cut(chunks: list[str], count: Count | None, limit: int | None) -> tuple[list[str] | None, int]:
    """Return chunks of at most `limit` tokens and how many were split; None for one without any."""
    if count is None:
        return chunks, 0
    numbers = [
        n for start in range(0, len(chunks), BATCH) for n in count(chunks[start : start + BATCH])
    ]
    if min(numbers) == 0:
        return None, 0
    if limit is None:
        return chunks, 0
    cut = [
        piece
        for chunk, n in zip(chunks, numbers, strict=True)
        for piece in ([chunk] if n <= limit else _pieces(chunk, count, limit))
    ]
    return cut, sum(n > limit for n in numbers)


def _pieces(text: str, count: Count, limit: int) -> Iterator[str]:
    """Yield halves of halves of a text, cut at spaces where there are some, until each one fits."""
    if len(text) == 1 or count([text])[0] <= limit:
        yield text
        return
    middle = len(text) // 2
    spaces = [place for place in (text.rfind(" ", 0, middle), text.find(" ", middle)) if place > 0]
    place = min(spaces, key=lambda p: abs(p - middle), default=middle)
    for half in (text[:place].strip(), text[place:].strip()):
        if half:
            yield from _pieces(half, count, limit)
