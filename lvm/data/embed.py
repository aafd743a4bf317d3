"""Chunks to vectors with any sentence-transformers encoder: the only door to that package.

    documents -> chunks -> sorted by length -> parts of 512 -> bank

Every finished part is kept in the folder OUT.parts, so that an interrupted run resumes where it
stopped and produces the same bytes. OUT itself appears at the end, by one rename.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from lvm.core.command import free_folder
from lvm.core.errors import DataError, ResumeError, UsageError
from lvm.core.files import whole_file, write_whole
from lvm.core.outside import parse_json
from lvm.data.bank import Bank
from lvm.data.corpus import Document, read_documents
from lvm.data.encoder import PROBES, Chunked, Encoder, Fitted, fit, load_encoder, token_counter
from lvm.data.files import read_bank, write_bank

MIN_PROBE_COSINE = 0.999


class Probe(TypedDict):
    """A fixed sentence, and its vector as an encoder gives it."""

    sentence: str
    vector: list[float]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the vectors are made by and from: only with the same does an interrupted run go on."""

    embedder: str
    probes: list[Probe]
    text_sha256: str
    batching: dict[str, int]  # batch_size and part_size
    dtype: str


def embed_files(
    files: Sequence[Path],
    model: str | Path,
    out: Path,
    *,
    batch_size: int = 64,
    dtype: str = "float32",
    skip: bool = False,
    progress: bool = True,
) -> Bank:
    """Chunk the files, embed every chunk with `model` and write the bank folder `out`.

    Article ids count the documents that have a chunk, from 0. Run it again after an interruption:
    it goes on. Raises what `read_documents`, `load_encoder` and `embed_documents` raise.
    """
    _require_free(out)
    documents = list(read_documents(files))
    manifest = {
        "source": [Path(file).name for file in files],
        "command": f"lvm embed {' '.join(Path(f).name for f in files)} --model {model}",
    }
    return embed_documents(
        documents,
        load_encoder(model),
        out,
        manifest=manifest,
        batch_size=batch_size,
        dtype=dtype,
        skip=skip,
        progress=progress,
    )


def embed_documents(
    documents: Iterable[Document],
    encoder: Encoder,
    out: Path,
    *,
    manifest: Mapping[str, object] | None = None,
    batch_size: int = 64,
    part_size: int = 512,
    dtype: str = "float32",
    compress_texts: bool = False,
    skip: bool = False,
    progress: bool = True,
) -> Bank:
    """Embed the chunks of `documents` into the bank folder `out`, in parts of `part_size` chunks.

    An `out` that already holds this bank is returned unchanged. What was left out or split is said
    on standard error and in the manifest; a document that cannot be embedded is left out where
    `skip` says so. Raises ResumeError when `out` or its parts come from another encoder or other
    text, DataError without chunks or for such a document, UsageError for a dtype other than float32
    and float16 or an `out` that holds something else.
    """
    _require_free(out)
    if dtype not in ("float32", "float16"):
        raise UsageError(f"dtype must be float32 or float16 (got {dtype!r}).")
    fitted = fit(documents, token_counter(encoder), encoder.limit, skip=skip)
    articles, chunks = fitted.documents, _chunks_of(fitted)
    job = Job(
        embedder=encoder.name,
        probes=_probe(encoder),
        text_sha256=_hash_texts(articles),
        batching={"batch_size": batch_size, "part_size": part_size},
        dtype=dtype,
    )
    if (out / "manifest.json").exists():
        _check_same_job(job, _read_json(out / "manifest.json"), out)
        return read_bank(out)
    parts = out.with_name(out.name + ".parts")
    _open_parts(parts, job)
    order = np.argsort([-len(chunk) for chunk in chunks], kind="stable")
    _embed_parts(parts, [chunks[i] for i in order], encoder, job, progress)
    write_bank(
        out,
        _gather(parts, order, job),
        _keys(articles),
        {**(manifest or {}), **vars(job), **fitted.for_manifest()},
        chunks,
        compress_texts=compress_texts,
    )
    shutil.rmtree(parts)
    return read_bank(out)


def _chunks_of(fitted: Fitted) -> list[str]:
    """Return the chunks of all documents; say on standard error what was left out or split."""
    for sentence in fitted.in_words():
        print(sentence, file=sys.stderr)
    chunks = [chunk for article in fitted.documents for chunk in article.chunks]
    if not chunks:
        raise DataError("the files hold no chunk; give longer documents.")
    return chunks


def _require_free(out: Path) -> None:
    """Refuse an `out` that holds something else than a bank, before any work (UsageError)."""
    if not (out / "manifest.json").exists():
        free_folder(out)


