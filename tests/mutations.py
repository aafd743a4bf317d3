"""Damaged and hostile files from valid ones: a pure function of a seed.

    mutate(rng, samples, "npz")      a name of what was done, and the bytes

Bytes of any format are flipped, inserted, deleted, cut, repeated, spliced and set to extremes. A
format that this module knows is also taken apart, changed inside and put together again, so that a
change gets past the checks of its container.
"""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

Mutation = tuple[str, bytes]
EXTREMES = (0, 1, 2**7, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**31,
    2**63,
    10**30,
    0.5,
    1e308,
    float("nan"),
    float("-inf"),
    "",
    "x",
    "\ud800",
    "\0",
    "\x1b[2J",
    "../../etc/passwd",
    "/dev/zero",
    "9" * 400,
    [],
    [[]],
    [None],
    ["x"],
    [1, 2, 3],
    {},
    {"a": None},
    {"train": [1]},
    {"": 1},
)
DEEP = 3000  # deeper than Python's own recursion limit


# --- bytes ----------------------------------------------------------------------------------------


def flip(rng: random.Random, data: bytes, other: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        changed[_place(rng, changed)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def overwrite(rng: random.Random, data: bytes, other: bytes) -> bytes:
    at, length = _place(rng, data), rng.choice((1, 2, 4, 8, 64))
    return data[:at] + rng.randbytes(length) + data[at + length :]


def insert(rng: random.Random, data: bytes, other: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + rng.randbytes(rng.choice((1, 2, 8, 100))) + data[at:]


def delete(rng: random.Random, data: bytes, other: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + data[at + rng.choice((1, 2, 8, 100, 1000)) :]


def truncate(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: rng.choice((0, 1, 2, 4, 8, 16, 64, _place(rng, data), len(data) - 1))]


def repeat(rng: random.Random, data: bytes, other: bytes) -> bytes:
    at, length = _place(rng, data), rng.choice((1, 8, 100, 1000))
    return data[:at] + data[at : at + length] * rng.choice((2, 3, 50)) + data[at:]


def splice(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: _place(rng, data)] + other[_place(rng, other) :]


def extreme(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Set what may be a length to a number that no length should be."""
    form = rng.choice(("<H", "<I", "<I", "<Q", "<Q", ">I", ">Q"))
    size = struct.calcsize(form)
    at = _place(rng, data)
    return data[:at] + struct.pack(form, rng.choice(EXTREMES) % 2 ** (8 * size)) + data[at + size :]


def _place(rng: random.Random, data: bytes | bytearray) -> int:
    """Return an offset, most often near one of the two ends: that is where structure is."""
    if not data:
        raise ValueError("nothing to change")
    near = min(len(data), rng.choice((16, 64, 256, 1024)))
    kind = rng.random()
    if kind < 0.5:
        return rng.randrange(near)
    return len(data) - 1 - rng.randrange(near) if kind < 0.75 else rng.randrange(len(data))


BYTES = (flip, overwrite, insert, delete, truncate, repeat, splice, extreme)


def of_bytes(rng: random.Random, samples: Sequence[bytes]) -> Mutation:
    change = rng.choice(BYTES)
    data, other = rng.choice(samples), rng.choice(samples)
    return change.__name__, change(rng, data, other) if data and other else b""


# --- text and JSON --------------------------------------------------------------------------------


def of_text(rng: random.Random, samples: Sequence[bytes]) -> Mutation:
    text = rng.choice(samples).decode()
    at = rng.randrange(len(text) + 1)
    odd = {
        "utf-16": text.encode("utf-16"),
        "utf-16 without a mark": text.encode("utf-16-le"),
        "latin-1": (text[:at] + "é" + text[at:]).encode("latin-1", errors="replace"),
        "mark": b"\xef\xbb\xbf" + text.encode(),
        "surrogate": (text[:at] + "\ud800" + text[at:]).encode("utf-8", errors="surrogatepass"),
        "NUL": (text[:at] + "\0" + text[at:]).encode(),
        "CR": text.replace("\n", "\r").encode(),
        "escape": (text[:at] + "\x1b[2J" + text[at:]).encode(),
        "brackets": (text[:at] + rng.choice("[{(") * DEEP * 30 + text[at:]).encode(),
        "digits": (text[:at] + "9" * 5000 + text[at:]).encode(),
        "line twice": "".join(line * 2 for line in text.splitlines(keepends=True)).encode(),
        "no line": "".join(_without(rng, text.splitlines(keepends=True))).encode(),
        "other brackets": text.replace(*rng.choice(("[]", "{}", "[{", "=:", "\"'", ",;"))).encode(),
    }
    name = rng.choice(list(odd))
    return name, odd[name]


def _without(rng: random.Random, lines: list[str]) -> list[str]:
    gone = rng.randrange(len(lines)) if lines else 0
    return lines[:gone] + lines[gone + 1 :]


def paths(value: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every value inside a JSON value, the outermost first."""
    yield ()
    if isinstance(value, dict | list):
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in entries:
            for path in paths(inner):
                yield (key, *path)


def replaced(value: Any, path: Sequence[Any], by: Any) -> Any:
    """Return a copy of a JSON value with another value at one place."""
    if not path:
        return by
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(copy[path[0]], path[1:], by)
    return copy


def of_json(rng: random.Random, samples: Sequence[bytes]) -> Mutation:
    """Put an odd value at one place of a JSON text, take a key out, or name it twice."""
    return _changed_json(rng, json.loads(rng.choice(samples)))


def _changed_json(rng: random.Random, value: Any) -> Mutation:
    places = list(paths(value))
    by_depth: dict[int, list[tuple[Any, ...]]] = {}
    for place in places:
        by_depth.setdefault(len(place), []).append(place)
    path = rng.choice(by_depth[rng.choice(list(by_depth))])  # outer keys as often as inner ones
    kind = rng.random()
    if kind < 0.1:
        nested: Any = "[" * DEEP + "]" * DEEP
        text = json.dumps(replaced(value, path, "DEEP")).replace('"DEEP"', nested)
        return f"deep at {path}", text.encode()
    if kind < 0.2 and path and isinstance(path[-1], str):
        odd = rng.choice(ODD_VALUES)
        text = json.dumps(value).replace(
            f"{json.dumps(path[-1])}:",
            f"{json.dumps(path[-1])}: {json.dumps(odd)}, {json.dumps(path[-1])}:",
        )
        return f"{path} twice", text.encode()
    if kind < 0.3 and path:
        without = replaced(value, path, None)
        inner = without
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
        return f"without {path}", json.dumps(without).encode()
    odd = rng.choice(ODD_VALUES)
    return f"{odd!r} at {path}"[:80], json.dumps(replaced(value, path, odd)).encode()


def of_lines(rng: random.Random, samples: Sequence[bytes]) -> Mutation:
    """Change one line of JSON lines, or their order."""
    lines = rng.choice(samples).splitlines()
    at = rng.randrange(len(lines))
    kind = rng.random()
    if kind < 0.1:
        rng.shuffle(lines)
        return "lines shuffled", b"\n".join(lines) + b"\n"
    if kind < 0.2:
        return f"line {at} twice", b"\n".join([*lines[:at], lines[at], *lines[at:]]) + b"\n"
    if kind < 0.3:
        return f"line {at} gone", b"\n".join([*lines[:at], *lines[at + 1 :]]) + b"\n"
    name, lines[at] = _changed_json(rng, json.loads(lines[at]))
    return f"line {at}: {name}", b"\n".join(lines) + b"\n"


# --- arrays and containers ------------------------------------------------------------------------

DESCRIPTIONS: tuple[Any, ...] = (
    "<f4",
    ">f4",
    "<f2",
    "<f8",
    "<f16",
    "<c8",
    "<i4",
    "<u8",
    "|b1",
    "|O",
    "|S0",
    "|V0",
    "<U0",
    "<U9",
    "|S999999999",
    "<U999999999",
    "|V2147483647",
    "<M8[s]",
    "<m8",
    "f8,f8",
    "f4," * 500,
    [("a", "<f4")],
    [("a", "|O")],
    [("a", "<f4", (2**31, 2**31))],
    {"names": []},
    None,
    4,
    "",
    "x",
    ("<f4", (4,)),
    "\u00e9",
    "a5",
    "f",
    "\\d",
)
SHAPES: tuple[Any, ...] = (
    (),
    (0,),
    (1,),
    (-1,),
    (2**31,),
    (2**63,),
    (10**30,),
    (0, 2**62, 2**62),
    (1, 2**40),
    (3, -1, 5),
    (True,),
    (1.5,),
    ("3",),
    [3],
    None,
    3,
    (1,) * 33,
    (1,) * 65,
    (2**32, 2**32),
    (None,),
)


def npy_header(descr: Any, fortran: Any, shape: Any, version: int = 1) -> bytes:
    """Return the header of a .npy file as it is asked for, right or wrong."""
    text = repr({"descr": descr, "fortran_order": fortran, "shape": shape}).encode("utf-8")
    text = text.ljust(-(-(len(text) + 11) // 64) * 64 - 11) + b"\n"
    return (
        b"\x93NUMPY"
        + bytes([version, 0])
        + struct.pack("<H" if version == 1 else "<I", len(text))
        + text
    )


def of_npy(rng: random.Random, samples: Sequence[bytes]) -> Mutation:
    """Describe the data of an array as something else."""
    data = rng.choice(samples)
    with io.BytesIO(data) as handle:
        np.lib.format.read_magic(handle)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(handle)
        content = handle.read()
    descr: Any = dtype.str
    kind = rng.random()
    if kind < 0.3:
        descr = rng.choice(DESCRIPTIONS)
    elif kind < 0.6:
        shape = rng.choice(SHAPES)
    elif kind < 0.7:
        fortran = rng.choice((True, 1, None, "x"))
    elif kind < 0.8:  # the same bytes of another meaning
        descr, shape = rng.choice((("<i4", shape), ("|V1", (len(content),)), ("|b1", shape)))
    else:
        return _odd_header(rng, content)
    name = f"{descr!r} {fortran!r} {shape!r}"
    return name[:80], npy_header(descr, fortran, shape, rng.choice((1, 1, 1, 2, 3, 9))) + content


def _odd_header(rng: random.Random, content: bytes) -> Mutation:
    texts = (
        b"(" * 9000,
        b"[" * 60000,
        b"{}",
        b"{'descr': '<f4'}",
        b"__import__('os').abort()",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'x': 1}",
        b" " * 20000,
        b"\xff\0",
        b"'\\d'",
        b"-" * 9000 + b"1",
        b"{" + b"'a': 1, " * 1000 + b"}",
        b"9" * 9000,
        b"1L",
        b"",
    )
    text = rng.choice(texts)
    head = b"\x93NUMPY\x02\x00" + struct.pack("<I", rng.choice((len(text), len(text), 2**32 - 1)))
    return f"header {text[:20]!r}", head + text + content


def of_zip(
    inside: Callable[[random.Random, str, bytes, Sequence[bytes]], Mutation],
) -> Callable[[random.Random, Sequence[bytes]], Mutation]:
    """Return a mutation of one member of a zip, or of the zip around its members."""

    def change(rng: random.Random, samples: Sequence[bytes]) -> Mutation:
        with zipfile.ZipFile(io.BytesIO(rng.choice(samples))) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
        kind = rng.random()
        if kind < 0.6:
            at = rng.randrange(len(members))
            name, data = members[at]
            others = [content for _, content in members]
            said, members[at] = (lambda m: (f"{name}: {m[0]}", (name, m[1])))(
                inside(rng, name, data, others)
            )
            return said, zipped(members, rng.choice((0, 0, 0, 8, 12, 14)))
        if kind < 0.8:
            return _other_members(rng, members)
        return _other_directory(rng, zipped(members, rng.choice((0, 8, 12, 14))))

    return change


def _other_members(rng: random.Random, members: list[tuple[str, bytes]]) -> Mutation:
    at = rng.randrange(len(members))
    name, data = members[at]
    odd = rng.choice(("", "../x.npy", "\x1b[2J\n.npy", "a/" * 3000, "x.npy", name.upper()))
    changed = {
        "gone": [*members[:at], *members[at + 1 :]],
        "twice": [*members, (name, members[0][1])],
        "renamed": [*members[:at], (odd, data), *members[at + 1 :]],
        "none": [],
        "swapped": [*members[:at], (name, rng.choice(members)[1]), *members[at + 1 :]],
        "empty": [*members[:at], (name, b""), *members[at + 1 :]],
        "bomb": [*members[:at], (name, data[:128] + bytes(64 << 20)), *members[at + 1 :]],
    }
    what = rng.choice(list(changed))
    method = 8 if what == "bomb" else rng.choice((0, 8))
    return f"member {name} {what}"[:80], zipped(changed[what], method)


DIRECTORY = {  # fields of a member's entry in the directory: offset and form
    "flags": (8, "<H"),
    "method": (10, "<H"),
    "crc": (16, "<I"),
    "packed size": (20, "<I"),
    "size": (24, "<I"),
    "name length": (28, "<H"),
    "extra length": (30, "<H"),
    "offset": (42, "<I"),
}


def _other_directory(rng: random.Random, data: bytes) -> Mutation:
    entries = [i for i in range(len(data) - 46) if data[i : i + 4] == b"PK\x01\x02"]
    if not entries:
        return "no directory", data
    name = rng.choice(list(DIRECTORY))
    at, form = DIRECTORY[name]
    at += rng.choice(entries)
    size = struct.calcsize(form)
    now = struct.unpack(form, data[at : at + size])[0]
    value = rng.choice((*EXTREMES, 9, 12, 14, 93, 99, now + 1, now - 1, now * 2)) % 2 ** (8 * size)
    return f"{name} {value}", data[:at] + struct.pack(form, value) + data[at + size :]


def zipped(members: Sequence[tuple[str, bytes]], method: int) -> bytes:
    """Return a zip of members in this order, names given twice included."""
    packed = io.BytesIO()
    import warnings

    with warnings.catch_warnings(), zipfile.ZipFile(packed, "w", method) as archive:
        warnings.simplefilter("ignore")  # of a name given twice
        for name, data in members:
            archive.writestr(name.encode("utf-8", "replace").decode() or " ", data)
    return packed.getvalue()


def _in_npz(rng: random.Random, name: str, data: bytes, others: Sequence[bytes]) -> Mutation:
    return (of_npy if rng.random() < 0.8 else of_bytes)(rng, [data])


def _in_pt(rng: random.Random, name: str, data: bytes, others: Sequence[bytes]) -> Mutation:
    return (of_pickle if name.endswith(".pkl") else of_bytes)(rng, [data] if data else [b"\0"])


# --- pickles, safetensors -------------------------------------------------------------------------

LOADED = b"cos\nsystem\n(S'touch executed'\ntR"  # leaves a file where it is run


def nested_tuples(levels: int = 12, of: bytes = b"X\x01\x00\x00\x00x") -> bytes:
    """Return opcodes of a tuple of ten times the same tuple of ten times the same ..."""
    code = of + b"q\xc8"
    for level in range(levels):
        code += b"0(" + b"h" + bytes([199 + level + 1]) + (b"h" + bytes([200 + level])) * 9
        code += b"tq" + bytes([201 + level])
    return code


def of_pickle(rng: random.Random, samples: Sequence[bytes]) -> Mutation:
    """Put opcodes where a pickle ends, or change its bytes."""
    data = rng.choice(samples)
    codes = {
        "call": LOADED + b"0.",
        "class": b"cnumpy\nndarray\n.",
        "global": b"c\x1b[31mos\x1b]0;\x07\nsystem\x1b[2J\n.",
        "memo": b"}r\x00\xc2\xeb\x0b.",
        "long memo": b"}r\xff\xff\xff\x7f.",
        "long bytes": b"\x8e" + struct.pack("<Q", 1 << 40) + b"abc.",
        "long text": b"X\xff\xff\xff\x7fabc.",
        "long whole": b"\x8b\xff\xff\xff\x7f1.",
        "deep": b"]" + b"(]" * 100_000 + b"e" * 100_000 + b".",
        "deep tuple": b")" + b"\x85" * 200_000 + b".",
        "deep key": b"})" + b"\x85" * 200_000 + b"K\x01s.",
        "many key": b"}" + nested_tuples() + b"K\x01s.",
        "many": nested_tuples() + b".",
        "itself": b"]q\x07h\x07a.",
        "own key": b"}q\x07K\x00h\x07s.",
        "unset": b"cnumpy\nndarray\n)\x81.",
        "dtype": b"cnumpy\ndtype\n(S'V999999999'\nI0\nI1\ntR.",
        "empty": b"}.",
        "none": b"N.",
        "stop": b".",
        "stack": b"0" * 5,
    }
    kind = rng.random()
    if kind < 0.5:
        name = rng.choice(list(codes))
        return name, b"\x80\x02" + codes[name]
    if kind < 0.7:  # where an entry may stand, with all the rest around it
        name = rng.choice(list(codes))
        at = _place(rng, data)
        return f"{name} inside", data[:at] + codes[name].removesuffix(b".") + data[at:]
    return of_bytes(rng, [data])


def of_safetensors(rng: random.Random, samples: Sequence[bytes]) -> Mutation:
    """Change the JSON header of safetensors and its length."""
    data = rng.choice(samples)
    (length,) = struct.unpack("<Q", data[:8])
    header, tensors = json.loads(data[8 : 8 + length]), data[8 + length :]
    if rng.random() < 0.25:
        name = rng.choice([n for n in header if n != "__metadata__"])
        kinds = ("F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F4", "F6_E2M3", "C64", "x")
        header[name] = {**header[name], "dtype": rng.choice(kinds)}
        said, text = f"dtype of {name}", json.dumps(header).encode()
    else:
        said, text = _changed_json(rng, header)
    stated = rng.choice((len(text), len(text), len(text), len(text), *EXTREMES)) % 2**64
    return said, struct.pack("<Q", stated) + text + tensors


# --- by format ------------------------------------------------------------------------------------

FORMATS: dict[str, tuple[Callable[[random.Random, Sequence[bytes]], Mutation], ...]] = {
    "bytes": (of_bytes,),
    "text": (of_text, of_bytes),
    "json": (of_json, of_json, of_text, of_bytes),
    "lines": (of_lines, of_lines, of_text, of_bytes),
    "npy": (of_npy, of_npy, of_bytes),
    "npz": (of_zip(_in_npz), of_zip(_in_npz), of_bytes),
    "pt": (of_zip(_in_pt), of_zip(_in_pt), of_bytes),
    "pickle": (of_pickle, of_bytes),
    "safetensors": (of_safetensors, of_safetensors, of_bytes),
}


def mutate(rng: random.Random, samples: Sequence[bytes], form: str) -> Mutation:
    """Return what was done to one of some valid files of a format, and its bytes."""
    return rng.choice(FORMATS[form])(rng, samples)


def every_key(sample: bytes, depth: int = 3) -> Iterator[Mutation]:
    """Yield a JSON file with every odd value at every place up to a depth."""
    value = json.loads(sample)
    for path in paths(value):
        if 0 < len(path) <= depth:
            for odd in (None, [1], "x", -1, 10**12, 0.5, {"a": 1}, True):
                text = json.dumps(replaced(value, path, odd))
                yield f"{odd!r} at {path}", text.encode()
