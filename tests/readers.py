"""Every reader of files from outside, as the program calls it, with files that it reads."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import tiny
import torch
from report_form import load_any_checkpoint, write_window_file

from lvm.audit.loaded import as_trained, open_checkpoint
from lvm.core.config.plain import to_dict
from lvm.core.config.read import load_run_config
from lvm.core.config.run import RunConfig
from lvm.core.errors import CheckpointError, ConfigError, DataError, LvmError, ResumeError
from lvm.core.outside import regular
from lvm.data.bank import Bank, check_vectors
from lvm.data.corpus import read_documents
from lvm.data.files import read_bank, write_bank
from lvm.data.load import DataRequest, load_dataset
from lvm.data.npz import check_exists
from lvm.data.payload import read_payload
from lvm.data.pickled import KEY_NAMES, read_pickled
from lvm.data.window_files import read_window_file
from lvm.doctor.cluster_file import lint
from lvm.evaluation.foreign_index import read_index
from lvm.evaluation.predictions import read_predictions
from lvm.jobs.presets import preset
from lvm.models.predictor import Predictor
from lvm.training.checkpoint import load_checkpoint, load_optimizer_state, save_checkpoint
from lvm.training.manifest import Stated
from lvm.triage.journal import Journal, read_run
from lvm.triage.verdict import build_verdict
from lvm.views.status import status
from lvm.views.status.screen import screen

ROWS, WIDTH = 40, 16
RECIPE = tiny.recipe()
JOURNAL = Path(__file__).parent / "data" / "journal.jsonl"
ROOT = Path(__file__).resolve().parents[1]
CLUSTERS = [ROOT / name for name in ("cluster.yaml", "cluster-local.yaml", "kuberay-job.yaml")]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One reader: how its file is damaged, how it is read, and what it may refuse it with."""

    target: str  # the file that is damaged, in the folder of all files
    form: str  # of mutations.FORMATS
    read: Callable[[Path], object]  # of that file
    errors: tuple[type[LvmError], ...]
    samples: Callable[[Path], Sequence[bytes]] = lambda path: [path.read_bytes()]
    slow: bool = False  # each reading starts a process
    apart: bool = False  # the program reads it in a process of its own, which may end over it


# --- valid files ----------------------------------------------------------------------------------


def _vectors(rows: int = ROWS, seed: int = 0) -> np.ndarray:
    made = np.random.default_rng(seed).standard_normal((rows, WIDTH)).astype(np.float32)
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True))