def _keys(documents: Sequence[Chunked]) -> np.ndarray:
    keys = [(a, c) for a, document in enumerate(documents) for c in range(len(document.chunks))]
    return np.array(keys, dtype=np.int32)


def _hash_texts(documents: Sequence[Chunked]) -> str:
    content = [[document.title, document.chunks] for document in documents]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _probe(encoder: Encoder) -> list[Probe]:
    vectors = encoder.encode(PROBES, len(PROBES))
    return [
        Probe(sentence=sentence, vector=[round(float(x), 6) for x in vector])
        for sentence, vector in zip(PROBES, vectors, strict=True)
    ]


# --- going on -------------------------------------------------------------------------------------


def _open_parts(parts: Path, job: Job) -> None:
    state = parts / "state.json"
    if state.exists():
        _check_same_job(job, _read_json(state), parts)
        return
    parts.mkdir(parents=True, exist_ok=True)
    write_whole(state, json.dumps(vars(job)))


def _check_same_job(job: Job, earlier: Mapping[str, object], where: Path) -> None:
    """Refuse to continue or overwrite a folder made with another encoder or from other text."""
    lowest = _lowest_probe_cosine(job.probes, earlier.get("probes", []))
    differences = {
        "the encoder": (earlier.get("embedder"), job.embedder),
        "the text": (str(earlier.get("text_sha256"))[:12], job.text_sha256[:12]),
        "the batching": (earlier.get("batching"), job.batching),
        "the dtype": (earlier.get("dtype"), job.dtype),
    }
    for what, (before, now) in differences.items():
        if before != now:
            raise ResumeError(
                f"{where}: {what} changed from {before} to {now}; use another folder for --out, "
                "or delete this one."
            )
    if lowest < MIN_PROBE_COSINE:
        raise ResumeError(
            f"{where}: made with a different encoder of the same name (cosine {lowest:.3f} on a "
            f"probe sentence, expected at least {MIN_PROBE_COSINE}); use another folder for "
            "--out, or delete this one."
        )


def _lowest_probe_cosine(probes: Sequence[Probe], earlier: object) -> float:
    now = np.array([probe["vector"] for probe in probes])
    try:
        stated = earlier if isinstance(earlier, list) else []
        before = np.array([probe["vector"] for probe in stated], dtype=np.float64)
    except (TypeError, KeyError, ValueError):
        return -1.0
    return float((now * before).sum(axis=1).min()) if now.shape == before.shape else -1.0


def _embed_parts(
    parts: Path, chunks: Sequence[str], encoder: Encoder, job: Job, progress: bool
) -> None:
    part_size, width = job.batching["part_size"], len(job.probes[0]["vector"])
    with _progress_bar(sum(map(len, chunks)), progress) as advance:
        for start in range(0, len(chunks), part_size):
            texts = chunks[start : start + part_size]
            path = parts / f"{start // part_size:06d}.npy"
            if not _is_whole(path, (len(texts), width)):
                vectors = encoder.encode(texts, job.batching["batch_size"]).astype(job.dtype)
                with whole_file(path) as file:
                    np.save(file, vectors, allow_pickle=False)
            advance(sum(map(len, texts)))


def _is_whole(path: Path, shape: tuple[int, int]) -> bool:
    """Tell whether a part is there and undamaged; otherwise it is embedded again."""
    try:
        return bool(np.load(path, mmap_mode="r").shape == shape)
    except (ValueError, OSError, EOFError):
        return False


def _gather(parts: Path, order: np.ndarray, job: Job) -> np.ndarray:
    """Return all vectors in the order of the chunks, memory-mapped: a large bank need not fit."""
    part_size = job.batching["part_size"]
    vectors = np.lib.format.open_memmap(
        parts / "vectors.npy",
        mode="w+",
        dtype=job.dtype,
        shape=(len(order), len(job.probes[0]["vector"])),
    )
    for start in range(0, len(order), part_size):
        part = np.load(parts / f"{start // part_size:06d}.npy")
        vectors[order[start : start + part_size]] = part
    return np.asanyarray(vectors)


def _read_json(path: Path) -> dict[str, object]:
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ResumeError(f"{path} is not a file of lvm embed (a JSON object); delete its folder.")
    return value


@contextmanager
def _progress_bar(total: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """Yield a function that advances a bar on stderr by a number of characters."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("embedding"), BarColumn(), TextColumn("{task.percentage:.0f} %"))
    console = Console(stderr=True)
    with Progress(
        *columns, TimeRemainingColumn(), TextColumn("left"), console=console, disable=not shown
    ) as bar:
        task = bar.add_task("embedding", total=total)
        yield lambda characters: bar.advance(task, characters)
