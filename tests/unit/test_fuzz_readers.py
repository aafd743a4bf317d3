"""Whatever stands in a file, its reader reads it or refuses it in one sentence."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import fuzz_readers
import mutations
import numpy as np
import pytest
import torch
from readers import READERS, write_files

from lvm.core.errors import DataError, ExitStatus
from lvm.core.randomness import torch_generator
from lvm.evaluation.foreign_index import read_index
from lvm.evaluation.index import build_index
from lvm.training.extent import check_extent

pytestmark = pytest.mark.timeout(300)
FUZZ = Path(__file__).parents[1] / "fuzz_readers.py"
COUNT = 40  # damaged files of each reader
SECONDS = 280  # on a machine that much else runs on; a minute of it is enough


@pytest.fixture(scope="module")
def answered():
    """The outcomes of a fixed set of damaged files, by reader."""
    done = subprocess.run(
        [sys.executable, FUZZ, "--seed", "0", "--count", str(COUNT), "--depth", "1"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", READERS)
def test_every_damaged_file_is_read_or_refused(name: str, answered) -> None:
    ends = answered["ends"][name]
    assert [wrong for wrong in answered["wrong"] if wrong["reader"] == name] == []
    assert ends["read"] >= 1  # the file as it is
    assert ends["refused"] >= 5


# --- what damaged files once did ------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("valid")
    write_files(made)
    return made


def _member(name: str, header: bytes) -> bytes:
    """The windows with another array in the place of one."""
    return mutations.zipped([(f"{name}.npy", header)], 0)


def _spanning_disks(valid: bytes) -> bytes:
    locator = valid.rindex(b"PK\x06\x07")
    return valid[: locator + 16] + b"\x07" + valid[locator + 17 :]


def _with_pickle(valid: bytes, pickled: bytes) -> bytes:
    """A file of torch.save with another pickle inside."""
    with zipfile.ZipFile(io.BytesIO(valid)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    return mutations.zipped(
        [(name, pickled if name.endswith("data.pkl") else data) for name, data in members], 0
    )


def _packed(valid: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(valid)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    return mutations.zipped(members, zipfile.ZIP_DEFLATED)


def _unsealed(valid: bytes, **changes: object) -> bytes:
    """A journal of an earlier version, without checksums, whose first event says something else."""
    first, *rest = (json.loads(line) for line in valid.splitlines())
    events = [{**first, **changes}, *rest]
    return b"".join(
        json.dumps({k: v for k, v in event.items() if k != "sum"}).encode() + b"\n"
        for event in events
    )


HEADER = mutations.npy_header
CASES: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "a shape of booleans": ("npz windows", lambda _: _member("targets", HEADER("<U1", 0, (True,)))),
    "a header of digits": ("npy vectors", lambda _: b"\x93NUMPY\x02\0(#\0\0" + b"9" * 9000),
    "a type of 500 fields": (
        "npy vectors",
        lambda _: HEADER("f4," * 499 + "f4", False, (3,), version=2),
    ),
    "a name of 6,000 signs": ("npz windows", lambda _: mutations.zipped([("a/" * 3000, b"")], 0)),
    "predictions as a zip that is cut": ("predictions", lambda _: b"PK\x03\x04" + bytes(40)),
    "a zip of several disks": ("pt", _spanning_disks),
    "a zip of several disks beside a checkpoint": ("moments", _spanning_disks),
    "a tuple of tuples as a key": (
        "pt",
        lambda v: _with_pickle(v, b"\x80\x02}" + mutations.nested_tuples() + b"K\x01s."),
    ),
    "lists of lists ten levels down": (
        "pt",
        lambda v: _with_pickle(v, b"\x80\x02" + _nested_lists() + b"."),
    ),
    "a tuple 20,000 levels down": (
        "pt",
        lambda v: _with_pickle(v, b"\x80\x02})" + b"\x85" * 20_000 + b"K\x01s."),
    ),
    "a list in itself": ("pt", lambda v: _with_pickle(v, b"\x80\x02]q\x07h\x07a.")),
    "bytes by their number": (
        "pt",
        lambda v: _with_pickle(v, b"\x80\x02cbuiltins\nbytearray\nJ\0\0\0\x7f\x85R."),
    ),
    "weights that are packed": ("pt", _packed),
    "weights of a type that torch has not": (
        "weights",
        lambda v: v.replace(b'"dtype":"F32"', b'"dtype":"F4" ', 1),
    ),
    "texts packed by a damaged gzip": ("texts gz", lambda v: v[:20] + bytes(8) + v[28:]),
    "texts in UTF-16": ("texts", lambda v: v.decode().encode("utf-16")),
    "a text that is endless": ("texts", lambda _: b'{"text": "' + b"x" * (60 << 20)),
    "a key of 5,000 digits": ("toml", lambda v: b"9" * 5000 + b" = 1\n" + v),
    "a value of 5,000 signs": ("json recipe", lambda _: b'{"seed": "' + b"9" * 5000 + b'"}'),
    "an event that is a dictionary": ("journal", lambda v: _unsealed(v, event={})),
    "an event at no time": ("journal", lambda v: _unsealed(v, at="")),
    "an event after the end of time": ("journal", lambda v: _unsealed(v, at=float("inf"))),
    "a number in an event that was changed": (
        "journal",
        lambda v: v.replace(b'"eval_cosine": 0.', b'"eval_cosine": 9.', 1),
    ),
    "a FAISS vector of 2^40 numbers": ("faiss", lambda v: v[:37] + _eight(2**40 - 1) + v[45:]),
    "a FAISS index with -1 rows": ("faiss", lambda v: v[:8] + _eight(2**64 - 1) + v[16:]),
}


def _eight(number: int) -> bytes:
    return number.to_bytes(8, "little")


def _nested_lists() -> bytes:
    code = b"]q\x00"
    for level in range(10):
        code += b"0](" + (b"h" + bytes([level])) * 10 + b"eq" + bytes([level + 1])
    return code


@pytest.mark.parametrize("case", CASES)
def test_what_went_wrong_before_is_refused(case: str, folder: Path) -> None:
    name, damage = CASES[case]
    reader, path = READERS[name], folder / READERS[name].target
    valid = path.read_bytes()
    damaged = damage(valid)
    assert damaged != valid
    try:
        path.write_bytes(damaged)
        with pytest.raises(reader.errors) as raised:
            reader.read(path)
    finally:
        path.write_bytes(valid)
    assert len(str(raised.value)) < fuzz_readers.LONGEST_SENTENCE
    assert raised.value.exit_status == ExitStatus.USAGE


# --- FAISS, in a process that may end -------------------------------------------------------------


def test_a_search_that_ends_its_process_is_refused_and_so_is_the_next(folder: Path) -> None:
    index = read_index(folder / "index.faiss")
    queries = torch.ones(3, index.width)
    ids, scores = index.search(queries, 4)
    assert ids.shape == scores.shape == (3, 4)
    assert (np.diff(scores, axis=1) <= 0).all()
    index._process.kill()
    for _ in range(2):
        with pytest.raises(DataError, match="FAISS crashed on it with SIGKILL"):
            index.search(queries, 4)


def test_an_index_in_another_process_finds_what_one_in_this_process_finds(tmp_path: Path) -> None:
    import faiss

    vectors = torch.nn.functional.normalize(torch.randn(300, 8, generator=torch_generator(0, "x")))
    flat = faiss.IndexFlatIP(8)
    flat.add(vectors.numpy())
    faiss.write_index(flat, str(tmp_path / "i.faiss"))
    found = read_index(tmp_path / "i.faiss")
    assert (found.size, found.width, found.is_trained) == (300, 8, True)
    for mask in (None, np.arange(300)[:, None]):
        mine, theirs = (i.search(vectors, 5, mask) for i in (build_index(vectors, "exact"), found))
        np.testing.assert_array_equal(mine[0], theirs[0])
        np.testing.assert_array_equal(mine[1], theirs[1])


def test_the_reason_of_faiss_is_told_without_its_place_in_the_source_of_faiss(tmp_path) -> None:
    (tmp_path / "i.faiss").write_text("hello")
    with pytest.raises(DataError) as raised:
        read_index(tmp_path / "i.faiss")
    assert '(Index type 0x6c6c6568 ("hell") not recognized); write it' in str(raised.value)


def test_the_process_of_an_index_ends_with_it(folder: Path) -> None:
    index = read_index(folder / "index.faiss")
    process = index._process
    del index
    assert process.wait(10) == 0


# --- what a file may come to ----------------------------------------------------------------------


def test_ordinary_values_have_the_extent_that_they_are_written_with() -> None:
    value = {"a": [1, (2.0, "x")], "b": {"c": None}, "seen": {1, 2}, "path": Path("x")}
    shared = [value] * 20
    for protocol in (2, 4, 5):
        check_extent(pickle.dumps(shared, protocol=protocol))
    many = [np.float64(n) for n in range(3000)]
    check_extent(pickle.dumps(many, protocol=2))
