"""Banks on disk: a folder, or one `.npz`.

folder/vectors.npy      [N, D] float16 or float32, memory-mapped
folder/keys.npy         [N, 2] int32: article, chunk
folder/manifest.json    count, width, norm, sha256 per file, and what the writer knows
folder/texts.jsonl      optional, one {"article", "chunk", "text"} per row; may end in .gz
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from lvm.core.errors import DataError, SchemaError
from lvm.core.outside import MAX_TEXT_BYTES, listed, parse_json, read_text, regular
from lvm.data.bank import Bank, check_vectors
from lvm.data.keys import as_keys
from lvm.data.manifest import check_manifest, json_object, stated_hashes
from lvm.data.npz import MAGIC, check_exists, kind_of, map_npy, open_npz, sibling, sync
from lvm.data.other_banks import read_other_bank

TEXT_FILES = ("texts.jsonl", "texts.jsonl.gz")
MOST_SIGNS = 100_000  # of a line of texts, on average


def read_bank(path: Path, *, check_sha256: bool = False, check_counts: bool = True) -> Bank:
    """Read a bank from a folder or a `.npz`; vectors stay on disk, memory-mapped.

    Count and width of the manifest are compared with the arrays unless the caller does so itself
    (`check_counts`); the hashes of a folder's files only with `check_sha256`, because that reads
    all of them. Raises DataError on a missing file, a broken format, or a disagreement.
    """
    check_exists(path)
    if not path.is_dir():
        return read_other_bank(path) or _read_npz_bank(path, check_counts)
    manifest = _read_manifest(path / "manifest.json")
    vectors, keys = map_npy(path / "vectors.npy"), np.array(map_npy(path / "keys.npy"))
    keys = as_keys(keys, str(path))
    if check_counts:
        _check_manifest(manifest, vectors, str(path))
    if check_sha256:
        _check_hashes(path, manifest)
    load_texts = functools.partial(_load_texts, path, len(vectors))
    return Bank(vectors, keys, manifest, load_texts, str(path))


def write_bank(
    folder: Path,
    vectors: np.ndarray,
    keys: np.ndarray,
    manifest: Mapping[str, object],
    texts: Sequence[str] | None = None,
    *,
    compress_texts: bool = False,
) -> None:
    """Write a bank folder, or nothing if that fails.

    `vectors` [N, D] float16 or float32 (may be memory-mapped), `keys` [N, 2] integers, `texts` N
    strings. The manifest gets `count`, `width`, `norm` (lowest and highest), `dtype` and `sha256`
    (by file name). Raises DataError on NaN, infinite or zero vectors, on lengths that differ, on
    keys beyond int32, and on a folder that already has content.
    """
    bank = Bank(vectors, as_keys(keys, str(folder)), manifest, source=str(folder))
    check_vectors(bank.vectors, bank.source)
    if texts is not None and len(texts) != len(bank):
        raise DataError(
            f"{folder}: {len(texts)} texts for {len(bank)} vectors; give one text per vector."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists; choose a new or empty folder.")
    temporary = sibling(folder)
    temporary.mkdir()
    try:
        _write_arrays(temporary, bank)
        if texts is not None:
            _write_texts(temporary / TEXT_FILES[compress_texts], bank.keys, texts)
        _write_manifest(temporary, bank)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_provenance(arrays: Mapping[str, np.ndarray], source: str) -> dict[str, object]:
    """Return the JSON object in the member `provenance` of a `.npz`, empty when there is none."""
    if "provenance" not in arrays:
        return {}
    array = arrays["provenance"]
    if array.nbytes > MAX_TEXT_BYTES:
        raise DataError(
            f"{source}, member provenance has {array.nbytes / 2**20:.0f} MiB, at most "
            f"{MAX_TEXT_BYTES >> 20} are read; write it again."
        )
    if array.dtype == np.uint8:  # text as raw bytes
        text = array.tobytes().decode(errors="replace")
    elif array.size == 1 and array.dtype.kind in "US":
        item = array.reshape(-1)[0]
        text = item.decode(errors="replace") if isinstance(item, bytes) else str(item)
    else:
        text = ""
    return json_object(text, f"{source}, member provenance")


def _read_npz_bank(path: Path, check_counts: bool) -> Bank:
    kind = kind_of(path)
    if kind not in (None, MAGIC[b"PK"]):
        raise DataError(
            f"{path} is {kind}, not a bank; give a folder from lvm embed, a .npz with vectors "
            "and keys, a Parquet file, or vectors.npy with keys.npy in the same folder."
        )
    arrays = open_npz(path)
    for name in ("vectors", "keys"):
        if name not in arrays:
            raise SchemaError(
                f"{path} has the members {listed(sorted(arrays)) or 'none'}, a bank needs "
                "vectors and keys",
                "give a bank (windows go to --train and --eval).",
            )
    vectors, keys = arrays["vectors"], as_keys(np.array(arrays["keys"]), str(path))
    if vectors.dtype == np.float64:  # NumPy's default type; no embedder has that precision
        vectors = vectors.astype(np.float32)
    provenance = read_provenance(arrays, str(path))
    check_manifest(provenance, f"{path}, member provenance")
    if check_counts:
        _check_manifest(provenance, vectors, str(path))
    return Bank(vectors, keys, provenance, source=str(path))


# --- manifest -------------------------------------------------------------------------------------


def _read_manifest(path: Path) -> dict[str, object]:
    check_exists(path)
    try:
        text = read_text(path, errors="replace")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); give a bank.") from None
    manifest = json_object(text, str(path))
    check_manifest(manifest, str(path))
    return manifest


def _check_manifest(manifest: Mapping[str, object], vectors: np.ndarray, source: str) -> None:
    for key, seen in zip(("count", "width"), vectors.shape, strict=False):
        if key in manifest and manifest[key] != seen:
            raise DataError(
                f"{source}: the manifest says {key} {manifest[key]}, but the vectors have "
                f"{seen}; the files belong to different banks: write the bank again."
            )


def _check_hashes(folder: Path, manifest: Mapping[str, object]) -> None:
    for name, wanted in stated_hashes(manifest).items():
        seen = _sha256(folder / name)
        if seen != wanted:
            raise DataError(
                f"{folder / name} has sha256 {seen[:12]}, but the manifest says "
                f"{wanted[:12]}; the file is damaged or has changed: copy or write the "
                "bank again."
            )


def _sha256(path: Path) -> str:
    check_exists(path)
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _write_manifest(folder: Path, bank: Bank) -> None:
    norms = np.concatenate(
        [
            np.linalg.norm(bank.rows(slice(start, start + 16384)), axis=1)
            for start in range(0, len(bank), 16384)
        ]
    )
    manifest = {
        **bank.manifest,
        "count": len(bank),
        "width": bank.width,
        "dtype": str(bank.vectors.dtype),
        "norm": {"lowest": round(float(norms.min()), 6), "highest": round(float(norms.max()), 6)},
        "sha256": {file.name: _sha256(file) for file in sorted(folder.iterdir())},
    }
    with (folder / "manifest.json").open("w", encoding="utf-8") as handle:
        json.dump(manifest, handle, indent=1, ensure_ascii=False)
        sync(handle)


# --- arrays and texts -----------------------------------------------------------------------------


def _write_arrays(folder: Path, bank: Bank) -> None:
    for name, array in (("vectors.npy", bank.vectors), ("keys.npy", bank.keys)):
        with (folder / name).open("wb") as handle:
            np.save(handle, array, allow_pickle=False)
            sync(handle)


def _write_texts(path: Path, keys: np.ndarray, texts: Sequence[str]) -> None:
    lines = (
        json.dumps({"article": a, "chunk": c, "text": text}) + "\n"
        for (a, c), text in zip(keys.tolist(), texts, strict=True)
    )
    data = "".join(lines).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data, mtime=0)  # no time inside: equal texts give equal files
    with path.open("wb") as handle:
        handle.write(data)
        sync(handle)


def _load_texts(folder: Path, count: int) -> list[str] | None:
    path = next((folder / name for name in TEXT_FILES if (folder / name).exists()), None)
    if path is None:
        return None
    opener = gzip.open if path.suffix == ".gz" else open
    texts: list[str] = []
    try:
        with opener(regular(path), "rt", encoding="utf-8") as handle:
            for line in _lines(handle, count):
                texts.append(str(parse_json(line)["text"]))
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} line {len(texts) + 1} is not a JSON object with a text "
            f"({type(error).__name__}: {error}); write it again."
        ) from None
    if len(texts) != count:
        raise DataError(f"{path} has {len(texts)} texts for {count} vectors; write it again.")
    return texts


def _lines(handle: IO[str], count: int) -> Iterator[str]:
    """Yield at most one line more than there should be; a packed file may hold any number of signs.

    Raises ValueError where they are more than texts have.
    """
    left = MOST_SIGNS * (count + 16)
    for _ in range(count + 1):
        line = handle.readline(left + 1)
        left -= len(line)
        if left < 0:
            raise ValueError(f"more than {MOST_SIGNS:,} characters per text")
        if not line:
            return
        yield line
