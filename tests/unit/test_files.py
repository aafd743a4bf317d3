"""Bank folders, mapped .npz files, window files."""

import errno
import json
import pickle
import zipfile

import numpy as np
import pytest
from report_form import write_window_file

from lvm.core.errors import DataError
from lvm.data import files, npz
from lvm.data.files import read_bank, write_bank
from lvm.data.npz import map_npy, open_npz, write_npz
from lvm.data.window_files import read_window_file

N, D, T = 20, 8, 5


def unit(shape, dtype=np.float32, seed=0):
    vectors = np.random.default_rng(seed).normal(size=shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(dtype)


KEYS = np.stack([np.arange(N) // 5, np.arange(N) % 5], axis=1)
TEXTS = [f"chunk {i} of the café \ud800" for i in range(N)]


# --- bank folder ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("compress", [False, True])
def test_bank_round_trip(tmp_path, dtype, compress):
    vectors = unit((N, D), dtype)
    folder = tmp_path / "new" / "bank"
    write_bank(folder, vectors, KEYS, {"embedder": "e"}, TEXTS, compress_texts=compress)
    bank = read_bank(folder, check_sha256=True)
    assert isinstance(bank.vectors, np.memmap)
    assert bank.vectors.dtype == dtype
    np.testing.assert_array_equal(bank.vectors, vectors)
    np.testing.assert_array_equal(bank.keys, KEYS)
    assert bank.load_texts() == TEXTS
    assert bank.manifest["embedder"] == "e"
    assert (bank.manifest["count"], bank.manifest["width"]) == (N, D)
    assert bank.manifest["norm"]["lowest"] == pytest.approx(1, abs=1e-3)
    assert [p.name for p in folder.parent.iterdir()] == ["bank"]


def test_bank_is_picklable_and_equal_writes_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write_bank(tmp_path / name, unit((N, D)), KEYS, {}, TEXTS, compress_texts=True)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    copy = pickle.loads(pickle.dumps(read_bank(tmp_path / "a")))
    assert copy.load_texts() == TEXTS


def test_bank_without_texts(tmp_path):
    write_bank(tmp_path / "b", unit((N, D)), KEYS, {})
    assert read_bank(tmp_path / "b").load_texts() is None


def test_writing_takes_an_empty_folder_and_refuses_a_full_one(tmp_path):
    write_bank(tmp_path, unit((N, D)), KEYS, {})
    with pytest.raises(DataError, match="new or empty folder"):
        write_bank(tmp_path, unit((N, D), seed=1), KEYS, {})
    np.testing.assert_array_equal(read_bank(tmp_path).vectors, unit((N, D)))


@pytest.mark.parametrize("name", ["_write_arrays", "_write_texts", "_write_manifest"])
def test_failed_write_leaves_nothing(tmp_path, monkeypatch, name):
    real = getattr(files, name)

    def write_then_fail(*args):
        real(*args)
        raise OSError("disk full")

    monkeypatch.setattr(files, name, write_then_fail)
    with pytest.raises(OSError, match="disk full"):
        write_bank(tmp_path / "b", unit((N, D)), KEYS, {}, TEXTS)
    assert list(tmp_path.iterdir()) == []


def bad_vectors(value):
    vectors = unit((N, D))
    vectors[3] = value
    return vectors


@pytest.mark.parametrize(
    ("vectors", "keys", "texts", "words"),
    [
        (bad_vectors(np.nan), KEYS, None, "NaN"),
        (bad_vectors(0), KEYS, None, "zero"),
        (unit((N, D), np.float64), KEYS, None, "float64"),
        (unit((N, D)), KEYS[1:], None, "keys have shape"),
        (unit((N, D)), KEYS + 2**31, None, "int32"),
        (unit((N, D)), KEYS + 0.5, None, "whole numbers"),
        (unit((N, D)), KEYS, TEXTS[1:], "19 texts for 20 vectors"),
    ],
)
def test_writing_refuses_bad_input_before_it_writes(tmp_path, vectors, keys, texts, words):
    with pytest.raises(DataError, match=words):
        write_bank(tmp_path / "b", vectors, keys, {}, texts)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def folder(tmp_path):
    write_bank(tmp_path / "bank", unit((N, D)), KEYS, {}, TEXTS)
    return tmp_path / "bank"


@pytest.mark.parametrize("name", ["vectors.npy", "keys.npy", "manifest.json"])
@pytest.mark.parametrize("keep", [None, 0, 5, 60, -1])
def test_missing_and_truncated_files_are_named(folder, name, keep):
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if keep is not None:
        path.write_bytes(content[:keep])
    with pytest.raises(DataError, match=name):
        read_bank(folder)


@pytest.mark.parametrize("change", [{"count": N + 1}, {"width": D - 1}])
def test_manifest_that_disagrees(folder, change):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match="manifest says"):
        read_bank(folder)


@pytest.mark.parametrize("text", ["[1, 2]", "{", "\xff"])
def test_manifest_that_is_no_json_object(folder, text):
    (folder / "manifest.json").write_text(text, encoding="latin1")
    with pytest.raises(DataError, match=r"manifest\.json"):
        read_bank(folder)


def test_changed_content_is_found_only_when_asked(folder):
    vectors = np.load(folder / "vectors.npy", mmap_mode="r+")
    vectors[0, 0] += 1
    vectors.flush()
    read_bank(folder)
    with pytest.raises(DataError, match=r"vectors\.npy has sha256"):
        read_bank(folder, check_sha256=True)


@pytest.mark.parametrize("line", ["", '{"text": "one"}\n', '["text"]\n', '{"other": 1}\n', "x\n"])
def test_texts_that_do_not_fit(folder, line):
    (folder / "texts.jsonl").write_text(line)
    bank = read_bank(folder)
    with pytest.raises(DataError, match=r"texts\.jsonl"):
        bank.load_texts()


def test_missing_path(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_bank(tmp_path / "nothing")


# --- npz ------------------------------------------------------------------------------------------


def test_bank_npz_is_mapped_in_place(tmp_path):
    path, vectors = tmp_path / "bank.npz", unit((N, D), np.float16)
    np.savez(path, vectors=vectors, keys=KEYS, provenance=json.dumps({"embedder": "e", "count": N}))
    bank = read_bank(path)
    assert isinstance(bank.vectors, np.memmap)
    np.testing.assert_array_equal(bank.vectors, vectors)
    assert bank.keys.dtype == np.int32
    assert bank.manifest["embedder"] == "e"


def test_float64_bank_npz_is_narrowed(tmp_path):
    np.savez(tmp_path / "b.npz", vectors=unit((N, D), np.float64), keys=KEYS.astype(np.uint16))
    np.testing.assert_array_equal(read_bank(tmp_path / "b.npz").vectors, unit((N, D)))


def test_bank_npz_with_windows_instead(tmp_path):
    write_window_file(tmp_path / "w.npz", unit((N, T, D)), unit((N, D)))
    with pytest.raises(DataError, match="a bank needs vectors and keys"):
        read_bank(tmp_path / "w.npz")


def test_bank_npz_whose_provenance_disagrees(tmp_path):
    provenance = json.dumps({"count": N + 1})
    np.savez(tmp_path / "b.npz", vectors=unit((N, D)), keys=KEYS, provenance=provenance)
    with pytest.raises(DataError, match="the manifest says count 21"):
        read_bank(tmp_path / "b.npz")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array("not json"), "not JSON"),
        (np.array("[1]"), "must hold a JSON object"),
        (np.array([1.0, 2.0]), "not JSON"),
        (np.array({"a": 1}, dtype=object), "Python objects"),
    ],
)
def test_bad_provenance(tmp_path, array, words):
    np.savez(tmp_path / "b.npz", vectors=unit((N, D)), keys=KEYS, provenance=array)
    with pytest.raises(DataError, match=words):
        read_bank(tmp_path / "b.npz")


