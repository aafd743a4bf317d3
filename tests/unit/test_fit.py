"""Documents are cut to what an encoder reads, and what cannot be embedded is named."""

from __future__ import annotations

import pytest

from lvm.core.errors import DataError
from lvm.data.corpus import Document
from lvm.data.encoder import fit

SENTENCE = "The river ran past the old mill and the people of the town watched the water rise. "
LONG = Document("long", SENTENCE * 40)


def words(texts):
    """Count a token for each word, and none for what is no word."""
    return [len([word for word in text.split() if any(map(str.isalnum, word))]) for text in texts]


def letters(texts):
    """Count a token for each sign, as tokenizers do for scripts that they hardly know."""
    return [len(text.replace(" ", "")) for text in texts]


@pytest.mark.parametrize(("count", "limit"), [(words, 10), (letters, 40), (letters, 1)])
def test_no_chunk_is_longer_than_the_encoder_reads_and_no_text_is_lost(count, limit):
    fitted = fit([LONG], count, limit)
    (document,) = fitted.documents
    assert max(count(document.chunks)) <= limit
    assert "".join(document.chunks).replace(" ", "") == LONG.text.replace(" ", "")
    assert fitted.split == len(LONG.chunks)
    assert list(fitted.in_words()) == [
        f"{len(LONG.chunks)} chunks were split because they were longer than the encoder reads"
    ]


def test_words_stay_whole_where_they_fit():
    (document,) = fit([LONG], letters, 40).documents
    assert set(" ".join(document.chunks).split()) == set(LONG.text.split())


@pytest.mark.parametrize(("count", "limit"), [(None, None), (None, 5), (words, None), (words, 99)])
def test_chunks_that_fit_or_cannot_be_counted_stay_as_they_are(count, limit):
    fitted = fit([LONG], count, limit)
    assert fitted.documents[0].chunks == LONG.chunks
    assert list(fitted.in_words()) == []


def test_documents_without_a_chunk_are_counted_and_named():
    shorts = [Document(f"short {i}", "Hello world.") for i in range(95)]
    fitted = fit([*shorts, LONG], words, 99)
    assert [document.title for document in fitted.documents] == ["long"]
    (sentence,) = fitted.in_words()
    assert sentence.startswith("95 of 96 documents were left out")
    assert "'short 0', 'short 1', 'short 2' and 92 more" in sentence


HALF = Document("half", SENTENCE * 3 + "\ud83d")
BARE = Document("bare", "? ! " * 60)


@pytest.mark.parametrize(
    ("document", "reason"), [(HALF, "half of a character, U\\+D83D"), (BARE, "no token")]
)
def test_a_document_that_cannot_be_embedded_is_refused_by_name_or_left_out(document, reason):
    with pytest.raises(DataError, match=f"'{document.title}' cannot be embedded .*{reason}"):
        fit([LONG, document], words, 99)
    fitted = fit([LONG, document], words, 99, skip=True)
    assert [kept.title for kept in fitted.documents] == ["long"]
    (sentence,) = fitted.in_words()
    assert f"cannot be embedded ('{document.title}')" in sentence
