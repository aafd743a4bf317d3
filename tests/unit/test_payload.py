"""Payloads: every format reads alike, and no pickle runs anything."""

import builtins
import collections
import functools
import io
import os
import pickle
import struct

import numpy as np
import pytest

from lvm.core.errors import DataError, UnsafePayloadError
from lvm.data import payload
from lvm.data.bank import Bank
from lvm.data.files import write_bank
from lvm.data.payload import read_payload
from lvm.data.pickled import ADMITTED_GLOBALS, read_pickled

N, D = 7, 6
VECTORS = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
KEYS = np.array([(10 + i // 3, i % 3) for i in range(N)], np.int32)
TEXTS = [f"text {i} é" for i in range(N)]


@pytest.fixture
def apart():
    """Read pickles in another process, as users do."""


@pytest.fixture(autouse=True)
def in_this_process(request, monkeypatch):
    """Read pickles here: a process for each of these tests would take a minute."""
    if "apart" in request.fixturenames:
        return

    def read(path, _size):
        vectors, keys, texts = read_pickled(path)
        return Bank(vectors, keys, {}, functools.partial(list, texts), str(path))

    monkeypatch.setattr(payload, "_read_apart", read)


def entries(vectors=VECTORS, number=int, container=dict):
    return container(
        (i, (TEXTS[i], {"article_index": number(a), "chunk_index": number(c)}, vectors[i]))
        for i, (a, c) in enumerate(KEYS.tolist())
    )


def save_npy(path, payload):
    np.save(path, np.array(payload, dtype=object), allow_pickle=True)


def same(bank, vectors=VECTORS):
    np.testing.assert_array_equal(bank.vectors, vectors)
    np.testing.assert_array_equal(bank.keys, KEYS)
    assert bank.load_texts() == TEXTS


# --- good payloads --------------------------------------------------------------------------------


def test_pickled_npy(tmp_path):
    save_npy(tmp_path / "p.npy", entries())
    same(read_payload(tmp_path / "p.npy"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("number", [int, np.int64, np.int16])
@pytest.mark.parametrize("container", [dict, collections.OrderedDict])
def test_bare_pickle_of_every_protocol(tmp_path, protocol, number, container):
    data = pickle.dumps(entries(number=number, container=container), protocol=protocol)
    (tmp_path / "p.pkl").write_bytes(data)
    same(read_payload(tmp_path / "p.pkl"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
def test_types_of_vectors(tmp_path, protocol, dtype):
    vectors = VECTORS.astype(dtype)
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(entries(vectors), protocol=protocol))
    bank = read_payload(tmp_path / "p.pkl")
    same(bank, vectors.astype(np.float16 if dtype == "<f2" else np.float32))
    assert bank.vectors.dtype == (np.float16 if dtype == "<f2" else np.float32)


def test_modules_of_numpy_1(tmp_path):
    data = pickle.dumps(entries(number=np.int64), protocol=2)
    old = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != data
    (tmp_path / "p.pkl").write_bytes(old)
    same(read_payload(tmp_path / "p.pkl"))


def test_order_of_ids_and_numpy_ids(tmp_path):
    payload = dict(reversed(entries().items()))
    save_npy(tmp_path / "p.npy", payload)
    same(read_payload(tmp_path / "p.npy"))
    save_npy(tmp_path / "q.npy", {np.int32(i): entry for i, entry in payload.items()})
    same(read_payload(tmp_path / "q.npy"))


def test_text_ids_keep_the_order_of_the_file(tmp_path):
    save_npy(tmp_path / "p.npy", {f"{9 - i}": entry for i, entry in entries().items()})
    same(read_payload(tmp_path / "p.npy"))


def test_more_metadata_does_no_harm(tmp_path):
    payload = entries()
    payload[0][1].update(score=np.float32(0.5), title=np.str_("t"), tags=["a"], box=np.eye(2))
    save_npy(tmp_path / "p.npy", payload)
    same(read_payload(tmp_path / "p.npy"))


def test_npz_and_folder_payloads(tmp_path):
    np.savez(tmp_path / "p.npz", vectors=VECTORS, keys=KEYS)
    write_bank(tmp_path / "bank", VECTORS, KEYS, {}, TEXTS)
    assert isinstance(read_payload(tmp_path / "p.npz").vectors, np.memmap)
    np.testing.assert_array_equal(read_payload(tmp_path / "p.npz").keys, KEYS)
    same(read_payload(tmp_path / "bank"))


def test_bank_of_a_payload_can_be_sent_to_a_worker(tmp_path):
    save_npy(tmp_path / "p.npy", entries())
    same(pickle.loads(pickle.dumps(read_payload(tmp_path / "p.npy"))))


# --- hostile payloads -----------------------------------------------------------------------------


class Call:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(marker):
    text = f"open({str(marker)!r}, 'w').close()"
    return {
        "system": (Call(os.system, f"touch {marker}"), f"{os.name}.system"),
        "eval": (Call(builtins.eval, text), "eval"),
        "exec": (Call(builtins.exec, text), "exec"),
        "open": (Call(builtins.open, str(marker), "w"), "open"),
        "getattr": (Call(builtins.getattr, np.ndarray, "tofile"), "getattr"),
        "numpy load": (Call(np.load, str(marker) + ".npy", None, True), "load"),
        "numpy memmap": (Call(np.memmap, str(marker), "u1", "w+", 0, 1), "memmap"),
        "pickle loads": (Call(pickle.loads, pickle.dumps(Call(os.system, "true"))), "loads"),
        "class": (Call(type("X", (), {}).__class__, "Y", (), {}), "type"),
    }


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("name", hostile("x"))
@pytest.mark.parametrize("place", ["root", "vector", "metadata", "npy"])
def test_hostile_pickle_runs_nothing(tmp_path, name, place, protocol):
    marker, path = tmp_path / "marker", tmp_path / "p.npy"
    attack, named = hostile(marker)[name]
    payload = entries()
    if place == "metadata":
        payload[3][1]["chunk_index"] = attack
    elif place != "root":
        payload[3] = (TEXTS[3], payload[3][1], attack)
    if name == "numpy load":
        np.save(str(marker) + ".npy", np.array([Call(os.system, f"touch {marker}")]))
    if place == "npy":
        save_npy(path, payload)
    else:
        path.write_bytes(pickle.dumps(attack if place == "root" else payload, protocol=protocol))
    with pytest.raises(UnsafePayloadError, match=named):
        read_payload(path)
    assert not marker.exists()


def test_the_attacks_do_run_where_nothing_guards_them(tmp_path):
    attack, _ = hostile(tmp_path / "marker")["eval"]
    pickle.loads(pickle.dumps(attack))
    assert (tmp_path / "marker").exists()


def stack_global(module, name):
    """Opcodes that push a global with a dotted name, which only protocol 4 can write."""
    parts = (pickle.SHORT_BINUNICODE + bytes([len(p)]) + p.encode() for p in (module, name))
    return pickle.PROTO + b"\x04" + b"".join(parts) + pickle.STACK_GLOBAL


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("numpy", "ndarray.tofile"),
        ("numpy", "ndarray.__class__"),
        ("numpy", "memmap"),
        ("collections", "OrderedDict.fromkeys"),
        ("_codecs", "decode"),
        ("numpy._core.multiarray", "fromfile"),
        ("numpy", "object_"),
    ],
)
def test_neighbours_of_admitted_names_are_refused(tmp_path, module, name):
    (tmp_path / "p.pkl").write_bytes(stack_global(module, name) + pickle.STOP)
    with pytest.raises(UnsafePayloadError, match=rf"names {module}\.{name}"):
        read_payload(tmp_path / "p.pkl")


@pytest.mark.parametrize(("module", "name"), ADMITTED_GLOBALS)
@pytest.mark.parametrize("state", [{"__init__": 1}, (None, {"__init__": 1}), (1, 2, 3, 4, 5)])
def test_admitted_names_cannot_be_changed_from_within(tmp_path, module, name, state):
    build = pickle.dumps(state, protocol=4)[2:-1] + pickle.BUILD + pickle.STOP
    (tmp_path / "p.pkl").write_bytes(stack_global(module, name) + build)
    before = {part: dict(vars(part)) for part in ADMITTED_GLOBALS.values()}
    with pytest.raises(DataError):
        read_payload(tmp_path / "p.pkl")
    assert {part: dict(vars(part)) for part in ADMITTED_GLOBALS.values()} == before
    save_npy(tmp_path / "good.npy", entries(number=np.int64))
    same(read_payload(tmp_path / "good.npy"))


def numpy_opcodes(dtype_code, dtype_state, data):
    """A pickle of one numpy array with a forged element type and content."""

    class Forged:
        def __init__(self, value):
            self.value = value

        def __reduce__(self):
            return self.value

    dtype = Forged((np.dtype, (dtype_code, False, True), dtype_state))
    rebuild = np.zeros(1).__reduce__()[0]
    return pickle.dumps(Forged((rebuild, (np.ndarray, (0,), b"b"), (1, (1,), dtype, False, data))))


@pytest.mark.parametrize(
    ("code", "state", "data"),
    [
        # Raw bytes as object pointers: with flags 0 NumPy itself would follow them and crash.
        ("O8", (3, "|", None, None, None, -1, -1, 0), struct.pack("<Q", 0xDEADBEEF)),
        ("O8", (3, "|", None, None, None, -1, -1, 63), struct.pack("<Q", 0xDEADBEEF)),
        ("V8", (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0), bytes(8)),
        ("f8", (3, "<", (np.dtype("f4"), (2,)), None, None, -1, -1, 0), bytes(8)),
        ("f4", (3, "<", None, None, None, -1, -1, 0), bytes(7)),
        ("f4", (3, "<", None, None, None, -1, -1, 0), bytes(8)),
        ("f4", (3, "<", None, None, None, -1, -1, 0), [1.0]),
        ("f4", (3, "?", None, None, None, -1, -1, 0), bytes(4)),
    ],
)
def test_forged_arrays_are_refused(tmp_path, code, state, data):
    (tmp_path / "p.pkl").write_bytes(numpy_opcodes(code, state, data))
    with pytest.raises(DataError, match="not a readable payload"):
        read_payload(tmp_path / "p.pkl")


def test_persistent_and_extension_ids_are_refused(tmp_path):
    for data in (b"\x80\x02U\x01aQ.", b"\x80\x02\x82\x01."):
        (tmp_path / "p.pkl").write_bytes(data)
        with pytest.raises(DataError, match="not a readable payload"):
            read_payload(tmp_path / "p.pkl")


# --- broken payloads ------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0, 0.01, 0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("bare", [False, True])
def test_truncated_pickle(tmp_path, share, bare):
    buffer = io.BytesIO()
    save_npy(buffer, entries())
    data = pickle.dumps(entries()) if bare else buffer.getvalue()
    (tmp_path / "p.npy").write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataError, match=r"p\.npy"):
        read_payload(tmp_path / "p.npy")


META = {"article_index": 1, "chunk_index": 2}


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({}, "empty dictionary"),
        ([1, 2, 3], "holds a list"),
        ({0: "text"}, "entry 0 is not .text, metadata, vector."),
        ({0: ("t", META)}, "entry 0 is not"),
        ({0: ("t", "m", VECTORS[0])}, "entry 0 is not"),
        ({4: ("t", {"article_index": 1}, VECTORS[0])}, "entry 4 has the metadata article_index"),
        ({4: ("t", {}, VECTORS[0])}, "entry 4 has the metadata nothing"),
        ({0: ("t", META | {"chunk_index": "2"}, VECTORS[0])}, "whole numbers"),
        ({0: ("t", META | {"chunk_index": 2**40}, VECTORS[0])}, "int32"),
        ({0: ("t", META, [1.0, 2.0])}, "no vector"),
        ({0: ("t", META, VECTORS)}, "no vector"),
        ({0: ("t", META, np.arange(3))}, "no vector"),
        ({0: ("t", META, np.array([1.0, 2.0], dtype=object))}, "no vector"),
        ({0: ("t", META, VECTORS[0]), 1: ("t", META, VECTORS[0][1:])}, "entry 1 has a vector of"),
    ],
)
def test_payloads_that_break_the_format(tmp_path, payload, words):
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(payload))
    with pytest.raises(DataError, match=words):
        read_payload(tmp_path / "p.pkl")