@pytest.mark.parametrize(
    "array",
    [
        np.array('{"a": 1}'),
        np.array(['{"a": 1}']),
        np.array(b'{"a": 1}'),
        np.frombuffer(b'{"a": 1}', np.uint8),
    ],
)
def test_forms_of_provenance(tmp_path, array):
    np.savez(tmp_path / "b.npz", vectors=unit((N, D)), keys=KEYS, provenance=array)
    assert read_bank(tmp_path / "b.npz").manifest == {"a": 1}


ARRAYS = {
    "c_order": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "fortran": np.asfortranarray(np.arange(12, dtype=np.int64).reshape(3, 4)),
    "half": np.arange(5, dtype=np.float16),
    "big_endian": np.arange(5, dtype=">f4"),
    "empty": np.zeros((0, 3), np.float32),
    "scalar": np.array(7.5),
    "text": np.array("some text"),
}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("spool", [False, True])
def test_every_member_reads_as_numpy_reads_it(tmp_path, monkeypatch, name, spool):
    if spool:
        monkeypatch.setattr(npz, "SPOOL_BYTES", 0)
    np.savez(tmp_path / "stored.npz", **ARRAYS)
    np.savez_compressed(tmp_path / "packed.npz", **ARRAYS)
    for path, mapped in ((tmp_path / "stored.npz", True), (tmp_path / "packed.npz", spool)):
        members = open_npz(path)
        assert list(members) == list(ARRAYS)
        array = members[name]
        assert isinstance(array, np.memmap) == (mapped and array.size > 0)
        assert array.dtype == ARRAYS[name].dtype
        assert array.flags.f_contiguous == ARRAYS[name].flags.f_contiguous
        np.testing.assert_array_equal(array, ARRAYS[name])


