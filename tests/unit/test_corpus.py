from __future__ import annotations

import bz2
import json
import time
from pathlib import Path

import pytest

from lvm.core.errors import DataError
from lvm.data.corpus import (
    MAX_SENTENCE_CHARACTERS,
    MAX_SENTENCES,
    MIN_CHARACTERS,
    Document,
    chunk_text,
    read_documents,
)
from lvm.data.wikitext import clean_wikitext


def _page(title: str, markup: str, *, ns: int = 0, redirect: str = "") -> str:
    escaped = markup.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return (
        f"<page><title>{title}</title><ns>{ns}</ns>{redirect}"
        f"<revision><text>{escaped}</text></revision></page>"
    )


def _dump(*pages: str) -> str:
    space = "http://www.mediawiki.org/xml/export-0.10/"
    return f'<mediawiki xmlns="{space}"><siteinfo/>{"".join(pages)}</mediawiki>'


# --- chunks ---------------------------------------------------------------------------------------


def test_a_chunk_ends_with_the_sentence_that_reaches_150_characters() -> None:
    first, second, third = "A" + "a" * 98 + ".", "B" + "b" * 60 + ".", "C" + "c" * 160 + "."
    assert chunk_text(f"{first} {second} {third}") == [f"{first} {second}", third]


def test_a_chunk_has_at_most_three_sentences() -> None:
    assert chunk_text("One day. Two days. Three days. Four days. Five days. Six days.") == [
        "One day. Two days. Three days.",
        "Four days. Five days. Six days.",
    ]


def test_the_short_rest_of_a_text_is_dropped() -> None:
    full = "A" * (MIN_CHARACTERS - 1) + "."
    assert chunk_text(f"{full} Too short.") == [full]
    assert chunk_text("Too short.") == []


def test_chunks_keep_every_word_in_order() -> None:
    text = " ".join(f"Word{i} follows word{i - 1} as it must." for i in range(60))
    words = " ".join(chunk_text(text)).split()
    assert words == text.split()[: len(words)]
    assert len(words) >= len(text.split()) - 6 * MAX_SENTENCES


@pytest.mark.parametrize(
    "sentence",
    [
        "Dr. Smith met J. R. R. Tolkien in the U.S. capital.",
        "It grew by 3.14 percent, i.e. Little by little, in St. Louis.",
        'He asked "why?" and left.',
    ],
)
def test_abbreviations_and_numbers_end_no_sentence(sentence: str) -> None:
    filler = "X" * MIN_CHARACTERS + "."
    # A wrong split would close the first chunk before the filler.
    assert chunk_text(f"{sentence} {sentence} {filler}") == [f"{sentence} {sentence} {filler}"]


def test_sentences_split_at_quotes_brackets_and_east_asian_stops() -> None:
    a, b = "A" * 150 + '."', "(B" + "b" * 150 + "!)"
    assert chunk_text(f"{a} {b}") == [a, b]
    assert chunk_text("山" * 150 + "。" + "川" * 150 + "。") == [
        "山" * 150 + "。",
        "川" * 150 + "。",
    ]


def test_wrapped_lines_are_joined_and_blank_lines_part_paragraphs() -> None:
    heading, body = "A heading without a stop", "The harbour\nfroze over. " + "Z" * 150 + "."
    sentences = f"{heading} The harbour froze over. {'Z' * 150}."
    assert chunk_text(f"{heading}\n\n{body}") == [sentences]


def test_a_text_without_full_stops_is_cut_below_the_limit_of_encoders() -> None:
    chunks = chunk_text("word " * 10_000)
    assert max(map(len, chunks)) <= MAX_SENTENCE_CHARACTERS
    assert sum(chunk.count("word") for chunk in chunks) >= 9_800


# --- wiki markup ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("'''Bold''' and ''italic'' text.", "Bold and italic text."),
        ("The [[town]] and [[Harbour (sea)|harbour]]s.", "The town and harbours."),
        ("See [http://example.org the page] now.", "See the page now."),
        ("A<ref>{{cite|x=1}} no.</ref> b<ref name=q/> c.", "A b c."),
        ("A{{note|{{deep|x}}|y}} stays.", "A stays."),
        ("About {{convert|10|km|mi|abbr=on}} long.", "About 10 km long."),
        ("The word {{lang|la|mare}} means sea.", "The word mare means sea."),
        ("{|class=a\n|cell. \n{|\n|inner.\n|}\n|}\nAfter.", "After."),
        ("[[File:a.jpg|thumb|A [[town]] by [above] day.]]Text.", "Text."),
        ("[[Category:Towns]]\n[[de:Stadt]]\nText.", "Text."),
        ("Seen<!-- hidden. --> here.", "Seen here."),
        ("Salt &amp; pepper&nbsp;here.", "Salt & pepper here."),
        ("Where <math>x^2</math> is it.", "Where is it."),
        ("==Heading.==\n* An item\n* A whole sentence.\nEnd.", "A whole sentence.\n\nEnd."),
        ("Born ( ; ) here , then.", "Born here, then."),
        ("Line one.<br />Line two.", "Line one. Line two."),
        ("Water is H<sub>2</sub>O.", "Water is H2O."),
        ("{{open stays. }", ""),
    ],
)
def test_markup_becomes_what_a_reader_sees(markup: str, text: str) -> None:
    assert clean_wikitext(markup) == text


