"""Banks of other programs are read, and files that are none are named by what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from lvm.core.errors import DataError
from lvm.data.files import read_bank, write_bank
from lvm.data.npz import kind_of, open_npz
from lvm.data.payload import read_payload

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

N, D = 12, 8
VECTORS = np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)
KEYS = np.array([(i // 4, i % 4) for i in range(N)])
TEXTS = [f"text {i}" for i in range(N)]


def table(**changes):
    columns = {
        "vector": list(VECTORS),
        "article": KEYS[:, 0],
        "chunk": KEYS[:, 1],
        "text": TEXTS,
    }
    return pa.table({k: v for k, v in {**columns, **changes}.items() if v is not None})


def written(path: Path, **changes) -> Path:
    parquet.write_table(table(**changes), path)
    return path


@pytest.mark.parametrize("read", [read_bank, read_payload])
@pytest.mark.parametrize("size", [-1, D], ids=["lists", "fixed lists"])
def test_a_parquet_file_is_a_bank(tmp_path: Path, read, size: int):
    vectors = pa.array(list(VECTORS), type=pa.list_(pa.float32(), size))
    bank = read(written(tmp_path / "bank.parquet", vector=vectors))
    np.testing.assert_array_equal(bank.vectors, VECTORS)
    np.testing.assert_array_equal(bank.keys, KEYS)
    assert bank.load_texts() == TEXTS
    write_bank(tmp_path / "bank", bank.vectors, bank.keys, {}, bank.load_texts())
    assert len(read_bank(tmp_path / "bank")) == N


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vector": None}, "rename or add vector"),
        ({"article": None, "chunk": None}, "rename or add article and chunk"),
        ({"vector": [*VECTORS[:-1], VECTORS[-1][:3]]}, "differ in length"),
        ({"vector": TEXTS}, "are not lists of numbers"),
        ({"article": KEYS[:, 0] + 0.5}, "must be whole numbers"),
    ],
)
def test_a_parquet_file_that_is_no_bank_says_what_is_missing(tmp_path, changes, words: str):
    with pytest.raises(DataError, match=words) as raised:
        read_bank(written(tmp_path / "bank.parquet", **changes))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("keys", ["keys.npy", "v.keys.npy"])
def test_a_pair_of_arrays_is_a_bank(tmp_path: Path, keys: str):
    np.save(tmp_path / "v.npy", VECTORS.astype(np.float64))
    with pytest.raises(DataError, match=r"into v\.keys\.npy or keys\.npy"):
        read_bank(tmp_path / "v.npy")
    np.save(tmp_path / keys, KEYS)
    bank = read_bank(tmp_path / "v.npy")
    np.testing.assert_array_equal(bank.vectors, VECTORS)
    np.testing.assert_array_equal(bank.keys, KEYS)


def test_files_that_are_no_bank_are_named(tmp_path: Path):
    safetensors.numpy.save_file({"vectors": VECTORS}, tmp_path / "a.safetensors")
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 500)
    (tmp_path / "a.gz").write_bytes(b"\x1f\x8b" + b"\0" * 50)
    named = {"a.safetensors": "a safetensors file", "a.h5": "an HDF5 file", "a.gz": "gzip"}
    for name, words in named.items():
        for read in (read_bank, read_payload):
            with pytest.raises(DataError, match=words):
                read(tmp_path / name)
    written(tmp_path / "a.parquet")
    np.save(tmp_path / "a.npy", VECTORS)
    for name, words in {**named, "a.parquet": "Parquet", "a.npy": "a single array"}.items():
        with pytest.raises(DataError, match=words):
            open_npz(tmp_path / name)
    (tmp_path / "text").write_text("just text")
    assert kind_of(tmp_path / "text") is None
    assert kind_of(tmp_path / "none") is None