def test_mapped_member_cannot_change_the_file(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(4.0))
    with pytest.raises(ValueError, match="read-only"):
        open_npz(tmp_path / "a.npz")["x"][0] = 9


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_truncated_npz(tmp_path, save, share):
    path = tmp_path / "a.npz"
    save(path, vectors=unit((N, D)), keys=KEYS)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"a\.npz"):
        open_npz(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage_inside_a_member_names_it(tmp_path, save):
    path = tmp_path / "a.npz"
    save(path, first=unit((N, D)), second=unit((N, D)))
    content = bytearray(path.read_bytes())
    start = content.index(b"second.npy")
    content[start + 36 : start + 60] = bytes(24)
    path.write_bytes(content)
    members = open_npz(path)
    np.testing.assert_array_equal(members["first"], unit((N, D)))
    with pytest.raises(DataError, match="member second"):
        members["second"]


def test_header_that_promises_more_than_there_is(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=unit((20, D)))
    path.write_bytes(path.read_bytes().replace(b"(20, 8)", b"(99, 8)"))
    with pytest.raises(DataError, match=r"shape \(99, 8\)"):
        open_npz(path)["x"]
    path.write_bytes(path.read_bytes().replace(b"(99, 8)", b"(-2,-8)"))
    with pytest.raises(DataError, match="damaged"):
        open_npz(path)["x"]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_object_member_is_refused_and_the_others_stay_readable(tmp_path, save):
    save(tmp_path / "a.npz", good=np.arange(3), bad=np.array([{"a": 1}], dtype=object))
    members = open_npz(tmp_path / "a.npz")
    assert members["good"].tolist() == [0, 1, 2]
    with pytest.raises(DataError, match="member bad holds Python objects"):
        members["bad"]


def test_members_that_are_no_arrays(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("note.txt", "hello")
        archive.writestr("short.npy", b"\x93NUM")
    for name in ("note.txt", "short"):
        with pytest.raises(DataError, match=rf"member {name} is not a \.npy"):
            open_npz(path)[name]
    with pytest.raises(KeyError):
        open_npz(path)["absent"]


def test_a_full_temporary_folder_is_named_and_not_the_file(tmp_path, monkeypatch):
    """What is too large for memory is unpacked to disk."""
    np.savez_compressed(tmp_path / "a.npz", vectors=np.zeros((100, 8), np.float32))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(npz, "SPOOL_BYTES", 10)
    monkeypatch.setattr(npz.shutil, "copyfileobj", full)
    with pytest.raises(DataError, match=r"no space left in .*TMPDIR"):
        open_npz(tmp_path / "a.npz")["vectors"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"hello" * 99])
def test_not_a_zip(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz is (not a complete \.npz|a single array)"):
        open_npz(tmp_path / "a.npz")


def test_object_npy_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="Python objects"):
        map_npy(tmp_path / "a.npy")


def test_failed_npz_leaves_the_old_file(tmp_path):
    write_npz(tmp_path / "a.npz", {"x": np.arange(3)})
    with pytest.raises(ValueError, match="Object arrays"):
        write_npz(tmp_path / "a.npz", {"x": np.array([{}], dtype=object)})
    assert open_npz(tmp_path / "a.npz")["x"].tolist() == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


# --- window files ---------------------------------------------------------------------------------


def test_window_file_round_trip(tmp_path):
    path = tmp_path / "w.npz"
    write_window_file(path, unit((N, T, D)), unit((N, D), seed=1), KEYS, {"source": "here"})
    file = read_window_file(path)
    assert isinstance(file.contexts, np.memmap)
    assert isinstance(file.targets, np.memmap)
    np.testing.assert_array_equal(file.contexts, unit((N, T, D)))
    np.testing.assert_array_equal(file.targets, unit((N, D), seed=1))
    np.testing.assert_array_equal(file.truth_keys, KEYS)
    assert file.provenance == {"source": "here"}
    assert (len(file), file.context_length, file.width) == (N, T, D)


@pytest.mark.parametrize("contexts", ["context_sequences", "contexts"])
@pytest.mark.parametrize("targets", ["target_vectors", "targets"])
def test_window_file_names_and_foreign_members(tmp_path, contexts, targets):
    arrays = {contexts: unit((N, T, D), np.float64), targets: unit((N, D), np.float64, seed=1)}
    metadata = np.array([{"article_index": 1}] * N, dtype=object)
    np.savez_compressed(tmp_path / "w.npz", metadata=metadata, **arrays)
    file = read_window_file(tmp_path / "w.npz")
    np.testing.assert_array_equal(file.contexts, arrays[contexts])
    np.testing.assert_array_equal(file.targets, arrays[targets])
    assert file.truth_keys is None
    assert file.provenance == {}


def spoilt(shape, place, value):
    vectors = unit(shape)
    vectors[place] = value
    return vectors


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"contexts": unit((N, D))}, r"contexts have shape \(20, 8\)"),
        ({"contexts": np.ones((N, T, D), int)}, "type int64"),
        ({"contexts": unit((N, T, D + 1))}, "targets"),
        ({"contexts": unit((N - 1, T, D))}, "targets"),
        ({"contexts": np.zeros((N, 0, D))}, "holds no vector"),
        ({"contexts": np.zeros((0, T, D)), "targets": np.zeros((0, D))}, "holds no vector"),
        ({"targets": unit((N, 1, D))}, r"targets have shape \(20, 1, 8\)"),
        ({"targets": unit((N, D - 1))}, r"expected \(20, 8\) for the targets"),
        ({"targets": spoilt((N, D), (4, 2), np.nan)}, "targets: 1 of 20 vectors are NaN"),
        ({"targets": spoilt((N, D), 4, 0)}, "targets: 1 of 20 vectors are zero"),
        ({"contexts": spoilt((N, T, D), (1, 2, 3), np.inf)}, "contexts: 1 of 100 .*first: row 7"),
        ({"contexts": spoilt((N, T, D), (0, 0), 0)}, "contexts: 1 of 100 vectors are zero"),
        ({"truth_keys": KEYS[1:]}, "truth_keys have shape"),
        ({"truth_keys": KEYS.astype(float)}, "whole numbers"),
        ({"contexts": None}, "windows need context_sequences"),
        ({"targets": None}, "windows need target_vectors"),
    ],
)
def test_window_file_refusals(tmp_path, change, words):
    arrays = {"contexts": unit((N, T, D)), "targets": unit((N, D)), "truth_keys": KEYS} | change
    np.savez(tmp_path / "w.npz", **{k: v for k, v in arrays.items() if v is not None})
    with pytest.raises(DataError, match=words) as caught:
        read_window_file(tmp_path / "w.npz")
    assert "w.npz" in str(caught.value)


def test_writing_refuses_windows_that_do_not_fit(tmp_path):
    with pytest.raises(DataError, match="for the targets"):
        write_window_file(tmp_path / "w.npz", unit((N, T, D)), unit((N - 1, D)))
    assert list(tmp_path.iterdir()) == []


def test_keys_of_a_folder_are_int32_like_those_of_an_npz(folder):
    wide = KEYS.astype(np.int64)
    np.save(folder / "keys.npy", wide)
    assert read_bank(folder).keys.dtype == np.int32
    wide[0, 0] = 2**40
    np.save(folder / "keys.npy", wide)
    with pytest.raises(DataError, match="keys reach from 0 to 1099511627776, expected the range"):
        read_bank(folder)