@pytest.mark.parametrize("array", [VECTORS, np.array([{}, {}], dtype=object)])
def test_other_npy_files(tmp_path, array):
    np.save(tmp_path / "p.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match="not a payload"):
        read_payload(tmp_path / "p.npy")


def test_missing_payload(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_payload(tmp_path / "p.npy")


# --- in a process of its own ----------------------------------------------------------------------


def memo(number):
    """A pickle of nine bytes, for which Python makes room for so many objects."""
    return b"\x80\x02}r" + struct.pack("<I", number) + b"."


def nested_key(depth):
    """A pickle whose one id is a tuple of ten tuples of ten tuples: hashing it takes 10^depth."""
    raw = b"\x80\x02X\x01\x00\x00\x00xq\x000"
    for level in range(depth):
        raw += b"(" + (b"h" + bytes([level])) * 10 + b"tq" + bytes([level + 1]) + b"0"
    return raw + b"}h" + bytes([depth]) + b"K\x01s."


@pytest.mark.usefixtures("apart")
def test_a_pickle_is_read_in_another_process(tmp_path):
    save_npy(tmp_path / "p.npy", entries())
    bank = read_payload(tmp_path / "p.npy")
    same(bank)
    assert bank.load_texts() is not bank.load_texts()
    same(pickle.loads(pickle.dumps(bank)))
    (tmp_path / "q.pkl").write_bytes(b"cos\nsystem\n.")
    with pytest.raises(UnsafePayloadError, match=r"q.pkl is a pickle that names os.system"):
        read_payload(tmp_path / "q.pkl")


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize(
    ("raw", "words"),
    [(memo(200_000_000), "MemoryError"), (nested_key(12), "took more than 1 s")],
    ids=["memory", "time"],
)
def test_a_small_pickle_takes_neither_all_memory_nor_all_time(tmp_path, raw, words, monkeypatch):
    monkeypatch.setattr(payload, "CPU_SECONDS", 1)
    (tmp_path / "p.pkl").write_bytes(raw)
    with pytest.raises(DataError, match=words):
        read_payload(tmp_path / "p.pkl")


def test_a_text_that_is_a_container_is_refused_and_never_written_out(tmp_path):
    text = "x"
    for _ in range(9):
        text = [text] * 10  # of ten billion letters, where it is written out
    payload_ = entries()
    payload_[3] = (text, *payload_[3][1:])
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(payload_))
    with pytest.raises(DataError, match="the text of entry 3 is a list"):
        read_payload(tmp_path / "p.pkl")


def test_an_array_without_content_is_refused(tmp_path):
    (tmp_path / "p.pkl").write_bytes(b"\x80\x02cnumpy\nndarray\n)\x81.")
    with pytest.raises(DataError, match=r"p.pkl holds a"):
        read_payload(tmp_path / "p.pkl")
