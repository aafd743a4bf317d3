"""The size of a pickle with every reference followed, found without loading it.

A few bytes can name one tuple ten times, that tuple ten times, and so on: whoever hashes, copies or
prints such a value never ends. The opcodes are walked with a stack of bare nodes in the place of
values, so that nothing is made of them.
"""

from __future__ import annotations

import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path

MOST_PER_BYTE, MOST = 16, 100_000  # values for a byte of the pickle, and in a small one
DEEPEST = 1000
GROWING = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")
# Python's own bytes of any length are asked for by a number, and no file of weights holds them.
REFUSED = ("builtins bytearray", "__builtin__ bytearray")


@dataclass(eq=False, slots=True)
class Node:
    """The bare parts of a value."""

    parts: list[Node]


def check_pickles(path: Path) -> None:
    """Refuse a zip of torch.save whose pickle cannot be read in time and memory (ValueError).

    torch.save packs nothing, so a file that is packed is refused as well: it could unpack to any
    size.
    """
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        if len({info.filename for info in infos}) < len(infos):
            raise ValueError("it names a member twice")
        if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
            raise ValueError("it is compressed, which torch.save never does")
        for info in infos:
            if info.filename.endswith("data.pkl"):
                check_extent(archive.read(info))


def check_extent(pickled: bytes) -> None:
    """Refuse a pickle with too many or too deeply nested values (ValueError)."""
    root = _walk(pickled)
    count, depth = _extent(root)
    if count > MOST + MOST_PER_BYTE * len(pickled) or depth > DEEPEST:
        raise ValueError("its values are nested without end")


def _walk(pickled: bytes) -> Node:
    """Return a node for the value of a pickle; ValueError for one that is damaged."""
    stack: list[Node] = []
    marks: list[int] = []  # heights of the stack
    memo: dict[object, Node] = {}
    try:
        for opcode, arg, _ in pickletools.genops(pickled):
            name = opcode.name
            if name == "STOP":
                return stack[-1]
            if name == "GLOBAL" and arg in REFUSED:
                raise ValueError(f"it names {arg}")
            if name == "MARK":
                marks.append(len(stack))
            elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
                memo[len(memo) if name == "MEMOIZE" else arg] = stack[-1]
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                stack.append(memo[arg])
            elif name == "DUP":
                stack.append(stack[-1])
            else:
                _apply(opcode, stack, marks)
    except (IndexError, KeyError, TypeError):
        raise ValueError("its pickle is damaged") from None
    raise ValueError("its pickle has no end")


def _apply(opcode: pickletools.OpcodeInfo, stack: list[Node], marks: list[int]) -> None:
    """Take what an opcode takes from the stack, and leave one node with these parts."""
    taken = opcode.stack_before
    if pickletools.markobject in taken:
        height = marks.pop() - taken.index(pickletools.markobject)
    else:
        height = len(stack) - len(taken)
    if height < 0:
        raise IndexError
    parts = stack[height:]
    del stack[height:]
    if opcode.name in GROWING:
        parts[0].parts.extend(parts[1:])
        stack.append(parts[0])
    elif opcode.stack_after:
        stack.append(Node(parts))


def _extent(root: Node) -> tuple[float, int]:
    """Return the number of values in a node, shared ones counted each time, and its depth."""
    known: dict[int, tuple[float, int]] = {}
    begun: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting[-1]
        if id(node) in known:
            waiting.pop()
        elif id(node) in begun:
            parts = [known.get(id(part)) for part in node.parts]
            if None in parts:  # a part of itself
                return float("inf"), 0
            known[id(node)] = (
                1.0 + sum(part[0] for part in parts if part),
                1 + max((part[1] for part in parts if part), default=0),
            )
            waiting.pop()
        else:
            begun.add(id(node))
            waiting.extend(part for part in node.parts if id(part) not in known)
            if any(id(part) in begun and id(part) not in known for part in node.parts):
                return float("inf"), 0
    return known[id(root)]
