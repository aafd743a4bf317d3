"""Chunks to vectors with any sentence-transformers encoder: the only door to that package.

    documents -> chunks -> sorted by length -> parts of 512 -> bank

Every finished part is kept in the folder OUT.parts, so that an interrupted run goes on where it
stopped and ends in the same bytes. OUT itself appears at the end, by one rename.
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
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from lvm.command import free_folder
from lvm.data.bank import Bank
from lvm.data.corpus import Document, read_documents
from lvm.data.files import read_bank, write_bank
from lvm.data.fit import Chunked, Count, fit
from lvm.errors import DataError, MissingExtraError, ResumeError, UsageError
from lvm.files import whole_file, write_whole
from lvm.outside import parse_json

# Two encoders with the same name may still differ (another revision, pooling or precision). Their
# vectors of these sentences tell.
PROBES = (
    "The cat slept on the warm windowsill all afternoon.",
    "Interest rates rose by a quarter of a percentage point.",
    "Mitochondria produce most of the chemical energy of a cell.",
    "She tuned the violin before the concert began.",
    "The treaty was signed in 1648 and ended thirty years of war.",
    "def add(a, b): return a + b",
    "Heavy rain flooded the lower part of the town.",
    "Why do birds fly south in winter?",
)
MIN_PROBE_COSINE = 0.999


class Encoder(Protocol):
    """What turns texts into vectors; `name` goes into the manifest."""

    @property
    def name(self) -> str:
        """Name of the model, for example sentence-transformers/gtr-t5-base."""

    def encode(self, texts: Sequence[str], batch_size: int) -> Float[np.ndarray, "N D"]:
        """Return one float32 unit vector per text."""

    @property
    def limit(self) -> int | None:
        """Tokens that are read of a text, without special ones; None where that is not known."""

    def count(self, texts: Sequence[str]) -> Sequence[int] | None:
        """Return each text's number of tokens, without special ones; None where unknown."""


@dataclass(frozen=True)
class SentenceEncoder:
    """A loaded sentence-transformers model."""

    name: str
    model: Any  # sentence_transformers.SentenceTransformer, which is imported lazily

    def encode(self, texts: Sequence[str], batch_size: int) -> Float[np.ndarray, "N D"]:
        """Return one float32 unit vector per text."""
        vectors = self.model.encode(
            list(texts),
            batch_size=batch_size,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return np.asarray(vectors, dtype=np.float32)

    @property
    def limit(self) -> int | None:
        """Tokens that are read of a text, without special ones; None where that is not known."""
        length = getattr(self.model, "max_seq_length", None)
        return max(1, int(length) - len(self._ids([""])[0])) if length else None

    def count(self, texts: Sequence[str]) -> Sequence[int] | None:
        """Return each text's number of tokens, without special ones; None where unknown."""
        try:
            return [len(ids) for ids in self._ids(texts, special=False)]
        except (AttributeError, TypeError, ValueError):  # a tokenizer of another kind
            return None

    def _ids(self, texts: Sequence[str], special: bool = True) -> list[list[int]]:
        ids: list[list[int]] = self.model.tokenizer(
            list(texts), add_special_tokens=special, truncation=False, verbose=False
        )["input_ids"]
        return ids


def load_encoder(model: str | Path, *, name: str | None = None) -> SentenceEncoder:
    """Load a sentence-transformers model from a folder or, by name, from the hub or its cache.

    `name` is what the manifest says; by default the name as given or the name of the folder. Raises
    MissingExtraError without sentence-transformers, DataError when there is no such model.
    """
    folder = Path(model)
    local = folder.is_dir()
    if local and not (folder / "modules.json").is_file():
        raise DataError(
            f"{folder}: no modules.json, expected a folder saved by sentence-transformers; "
            "name such a folder or a model of the hub."
        )
    if not local and (folder.is_absolute() or str(model).startswith(".")):
        raise DataError(
            f"{folder}: no such folder, expected a folder saved by sentence-transformers or the "
            "name of a model of the hub; correct --model."
        )
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingExtraError("sentence-transformers", "embed", "embedding text") from error
    try:
        loaded = SentenceTransformer(str(model), local_files_only=local)
    # The hub, the tokenizer and the weights each fail with errors of their own, down to KeyError.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"the encoder {model} could not be loaded ({reason}), expected a folder or a name"
            " that is cached or can be downloaded; check it, or download the model and name "
            "its folder."
        ) from error
    # Some checkpoints are stored in half precision: the vectors must not depend on that.
    return SentenceEncoder(name or (folder.resolve().name if local else str(model)), loaded.float())


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
    manifest: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    part_size: int = 512,
    dtype: str = "float32",
    compress_texts: bool = False,
    skip: bool = False,
    progress: bool = True,
) -> Bank:
    """Embed the chunks of `documents` into the bank folder `out`, in parts of `part_size` chunks.

    An `out` that already holds this bank is returned as it is. What was left out or split is said
    on standard error and in the manifest; a document that cannot be embedded is left out where
    `skip` says so. Raises ResumeError when `out` or its parts come from another encoder or other
    text, DataError without chunks or for such a document, UsageError for a dtype other than float32
    and float16 or an `out` that holds something else.
    """
    _require_free(out)
    if dtype not in ("float32", "float16"):
        raise UsageError(f"dtype {dtype!r}, expected float32 or float16; choose one.")
    fitted = fit(documents, token_counter(encoder), encoder.limit, skip=skip)
    articles = fitted.documents
    for sentence in fitted.in_words():
        print(sentence, file=sys.stderr)
    chunks = [chunk for article in articles for chunk in article.chunks]
    if not chunks:
        raise DataError("no chunk in the files, expected at least one; give longer documents.")
    job = {
        "embedder": encoder.name,
        "probes": _probe(encoder),
        "text_sha256": _hash_texts(articles),
        "batching": {"batch_size": batch_size, "part_size": part_size},
        "dtype": dtype,
    }
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
        {**(manifest or {}), **job, **fitted.for_manifest()},
        chunks,
        compress_texts=compress_texts,
    )
    shutil.rmtree(parts)
    return read_bank(out)


