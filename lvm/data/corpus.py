"""Documents to chunks: text files, JSON lines and Wikipedia dumps.

A chunk is the text behind one vector: one to three sentences that follow each other in a document.
"""

from __future__ import annotations

import bz2
import functools
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

from lvm.core.errors import DataError
from lvm.core.outside import parse_json
from lvm.data.wikitext import clean_wikitext

MIN_CHARACTERS = 150
MAX_SENTENCES = 3
# Common encoders read 256 to 512 tokens and drop the rest in silence; 1000 characters stay below.
MAX_SENTENCE_CHARACTERS = 1000


@dataclass(frozen=True)
class Document:
    """One document with its title and plain text; paragraphs are separated by blank lines."""

    title: str
    text: str

    @functools.cached_property
    def chunks(self) -> list[str]:
        """The chunks of the text, in order."""
        return chunk_text(self.text)


def read_documents(paths: Iterable[Path]) -> Iterator[Document]:
    """Yield the documents of all files, in order.

    By ending: .txt .text .md one document per file; .jsonl .ndjson one per line with `text` and
    optional `title` or `id`; .xml .bz2 a Wikipedia dump, articles only. Raises DataError for a
    file that is missing, empty, truncated, not UTF-8, of another ending or without documents.
    """
    for path in map(Path, paths):
        found = False
        for document in _reader(path)(path):
            found = True
            yield document
        if not found:
            raise DataError(
                f"{path}: no document found; redirects, lists and disambiguation pages do not "
                "count."
            )


def chunk_text(text: str) -> list[str]:
    """Cut a text into chunks of one to three sentences.

    A chunk ends with the sentence that brings it to 150 characters, or with its third. What is left
    over at the end of the text is dropped when it is shorter than that.
    """
    chunks: list[str] = []
    sentences: list[str] = []
    for sentence in _sentences(text):
        sentences.append(sentence)
        chunk = " ".join(sentences)
        if len(chunk) >= MIN_CHARACTERS or len(sentences) == MAX_SENTENCES:
            chunks.append(chunk)
            sentences = []
    return chunks


# A full stop, closing marks, then white space; or an East Asian stop, which needs no space.
_STOP = re.compile(r"[.!?][\"')\]”’»]*\s+|[。！？][\"”’」』]*\s*")
_ABBREVIATION = re.compile(
    r"(?:\b[^\W\d_]|\b(?:Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|Gen|Gov|Sen|Col|Lt|Capt|Rev|Hon|Mt|Ft|No|Nos|vs|vol|ch|"
    r"pp|ca|cf|al|fl|approx|Inc|Ltd|Co|Corp|e\.g|i\.e|viz|Jan|Feb|Aug|Sept|Oct|Nov|Dec))\.$"
)


def _sentences(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        line = " ".join(paragraph.split())
        for sentence in _split_line(line):
            if len(sentence) <= MAX_SENTENCE_CHARACTERS:
                yield sentence
            else:
                yield from textwrap.wrap(sentence, MAX_SENTENCE_CHARACTERS)


def _split_line(line: str) -> Iterator[str]:
    start = 0
    for stop in _STOP.finditer(line):
        following = line[stop.end() : stop.end() + 4].lstrip("\"'([“‘«")[:1]
        before = line[max(start, stop.start() - 12) : stop.start() + 1]
        if following.islower() or _ABBREVIATION.search(before):
            continue
        yield line[start : stop.end()].strip()
        start = stop.end()
    if line[start:].strip():
        yield line[start:].strip()


def _reader(path: Path) -> Callable[[Path], Iterator[Document]]:
    if not path.is_file():
        seen = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {seen}; name the files to embed.")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty; leave it out.")
    readers: dict[str, Callable[[Path], Iterator[Document]]] = {
        **dict.fromkeys((".txt", ".text", ".md"), _read_text),
        **dict.fromkeys((".jsonl", ".ndjson"), _read_json_lines),
        **dict.fromkeys((".xml", ".bz2"), _read_dump),
    }
    for ending, reader in readers.items():
        if path.name.lower().endswith(ending):
            return reader
    raise DataError(
        f"{path}: unknown ending {path.suffix or '(none)'!r}; convert or rename it to one of "
        f"{', '.join(readers)}."
    )


def _read_text(path: Path) -> Iterator[Document]:
    text = _decode(path.read_bytes(), str(path))
    if text.strip():
        yield Document(path.stem, text)


def _read_json_lines(path: Path) -> Iterator[Document]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _document_of_line(_decode(line, f"{path}:{number}"), path, number)


def _document_of_line(line: str, path: Path, number: int) -> Document:
    try:
        entry = parse_json(line)
    except ValueError as error:
        raise DataError(
            f"{path}:{number}: not JSON ({error}); write one object per line."
        ) from error
    if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
        raise DataError(
            f"{path}:{number}: no text; write an object with the string 'text' and optional "
            "'title' or 'id'."
        )
    title = next((entry[key] for key in ("title", "id") if entry.get(key) is not None), None)
    return Document(str(title) if title is not None else f"{path.stem}:{number}", entry["text"])


def _decode(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: byte {error.start} is not UTF-8; convert the file to UTF-8."
        ) from error


def _read_dump(path: Path) -> Iterator[Document]:
    with bz2.open(path) if path.suffix.lower() == ".bz2" else path.open("rb") as stream:
        pages = _pages(stream)
        while True:
            try:
                page = next(pages, None)
            except (ElementTree.ParseError, EOFError, OSError) as error:
                raise DataError(
                    f"{path} is not a complete MediaWiki XML dump ({error}); copy or download it "
                    "again."
                ) from error
            if page is None:
                return
            yield Document(page[0], clean_wikitext(page[1]))


_NO_ARTICLE_TITLE = re.compile(r"(?:Lists?|Index|Outline|Timeline) of |.*\(disambiguation\)$")
_NO_ARTICLE_MARKUP = re.compile(
    r"\s*#redirect|.*\{\{\s*(?:disambig|disambiguation|hndis|geodis|surname)\s*[|}]", re.I | re.S
)


def _pages(stream: IO[bytes]) -> Iterator[tuple[str, str]]:
    """Yield (title, markup) of the articles in a dump; memory holds one page at a time."""
    root: ElementTree.Element | None = None
    for event, element in ElementTree.iterparse(stream, events=("start", "end")):
        if root is None:
            root = element
        if event == "start" or (not element.tag.endswith("}page") and element.tag != "page"):
            continue
        title = element.findtext("{*}title", "")
        markup = element.findtext("{*}revision/{*}text", "")
        is_article = element.findtext("{*}ns", "0") == "0" and element.find("{*}redirect") is None
        root.clear()
        if (
            is_article
            and not _NO_ARTICLE_TITLE.match(title)
            and not _NO_ARTICLE_MARKUP.match(markup)
        ):
            yield title, markup
