"""`lvm audit --encoder`: a few stored texts, embedded again."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from made import reported

from lvm.audit.finding import CheckResult, Finding, NotEvaluable, Severity, Status
from lvm.audit.material import EncoderRequest, Material
from lvm.audit.reembed import NUM_TEXTS, reembedded
from lvm.audit.run import run_checks
from lvm.audit.session import complete
from lvm.core.errors import DataError, UsageError
from lvm.data.bank import Bank
from lvm.data.corpus import Document, read_documents
from lvm.data.embed import embed_documents

reembedded = reported("SPACE_MISMATCH", reembedded)


@dataclasses.dataclass
class Stub:
    """An encoder whose vectors are drawn from a hash of the text."""

    name: str = "stub"
    width: int = 16
    limit: int | None = None

    def encode(self, texts: Sequence[str], batch_size: int) -> np.ndarray:
        rows = [self._row(text) for text in texts]
        return np.stack(rows).astype(np.float32)

    def _row(self, text: str) -> np.ndarray:
        seed = hashlib.sha256(f"{self.name}/{text}".encode()).digest()[:8]
        row = np.random.default_rng(int.from_bytes(seed)).standard_normal(self.width)
        return np.asarray(row / np.linalg.norm(row))

    def count(self, texts: Sequence[str]) -> Sequence[int] | None:
        return None


def documents(count: int = 12) -> list[Document]:
    sentences = [
        [f"Sentence {s} of text {d} says {d * s}. " * 3 for s in range(40)] for d in range(count)
    ]
    return [Document(f"Text {d}", " ".join(lines)) for d, lines in enumerate(sentences)]


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    return embed_documents(documents(), Stub(), tmp_path / "bank", progress=False)


@pytest.fixture(autouse=True)
def _stub(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> Stub:
        known = {"stub": Stub(), "other": Stub("other"), "wide": Stub("wide", 32)}
        if name not in known:
            raise DataError(f"the encoder {name} could not be loaded (offline).")
        return known[name]

    monkeypatch.setattr("lvm.audit.reembed.load_encoder", load)


def looked(bank: Bank, name: str, texts: Sequence[Document] | None = None) -> list[Finding]:
    request = EncoderRequest(name=name, documents=texts)
    return list(reembedded(Material(bank=bank, encoder=request)))


def test_the_encoder_of_the_bank_passes_by_name_and_by_manifest(bank: Bank) -> None:
    assert bank.manifest["embedder"] == "stub"
    assert looked(bank, "stub") == []
    assert looked(bank, "") == []
    assert looked(dataclasses.replace(bank, vectors=bank.vectors.astype(np.float16)), "") == []


def test_another_encoder_blocks_and_names_the_bank(bank: Bank) -> None:
    (finding,) = looked(bank, "other")
    assert finding.code == "SPACE_MISMATCH"
    assert finding.severity is Severity.BLOCK
    assert finding.where["input"] == "bank"
    assert finding.where["count"] == finding.where["of"] == NUM_TEXTS
    assert finding.values["share"] == 1.0


def test_articles_of_another_encoder_are_named(bank: Bank) -> None:
    texts = bank.load_texts()
    assert texts is not None
    vectors = np.array(bank.vectors)
    mine = np.isin(bank.articles, [2, 7])
    vectors[mine] = Stub("other").encode([t for t, m in zip(texts, mine, strict=True) if m], 8)
    (finding,) = looked(dataclasses.replace(bank, vectors=vectors), "stub")
    assert finding.where["articles"] == [2, 7]
    assert finding.severity is Severity.BLOCK


def test_an_encoder_of_another_width_blocks(bank: Bank) -> None:
    (finding,) = looked(bank, "wide")
    assert finding.severity is Severity.BLOCK
    assert "width 32" in finding.seen


def test_documents_stand_in_for_stored_texts_by_their_keys(bank: Bank) -> None:
    bare = dataclasses.replace(bank, load_texts=lambda: None)
    assert looked(bare, "stub", documents()) == []
    (finding,) = looked(bare, "stub", [*documents()[1:], documents()[0]])
    assert finding.values["share"] > 0.9  # another order of documents: other keys
    with pytest.raises(NotEvaluable):
        looked(bare, "stub")
    with pytest.raises(NotEvaluable):
        looked(dataclasses.replace(bare, keys=bank.keys + 1000), "stub", documents())


def _result(bank: Bank, name: str) -> CheckResult:
    material = Material(bank=bank, encoder=EncoderRequest(name=name))
    (found,) = run_checks(material, codes=["SPACE_MISMATCH"]).results
    return found


def test_an_encoder_that_cannot_be_loaded_is_not_a_pass(bank: Bank) -> None:
    found = _result(bank, "missing")
    assert found.status is Status.NOT_EVALUABLE
    assert "could not be loaded (offline)" in found.reason
    unnamed = dataclasses.replace(bank, manifest={})
    assert _result(unnamed, "").status is Status.NOT_EVALUABLE


def test_nothing_is_loaded_unless_an_encoder_is_named(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> Stub:
        raise AssertionError(name)

    monkeypatch.setattr("lvm.audit.reembed.load_encoder", refuse)
    assert list(reembedded(complete(Material(bank=bank)))) == []


def test_the_flags_make_a_request(bank: Bank, tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('{"title": "A", "text": "Some text."}\n', encoding="utf-8")
    request = complete(Material(bank=bank), encoder="stub", texts=file).encoder
    assert request == EncoderRequest(name="stub", documents=list(read_documents([file])))
    with pytest.raises(UsageError):
        complete(Material(bank=bank), texts=file)
    with pytest.raises(DataError):
        complete(Material(bank=bank), encoder="stub", texts=tmp_path / "none.jsonl")
