"""Documents cut to what an encoder reads, and what of them cannot be embedded.

An encoder reads so many tokens of a text and drops the rest in silence: two chunks that begin alike
are then one vector. How many characters a token holds differs by a factor of ten between languages,
so the limit is counted by the encoder's own tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from lvm.core.errors import DataError
from lvm.data.corpus import Document

BATCH = 4096  # chunks whose tokens are counted at once
NUM_NAMED = 3

Count = Callable[[Sequence[str]], Sequence[int]]  # texts -> tokens of each, without special ones


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
