"""Three texts to judge next-vector models on: the bundled one, verse, and technical text.

The bundled text has a test split. The others are small, so each of their articles is judged once,
by models trained on the other folds: nothing is chosen by these numbers but what the report says.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests")]  # the corpora are test data

import corpora  # noqa: E402  # found through the path above

from lvm.core.randomness import numpy_generator  # noqa: E402
from lvm.data.bank import Bank  # noqa: E402
from lvm.data.corpus import Document  # noqa: E402
from lvm.data.embed import embed_documents  # noqa: E402
from lvm.data.sample import load_sample  # noqa: E402
from lvm.data.windows import Dataset, article_windows, dataset_from_bank  # noqa: E402

CONTEXT_LENGTH = 5
FOLDS = 4
MIN_NEW = 0.8  # share of a document's chunks that no earlier document has


@dataclass(frozen=True, eq=False)
class Text:
    """A text and the datasets whose test splits are judged; together they judge a window once."""

    name: str
    split: str  # which windows are judged, in words
    datasets: list[Dataset]
    batch_size: int  # of the remedy; the small texts have fewer windows than the recipe's batch
    is_bundled: bool = False


def texts(folder: Path) -> Iterator[Text]:
    """Yield the three texts; banks that have to be embedded are kept in `folder`."""
    every = f"every article, {FOLDS}-fold cross-fitting"
    yield bundled_text()
    yield Text("verse", every, crossed(_embedded("verse", corpora.verse(), folder)), 32)
    technical = _embedded("technical", corpora.documentation(), folder)
    yield Text("technical text", every, crossed(technical), 64)


@functools.cache
def bundled_text() -> Text:
    """Return the bundled text with its own splits."""
    dataset = dataset_from_bank(load_sample(), CONTEXT_LENGTH)
    return Text("bundled text", "test split", [dataset], 256, is_bundled=True)


def crossed(bank: Bank) -> list[Dataset]:
    """Return a dataset per fold: its articles are test, the articles of the others train.

    The dev split, which a dataset must have and which decides nothing here, repeats the train
    split's first windows.
    """
    windows = article_windows(bank.keys, CONTEXT_LENGTH)
    articles = np.unique(windows.articles)
    order = numpy_generator(0, "benchmark", "folds").permutation(articles)
    datasets = []
    for fold in range(FOLDS):
        held = np.isin(windows.articles, order[fold::FOLDS])
        train = windows.select(~held)
        datasets.append(Dataset(bank, train, train.select(np.arange(8)), windows.select(held)))
    return datasets


def _embedded(name: str, documents: Iterator[Document], folder: Path) -> Bank:
    encoder = corpora.encoder()
    return embed_documents(_distinct(documents), encoder, folder / name, progress=False)


def _distinct(documents: Iterator[Document]) -> list[Document]:
    """Return the documents that are long enough for a window and mostly no copy of another."""
    seen: set[str] = set()
    kept = []
    for document in documents:
        new = sum(chunk not in seen for chunk in document.chunks)
        if len(document.chunks) > CONTEXT_LENGTH and new >= MIN_NEW * len(document.chunks):
            kept.append(document)
            seen.update(document.chunks)
    return kept
