"""The articles that a model has read, as a person states them.

    ids.txt        one article id on each line; # begins a comment; or the single word none
    ids.json       a list of article ids
    ids.npy        article ids [n], or keys [n, 2] of (article, chunk)
    a bank         folder, .npz, Parquet, or vectors.npy with keys: the articles in it
    windows.npz    the failure report's format with truth_keys: the articles of its targets

Ids are those of the bank that the model is judged in. Where the file holds vectors as well, these
are kept: the text itself says more than a number, which another bank may give to another article.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from lvm.core.errors import DataError
from lvm.core.outside import brief, parse_json, read_text
from lvm.data.bank import Bank
from lvm.data.files import read_bank
from lvm.data.keys import as_keys
from lvm.data.npz import ARRAY, MAGIC, PARQUET, check_exists, kind_of, map_npy, open_npz
from lvm.data.window_files import open_window_file

NONE = "none"  # stands for the statement that nothing of the bank was read
HOW = (
    "put one article id on each line, or only the word none if the model has read nothing from "
    "the evaluation bank"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class SeenArticles:
    """The articles that a model is stated to have read."""

    source: str
    articles: Int[np.ndarray, " a"]  # rising ids, each once; none is a statement too
    text: Bank | None = None  # the chunks behind them, where the file holds their vectors

    @functools.cached_property
    def fingerprint(self) -> str:
        """Return 12 hex digits that name the statement, whatever file it stands in."""
        digest = hashlib.sha256(self.articles.astype("<i8").tobytes())
        digest.update(b"" if self.text is None else self.text.fingerprint.encode())
        return digest.hexdigest()[:12]


def read_seen(path: Path) -> SeenArticles:
    """Read a statement of the articles that a model has read.

    Raises DataError for a file that is missing, unreadable, of another format, or names no article.
    """
    check_exists(path)
    kind = "a folder" if path.is_dir() else kind_of(path)
    if kind == ARRAY and map_npy(path).dtype.kind in "iu":
        return _of_ids(path, _articles_of(np.array(map_npy(path)), path))
    if kind in ("a folder", ARRAY, PARQUET):
        return _of_text(path, read_bank(path))
    if kind == MAGIC[b"PK"]:
        return _of_npz(path)
    if kind is not None:
        raise DataError(f"{path} is {kind}, which names no articles. In a text file, {HOW}.")
    return _of_ids(path, _listed_in(path))


def _of_ids(path: Path, ids: Iterable[int]) -> SeenArticles:
    articles = np.unique(np.fromiter(ids, np.int64))
    return SeenArticles(source=str(path), articles=articles)


def _of_text(path: Path, bank: Bank) -> SeenArticles:
    articles = np.unique(bank.articles).astype(np.int64)
    return SeenArticles(source=str(path), articles=articles, text=bank)


def _of_npz(path: Path) -> SeenArticles:
    arrays = open_npz(path)
    if "vectors" in arrays:
        return _of_text(path, read_bank(path))
    if "truth_keys" in arrays and {"targets", "target_vectors"} & set(arrays):
        file = open_window_file(path)
        vectors = np.asarray(file.targets)
        if vectors.dtype == np.float64:
            vectors = vectors.astype(np.float32)
        assert file.truth_keys is not None  # it is a member
        return _of_text(path, Bank(vectors, file.truth_keys, source=str(path)))
    name = next((n for n in ("truth_keys", "keys", "articles") if n in arrays), None)
    if name is None:
        raise DataError(
            f"{path} has neither keys, truth_keys nor articles. Give a bank, windows with "
            "truth_keys, or a text file of article ids."
        )
    return _of_ids(path, _articles_of(np.array(arrays[name]), path))


def _articles_of(numbers: np.ndarray, path: Path) -> Int[np.ndarray, " n"]:
    """Return the articles in an array of ids [n] or of keys [n, 2]."""
    if numbers.dtype.kind not in "iu" or numbers.shape not in ((numbers.size,), (len(numbers), 2)):
        raise DataError(
            f"{path} holds an array of shape {numbers.shape} and type {numbers.dtype}; give "
            "article ids as whole numbers [n], or keys as whole numbers [n, 2]."
        )
    if numbers.size == 0:
        raise DataError(f"{path} names no article. In a text file, {HOW}.")
    return np.asarray(as_keys(numbers.reshape(len(numbers), -1), str(path))[:, 0], np.int64)


def _listed_in(path: Path) -> list[int]:
    """Return the ids in a JSON list or on the lines of a text file."""
    try:
        text = read_text(path, errors="strict")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text ({error}). In it, {HOW}.") from None
    if text.lstrip().startswith("["):
        return _in_json(path, text)
    lines = [(i, line.split("#")[0].strip()) for i, line in enumerate(text.splitlines(), start=1)]
    words = [(number, word) for number, word in lines if word]
    if [word.lower() for _, word in words] == [NONE]:
        return []
    if not words:
        raise DataError(f"{path} names no article. In it, {HOW}.")
    return [_id(word, f"{path} line {number}") for number, word in words]


def _in_json(path: Path, text: str) -> list[int]:
    try:
        items = parse_json(text)
    except ValueError as error:
        raise DataError(f"{path} is not a JSON list ({error}). In a text file, {HOW}.") from None
    if not items:
        raise DataError(f"{path} names no article. In a text file, {HOW}.")
    return [
        _id(item if type(item) is int else brief(item), f"{path} item {number}")
        for number, item in enumerate(items, start=1)
    ]


def _id(word: str | int, where: str) -> int:
    """Return an article id, which a key of 32 bits holds."""
    try:
        number = int(word)
    except ValueError:
        number = 2**31
    if not -(2**31) <= number < 2**31:
        raise DataError(f"{where} must be an article id, a whole number (got {brief(word)}).")
    return number