@pytest.mark.parametrize("title", ["References", "See also", "External links", "Notes"])
def test_appendices_are_cut(title: str) -> None:
    assert clean_wikitext(f"Body.\n== {title} ==\nA book.\n==More==\nText.") == "Body."


def test_many_unclosed_braces_take_linear_time() -> None:
    assert clean_wikitext("{{ [[ {| " * 30_000 + "\n\nEnd.") == "End."


# --- readers --------------------------------------------------------------------------------------


def test_a_dump_yields_articles_only(tmp_path: Path) -> None:
    path = tmp_path / "wiki.xml.bz2"
    pages = [
        _page("Town", "A [[town]]."),
        _page("Old", "Text.", redirect='<redirect title="Town"/>'),
        _page("Older", "#REDIRECT [[Town]]"),
        _page("Talk:Town", "Talk.", ns=1),
        _page("List of towns", "A list."),
        _page("Mercury", "May mean. {{disambiguation}}"),
        _page("Mercury (disambiguation)", "May mean."),
        _page("Sea", "A <b>sea</b>."),
    ]
    path.write_bytes(bz2.compress(_dump(*pages).encode()))
    assert list(read_documents([path])) == [Document("Town", "A town."), Document("Sea", "A sea.")]


def test_text_and_json_lines(tmp_path: Path) -> None:
    text, lines = tmp_path / "one.txt", tmp_path / "many.jsonl"
    text.write_bytes("\ufeffÆble.".encode())
    entries = [{"text": "a", "title": "T"}, {"text": "b", "id": 0}, {"text": "c"}]
    lines.write_text("\n\n".join(map(json.dumps, entries)))
    assert list(read_documents([lines, text])) == [
        Document("T", "a"),
        Document("0", "b"),
        Document("many:5", "c"),
        Document("one", "Æble."),
    ]


@pytest.mark.parametrize(
    ("name", "content", "seen"),
    [
        ("missing.txt", None, "does not exist"),
        ("empty.txt", b"", "is empty"),
        ("blank.txt", b" \n ", "no document"),
        ("latin.txt", b"caf\xe9", "byte 3 is not UTF-8"),
        ("book.pdf", b"%PDF", "unknown ending '.pdf'"),
        ("noending", b"text", "unknown ending '(none)'"),
        ("bad.jsonl", b'{"text": "a"}\n{"text"', "bad.jsonl:2: not JSON"),
        ("deep.jsonl", b"[" * 100_000, "deep.jsonl:1: not JSON"),
        ("list.jsonl", b'["a"]', "list.jsonl:1: no text"),
        ("number.jsonl", b'{"text": 3}', "number.jsonl:1: no text"),
        ("half.xml", _dump(_page("A", "B."))[:-20].encode(), "not a complete MediaWiki XML dump"),
        (
            "cut.bz2",
            bz2.compress(_dump(_page("A", "B.")).encode())[:-8],
            "not a complete MediaWiki XML dump",
        ),
        ("fake.bz2", b"not bzip2", "not a complete MediaWiki XML dump"),
        ("none.xml", _dump(_page("Talk:A", "B.", ns=1)).encode(), "no document"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes | None, seen: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_documents([path]))
    assert seen in str(caught.value)
    assert name in str(caught.value)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        list(read_documents([tmp_path]))


@pytest.mark.parametrize(
    "piece",
    [
        "[http://",
        "<ref>",
        "<math>",
        "<table>",
        "[[",
        "{{lang|",
        "{{convert|",
        "<!--",
        "( ,",
        "== ",
        "[[x|",
        "</ref",
        "<ref name=x",
        "]]",
        "{{convert|1|a ",
    ],
)
def test_markup_that_is_never_closed_takes_time_in_proportion(piece: str) -> None:
    """Twice the text took four times as long and more: 64 kB of "[http://" took minutes."""
    for text in (piece * 20_000 + "x.", piece + "a " * 100_000, piece + " " * 100_000):
        began = time.process_time()
        clean_wikitext(text)
        assert time.process_time() - began < 3


def test_links_many_levels_deep_take_time_in_proportion() -> None:
    began = time.process_time()
    clean_wikitext("[[" * 40_000 + "x" + "]]" * 40_000 + ".")
    assert time.process_time() - began < 3


def test_a_reference_that_stays_open_or_is_empty_takes_no_text_with_it() -> None:
    markup = 'One<ref name="a"/> two<ref>gone</ref> three<ref name=b>gone too</ref > four.'
    assert clean_wikitext(markup) == "One two three four."
    assert clean_wikitext("A <math>x</math> b <table>t</table> c<ref> d.") == "A b c d."
