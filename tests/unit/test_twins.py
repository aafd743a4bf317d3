"""The same text under another id: found by likeness, blocked, and taken out by the repair."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from planted import clean

from lvm.audit.finding import Severity
from lvm.audit.open import open_material
from lvm.audit.repair import repair
from lvm.audit.run import run_checks
from lvm.audit.target_keys import copies_of_train
from lvm.core.config.run import RunConfig
from lvm.data.files import read_bank, write_bank
from lvm.data.load import DataRequest
from lvm.data.windows import dataset_from_bank

AGAIN = 1000  # what is added to the id of an article that is embedded again
CONFIG = RunConfig()


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def bank_with(folder: Path, again, noise: float = 0.0) -> Path:
    """Write the clean bank with some articles embedded again, each value off by so much."""
    bank = clean(0).bank
    vectors, keys = np.array(bank.vectors, dtype=np.float32), np.array(bank.keys)
    mine = np.isin(keys[:, 0], again)
    rng = np.random.default_rng(1)
    moved = vectors[mine] + noise * rng.standard_normal(vectors[mine].shape) / bank.width**0.5
    write_bank(
        folder,
        np.concatenate([vectors, unit(moved) if noise else vectors[mine]]),
        np.concatenate([keys, keys[mine] + [AGAIN, 0]]),
        {},
    )
    return folder


def material_of(folder: Path):
    return open_material(DataRequest(bank=folder), CONFIG)


def leaks(material):
    return list(run_checks(material, codes=("SPLIT_LEAK",)).findings)


def copied(dataset) -> set[int]:
    """Held-out articles whose twin is a train article."""
    train = {article % AGAIN for article in dataset.train.articles.tolist()}
    held_out = np.unique(np.concatenate([dataset.dev.articles, dataset.test.articles]))
    return {article for article in held_out.tolist() if article % AGAIN in train}


@pytest.mark.parametrize("noise", [0.0, 1e-3])
@pytest.mark.parametrize("share", [0.2, 1.0])
def test_articles_embedded_twice_block_and_the_repair_takes_them_out(tmp_path, noise, share):
    articles = np.unique(clean(0).bank.keys[:, 0])
    some = np.random.default_rng(0).choice(articles, int(share * len(articles)), replace=False)
    folder = bank_with(tmp_path / "bank", some, noise)
    material = material_of(folder)
    expected = copied(material.dataset)
    assert expected
    (finding,) = leaks(material)
    assert finding.severity is Severity.BLOCK
    assert finding.values["articles"] == len(expected)
    assert set(copies_of_train(material)[0].tolist()) == expected
    done = repair(material, tmp_path / "repaired")
    again = material_of(done.files["bank"])
    assert leaks(again) == []
    assert copied(again.dataset) == set()
    kept = set(np.unique(again.dataset.test.articles).tolist())
    assert kept <= set(np.unique(material.dataset.test.articles).tolist()) - expected


def test_a_bank_without_copies_has_none(tmp_path):
    material = material_of(bank_with(tmp_path / "bank", []))
    assert leaks(material) == []
    assert len(copies_of_train(material)[0]) == 0


def test_a_heading_that_all_articles_share_makes_no_copy(tmp_path):
    """Boilerplate in every third chunk is on both sides, and no article is another one."""
    bank = clean(0).bank
    vectors = np.array(bank.vectors, dtype=np.float32)
    vectors[bank.keys[:, 1] % 3 == 0] = vectors[0]
    write_bank(tmp_path / "bank", vectors, bank.keys, {})
    assert len(copies_of_train(material_of(tmp_path / "bank"))[0]) == 0


def test_the_repaired_split_is_stated(tmp_path):
    articles = np.unique(clean(0).bank.keys[:, 0])
    material = material_of(bank_with(tmp_path / "bank", articles[::3], 1e-3))
    bank = read_bank(repair(material, tmp_path / "repaired").files["bank"])
    dataset = dataset_from_bank(bank, CONFIG.recipe.context_length)
    for name in ("train", "dev", "test"):
        stated = set(bank.manifest["split"][name])
        assert set(np.unique(dataset.split(name).articles).tolist()) <= stated
