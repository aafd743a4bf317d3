"""Real text: the bundled sample and three other kinds raise nothing blocking; plants are found."""

from __future__ import annotations

from pathlib import Path

import corpora
import numpy as np
import pytest
from planted import PLANTS, Parts, parts_of
from planted_suite import DATA_CODES, audit, blocking, codes, unrelated
from report_form import write_report_files

from lvm.audit.finding import Status
from lvm.audit.material import Material
from lvm.audit.open import open_material
from lvm.audit.run import run_checks
from lvm.core.config.run import RunConfig
from lvm.data.encoder import SentenceEncoder
from lvm.data.load import DataRequest
from lvm.data.sample import load_sample
from lvm.data.windows import Dataset, dataset_from_bank

pytestmark = pytest.mark.integration


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


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return corpora.encoder()


@pytest.mark.timeout(300)  # the encoder on one core of a busy machine
@pytest.mark.parametrize(
    "kind", [corpora.news, corpora.documentation, corpora.verse], ids=lambda kind: kind.__name__
)
def test_real_text_of_other_kinds_blocks_nothing(
    kind, encoder: SentenceEncoder, tmp_path: Path
) -> None:
    bank = corpora.embedded(kind, encoder, tmp_path / "bank")
    assert len(bank) > 400
    assert_quiet(as_report_files(dataset_from_bank(bank, 5), tmp_path))
