"""What the user states that a model has read, compared with the evaluation bank.

A plain list of ids is taken at its word. Where the statement brings vectors, the text decides:

    the same text in the bank      its article counts as read, whatever its number
    the same vectors under a key   both banks number their articles alike, so ids count as well
    neither, but ids in common     nobody knows whether a number means the same article: refused
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from lvm.audit.location import RoughIndex, unit
from lvm.core.errors import DataError
from lvm.data.bank import Bank
from lvm.data.rows import key_codes, take
from lvm.data.seen import HOW, SeenArticles

SAME_COSINE = 0.999  # of two vectors of one text, up to rounding
SAME_SHARE = 0.5  # of the rows under common keys, and of an article's windows
MIN_WINDOWS = 3  # of an article, where it has as many: a heading alone makes none
MOST_COMPARED = 4096


def check_stated(stated: SeenArticles, bank: Bank | None) -> None:
    """Refuse a statement that cannot be compared with a bank.

    Raises DataError where it names no article of the bank though it names some, where its vectors
    are of another width, and where its ids may be those of another bank.
    """
    if bank is None or len(stated.articles) == 0:
        return
    shared = np.intersect1d(stated.articles, bank.articles)
    if stated.text is None:
        if len(shared) == 0:
            first, last = int(bank.articles.min()), int(bank.articles.max())
            raise DataError(
                f"None of the {len(stated.articles):,} article ids in {stated.source} is in "
                f"{bank.source}, which has articles {first} to {last}. Name them by their ids "
                f"there: {HOW}."
            )
        return
    if stated.text.width != bank.width:
        raise DataError(
            f"{stated.source} has vectors of width {stated.text.width}, {bank.source} of width "
            f"{bank.width}, so their text cannot be compared. In a text file, {HOW}."
        )
    if len(shared) and not _numbered_alike(stated.text, bank) and not _any_text(stated.text, bank):
        raise DataError(
            f"{stated.source} and {bank.source} have {len(shared):,} article ids in common but "
            "no vectors, so an id may mean different articles in the two. In a text file, "
            f"{HOW}."
        )


def stated_articles(
    stated: SeenArticles,
    bank: Bank | None,
    vectors: Float[np.ndarray, "m D"],
    articles: Int[np.ndarray, " m"],
) -> Int[np.ndarray, " a"]:
    """Return which of the articles of some chunks a statement names, by id or by their text."""
    by_id = np.intersect1d(articles, stated.articles)
    if stated.text is None:
        return by_id
    alike = bank is not None and _numbered_alike(stated.text, bank)
    found = RoughIndex(stated.text.vectors).find(np.asarray(vectors, np.float32)) >= 0
    by_text = mostly(articles, found)
    return np.union1d(by_text, by_id) if alike else by_text


def mostly(articles: Int[np.ndarray, " m"], found: Bool[np.ndarray, " m"]) -> Int[np.ndarray, " a"]:
    """Return the articles half of whose rows are found, and three of them where it has as many."""
    ids, place = np.unique(articles, return_inverse=True)
    whole, held = np.bincount(place), np.bincount(place, weights=found)
    return np.asarray(ids[(held >= SAME_SHARE * whole) & (held >= np.minimum(whole, MIN_WINDOWS))])


def _numbered_alike(text: Bank, bank: Bank) -> bool:
    """Whether keys that both banks have lead to the same vectors."""
    _, mine, theirs = np.intersect1d(
        key_codes(text.keys), key_codes(bank.keys), return_indices=True
    )
    if len(mine) == 0:
        return False
    some = np.unique(np.linspace(0, len(mine) - 1, min(len(mine), MOST_COMPARED)).astype(int))
    pairs = unit(take(text.vectors, mine[some])), unit(take(bank.vectors, theirs[some]))
    cosines = np.einsum("nd,nd->n", *pairs)
    return float((cosines >= SAME_COSINE).mean()) >= SAME_SHARE


def _any_text(text: Bank, bank: Bank) -> bool:
    """Whether a bank holds some of the text, under whatever key."""
    some = np.unique(np.linspace(0, len(text) - 1, min(len(text), MOST_COMPARED)).astype(int))
    return bool((RoughIndex(bank.vectors).find(take(text.vectors, some)) >= 0).any())