def _require_free(out: Path) -> None:
    """Refuse an `out` that holds something else than a bank, before any work (UsageError)."""
    if not (out / "manifest.json").exists():
        free_folder(out)


def token_counter(encoder: Encoder) -> Count | None:
    """Return what counts the tokens of texts; None for an encoder that does not say."""
    if encoder.count(PROBES) is None:
        return None
    return lambda texts: encoder.count(texts) or ()


def _keys(documents: Sequence[Chunked]) -> np.ndarray:
    keys = [(a, c) for a, document in enumerate(documents) for c in range(len(document.chunks))]
    return np.array(keys, dtype=np.int32)


def _hash_texts(documents: Sequence[Chunked]) -> str:
    content = [[document.title, document.chunks] for document in documents]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _probe(encoder: Encoder) -> list[dict[str, Any]]:
    vectors = encoder.encode(PROBES, len(PROBES))
    return [
        {"sentence": sentence, "vector": [round(float(x), 6) for x in vector]}
        for sentence, vector in zip(PROBES, vectors, strict=True)
    ]


# --- going on -------------------------------------------------------------------------------------


def _open_parts(parts: Path, job: Mapping[str, Any]) -> None:
    state = parts / "state.json"
    if state.exists():
        _check_same_job(job, _read_json(state), parts)
        return
    parts.mkdir(parents=True, exist_ok=True)
    write_whole(state, json.dumps(job))


def _check_same_job(job: Mapping[str, Any], earlier: Mapping[str, Any], where: Path) -> None:
    """Refuse to go on in, or to overwrite, what was made from another encoder or other text."""
    lowest = _lowest_probe_cosine(job["probes"], earlier.get("probes", []))
    differences = {
        "the encoder": (earlier.get("embedder"), job["embedder"]),
        "the text": (str(earlier.get("text_sha256"))[:12], job["text_sha256"][:12]),
        "the batching": (earlier.get("batching"), job["batching"]),
        "the dtype": (earlier.get("dtype"), job["dtype"]),
    }
    for what, (before, now) in differences.items():
        if before != now:
            raise ResumeError(
                f"{where}: {what} has changed from {before} to {now}; use another "
                "folder for --out, or delete this one."
            )
    if lowest < MIN_PROBE_COSINE:
        raise ResumeError(
            f"{where}: made with another encoder of the same name (cosine {lowest:.3f} on a probe "
            f"sentence, expected at least {MIN_PROBE_COSINE}); use another folder for --out, or "
            "delete this one."
        )


def _lowest_probe_cosine(
    probes: Sequence[Mapping[str, Any]], earlier: Sequence[Mapping[str, Any]]
) -> float:
    now = np.array([probe["vector"] for probe in probes])
    try:
        before = np.array([probe["vector"] for probe in earlier], dtype=np.float64)
    except (TypeError, KeyError, ValueError):
        return -1.0
    return float((now * before).sum(axis=1).min()) if now.shape == before.shape else -1.0


def _embed_parts(
    parts: Path, chunks: Sequence[str], encoder: Encoder, job: Mapping[str, Any], progress: bool
) -> None:
    part_size, width = job["batching"]["part_size"], len(job["probes"][0]["vector"])
    with _progress_bar(sum(map(len, chunks)), progress) as advance:
        for start in range(0, len(chunks), part_size):
            texts = chunks[start : start + part_size]
            path = parts / f"{start // part_size:06d}.npy"
            if not _is_whole(path, (len(texts), width)):
                vectors = encoder.encode(texts, job["batching"]["batch_size"]).astype(job["dtype"])
                with whole_file(path) as file:
                    np.save(file, vectors, allow_pickle=False)
            advance(sum(map(len, texts)))


def _is_whole(path: Path, shape: tuple[int, int]) -> bool:
    """Tell whether a part is there and undamaged; otherwise it is embedded again."""
    try:
        return bool(np.load(path, mmap_mode="r").shape == shape)
    except (ValueError, OSError, EOFError):
        return False


def _gather(parts: Path, order: np.ndarray, job: Mapping[str, Any]) -> np.ndarray:
    """Return all vectors in the order of the chunks, memory-mapped: a large bank need not fit."""
    part_size = job["batching"]["part_size"]
    vectors = np.lib.format.open_memmap(
        parts / "vectors.npy",
        mode="w+",
        dtype=job["dtype"],
        shape=(len(order), len(job["probes"][0]["vector"])),
    )
    for start in range(0, len(order), part_size):
        part = np.load(parts / f"{start // part_size:06d}.npy")
        vectors[order[start : start + part_size]] = part
    return np.asanyarray(vectors)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ResumeError(
            f"{path}: not a JSON object, expected what lvm embed wrote; delete its folder."
        )
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
