"""The rows of some evidence in words: keys, titles, and texts short enough for a journal."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from lvm.core.errors import DataError
from lvm.core.records import Part
from lvm.data.bank import Bank

TEXT_LENGTH = 110  # letters of a chunk


class _Example(Part, frozen=True):
    contexts: list[int]
    target: int
    retrieved: list[int]


class _Shown(Part, frozen=True):
    """The rows in some evidence, see `lvm.evaluation.evidence.gather`."""

    examples: list[_Example]
    hubs: list[dict[str, int]]


def in_words(evidence: Mapping[str, object], bank: Bank) -> dict[str, object]:
    """Return the evidence with `words`: key and shortened text of every row in it, and titles.

    A bank without readable texts gives keys alone.
    """
    shown = msgspec.convert(evidence, _Shown)
    named = [row for e in shown.examples for row in (*e.contexts, e.target, *e.retrieved)]
    rows = sorted({*named, *(hub["row"] for hub in shown.hubs)})
    try:
        texts = bank.load_texts()
    except (DataError, OSError):  # the numbers stand without them
        texts = None
    words = {
        str(row): {
            "key": bank.keys[row].tolist(),
            "text": shortened(texts[row]) if texts else None,
        }
        for row in rows
    }
    titles = bank.titles()
    known = sorted({int(bank.keys[row, 0]) for row in rows} & titles.keys())
    about = {k: str(bank.manifest[k]) for k in ("source", "licence") if k in bank.manifest}
    return {**evidence, "words": words, "titles": {str(a): titles[a] for a in known}, **about}


def shortened(text: str, length: int = TEXT_LENGTH) -> str:
    """Return text on one line, cut at a word where it is longer than `length`."""
    line = " ".join(text.split())
    if len(line) <= length:
        return line
    cut = line[: length - 1]
    head, space, _ = cut.rpartition(" ")
    return (head if space and len(head) > length // 2 else cut).rstrip(" ,;:") + "…"