def _keys(rows: int = ROWS) -> np.ndarray:
    return np.array([(row // 10, row % 10) for row in range(rows)], np.int32)


def write_files(folder: Path) -> None:
    """Write every valid file into a folder."""
    import pyarrow
    import pyarrow.parquet
    import safetensors.torch

    bank = tiny.bank()
    titles = {str(article): f"title {article}" for article in range(tiny.ARTICLES)}
    split = {"train": list(range(14)), "dev": list(range(14, 18)), "test": list(range(18, 24))}
    texts = [f"chunk {row}" for row in range(len(bank))]
    write_bank(folder / "bank", bank.vectors, bank.keys, {"titles": titles, "split": split}, texts)
    write_bank(folder / "zipped", bank.vectors, bank.keys, {}, texts, compress_texts=True)
    about = json.dumps({"count": len(bank), "width": tiny.WIDTH, "titles": titles})
    np.savez(folder / "bank.npz", vectors=bank.vectors, keys=bank.keys, provenance=np.array(about))
    contexts = _vectors(ROWS * 5).reshape(ROWS, 5, WIDTH)
    write_window_file(folder / "windows.npz", contexts, _vectors(), _keys(), {"num_windows": ROWS})
    np.save(folder / "predictions.npy", _vectors())
    np.save(folder / "vectors.npy", _vectors())
    np.save(folder / "keys.npy", _keys())
    entries = {
        row: (f"text {row}", dict(zip(KEY_NAMES, key, strict=True)), vector)
        for row, (key, vector) in enumerate(zip(_keys().tolist(), _vectors(), strict=True))
    }
    (folder / "payload.pkl").write_bytes(pickle.dumps(entries))
    np.save(folder / "payload.npy", np.array(entries, dtype=object), allow_pickle=True)
    predictor = Predictor(RECIPE, WIDTH)
    save_checkpoint(
        folder / "checkpoint",
        predictor,
        RECIPE,
        optimizer_state={"step": 3, "moments": []},
        stated=Stated(
            epoch=1,
            articles_seen=[1, 2],
            parents=[],
            bank="0" * 12,
            data="0" * 12,
            val_articles=[(1, 2)],
        ),
    )
    safetensors.torch.save_file(predictor.model.state_dict(), folder / "weights.safetensors")
    columns = {"vector": list(_vectors()), "article": _keys()[:, 0], "chunk": _keys()[:, 1]}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "bank.parquet")
    (folder / "index.faiss").write_bytes(_indices(folder)[0])
    long = "The river ran past the old mill and the people watched the water rise. " * 5
    lines = [{"title": "One", "text": long}, {"id": 2, "text": long}, {"text": long}]
    (folder / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pages = "".join(
        f"<page><title>T{n}</title><ns>0</ns><revision><text>'''T''' [[x|y]] {long}</text>"
        "</revision></page>\n"
        for n in range(3)
    )
    (folder / "dump.xml").write_text(f"<mediawiki>\n{pages}</mediawiki>\n")
    (folder / "recipe.json").write_text(json.dumps(_recipe()))
    (folder / "recipe.toml").write_text(_toml(_recipe()))
    (folder / "run").mkdir()
    (folder / "cluster.yaml").write_bytes(CLUSTERS[0].read_bytes())
    journal = Journal(folder / "run")
    for event in read_run(JOURNAL.parent):
        journal.append(event)
    torch.save(_report_checkpoint(predictor), folder / "report.pt")


def _report_checkpoint(predictor: Predictor) -> dict[str, Any]:
    head = {} if predictor.head is None else predictor.head.state_dict()
    args = {"d_model": 16, "temperature": 0.07, "lr": 1e-3, "epochs": 3, "batch_size": 64}
    return {
        "model_state_dict": predictor.model.state_dict(),
        "projection_head_state_dict": head,
        "args": args,
        "val_cosine": 0.5,
        "epoch": 3,
        "history": [{"loss": np.float64(1.0)}],
        "seen": {1, 2},
    }


def _recipe() -> dict[str, Any]:
    config = to_dict(tiny.config())
    config["recipe"]["negatives"].pop("false_negative_margin")  # TOML has no null
    return {**config.pop("recipe"), **config}


def _toml(recipe: dict[str, Any]) -> str:
    return "\n".join(_tables(recipe, "")) + "\n"


def _tables(values: dict[str, Any], name: str) -> list[str]:
    """Return the lines of a table and of those in it; TOML has no null."""
    known = {key: value for key, value in values.items() if value is not None}
    lines = [f"{k} = {json.dumps(v)}" for k, v in known.items() if not isinstance(v, dict)]
    for key, inner in known.items():
        if isinstance(inner, dict):
            lines += [f"[{name}{key}]", *_tables(inner, f"{name}{key}.")]
    return lines


def _indices(path: Path) -> Sequence[bytes]:
    import faiss

    vectors = _vectors(640)
    made = []
    for kind in ("Flat", "HNSW8", "IVF4,Flat", "IVF4,PQ4x4", "IDMap,Flat", "SQ8", "PCA8,Flat"):
        index = faiss.index_factory(WIDTH, kind, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        if kind.startswith("IDMap"):
            index.add_with_ids(vectors, np.arange(len(vectors)))
        else:
            index.add(vectors)
        made.append(faiss.serialize_index(index).tobytes())
    return made


# --- readings -------------------------------------------------------------------------------------


def _bank(path: Path) -> None:
    """Read a bank and look at all that its readers look at."""
    bank = read_bank(path)
    check_vectors(bank.vectors, bank.source)
    bank.titles()
    assert len(bank.fingerprint) == 12


def _folder(path: Path) -> None:
    bank = read_bank(path.parent, check_sha256=True)
    assert isinstance(bank, Bank)
    load_dataset(DataRequest(bank=path.parent), 5)
    bank.titles()


def _texts(path: Path) -> None:
    texts = read_bank(path.parent).load_texts()
    assert texts is None or all(isinstance(text, str) for text in texts)


def _windows(path: Path) -> None:
    file = read_window_file(path)
    assert len(file) == len(file.contexts)


def _payload(path: Path) -> None:
    check_exists(path)
    try:
        vectors, keys, texts = read_pickled(regular(path))
    except OSError as error:  # read_payload opens it first
        raise DataError(str(error)) from None
    assert len(vectors) == len(keys) == len(texts)


def _apart(path: Path) -> None:
    bank = read_payload(path)
    check_vectors(bank.vectors, bank.source)


def _checkpoint(path: Path) -> None:
    """Read a checkpoint folder as the audit does and as the evaluation does."""
    folder = path.parent
    part = open_checkpoint(folder, WIDTH, 5)
    as_trained(tiny.dataset(), part.manifest)
    load_checkpoint(folder)


def _foreign(path: Path) -> None:
    part = open_checkpoint(path, None, 5)
    json.dumps(msgspec.to_builtins(part.manifest))
    load_any_checkpoint(path, WIDTH, 5)


def _index(path: Path) -> None:
    index = read_index(path)
    if index.is_trained and index.size and index.width == WIDTH:
        ids, scores = index.search(torch.from_numpy(_vectors()), 3)
        assert ids.shape == scores.shape == (ROWS, 3)


def _journal(path: Path) -> None:
    events = read_run(path.parent)
    screen(status(events, path.parent, 1e9))
    build_verdict(events, resume="")


def _documents(path: Path) -> None:
    assert sum(len(document.chunks) for document in read_documents([path])) >= 0


def _config(path: Path) -> None:
    load_run_config(path, RunConfig())


DATA, CHECKPOINT = (DataError,), (CheckpointError, DataError)
READERS: dict[str, Reader] = {
    "npz windows": Reader(target="windows.npz", form="npz", read=_windows, errors=DATA),
    "npz bank": Reader(target="bank.npz", form="npz", read=_bank, errors=DATA),
    "npy vectors": Reader(target="vectors.npy", form="npy", read=_bank, errors=DATA),
    "npy keys": Reader(
        target="keys.npy",
        form="npy",
        errors=DATA,
        read=lambda path: _bank(path.with_name("vectors.npy")),
    ),
    "predictions": Reader(
        target="predictions.npy",
        form="npy",
        errors=DATA,
        read=lambda path: read_predictions(path, ROWS, WIDTH),
    ),
    "pickle": Reader(target="payload.pkl", form="pickle", read=_payload, errors=DATA, apart=True),
    "pickle npy": Reader(
        target="payload.npy", form="pickle", read=_payload, errors=DATA, apart=True
    ),
    "payload": Reader(target="payload.pkl", form="pickle", read=_apart, errors=DATA, slow=True),
    "pt": Reader(target="report.pt", form="pt", read=_foreign, errors=CHECKPOINT),
    "safetensors": Reader(
        target="weights.safetensors", form="safetensors", read=_foreign, errors=CHECKPOINT
    ),
    "weights": Reader(
        target="checkpoint/model.safetensors",
        form="safetensors",
        read=_checkpoint,
        errors=CHECKPOINT,
    ),
    "checkpoint": Reader(
        target="checkpoint/manifest.json", form="json", read=_checkpoint, errors=CHECKPOINT
    ),
    "moments": Reader(
        target="checkpoint/state.pt",
        form="pt",
        errors=CHECKPOINT,
        read=lambda path: load_optimizer_state(path.parent),
    ),
    "faiss": Reader(
        target="index.faiss", form="bytes", read=_index, errors=DATA, samples=_indices, slow=True
    ),
    "manifest": Reader(target="bank/manifest.json", form="json", read=_folder, errors=DATA),
    "texts": Reader(target="bank/texts.jsonl", form="lines", read=_texts, errors=DATA),
    "texts gz": Reader(target="zipped/texts.jsonl.gz", form="bytes", read=_texts, errors=DATA),
    "documents": Reader(target="texts.jsonl", form="lines", read=_documents, errors=DATA),
    "dump": Reader(target="dump.xml", form="text", read=_documents, errors=DATA),
    "toml": Reader(target="recipe.toml", form="text", read=_config, errors=(ConfigError,)),
    "json recipe": Reader(target="recipe.json", form="json", read=_config, errors=(ConfigError,)),
    "journal": Reader(
        target="run/journal.jsonl", form="lines", read=_journal, errors=(ResumeError,)
    ),
    "cluster": Reader(
        target="cluster.yaml",
        form="text",
        errors=DATA,
        read=lambda path: lint(path, preset("cluster").schedule),
        samples=lambda _: [path.read_bytes() for path in CLUSTERS],
    ),
    "parquet": Reader(target="bank.parquet", form="bytes", read=_bank, errors=DATA),
}
