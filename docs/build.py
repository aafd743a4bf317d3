"""Write docs/journal.md from the structs that a journal is read with: `python docs/build.py`."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lvm.audit.document import Where  # noqa: E402  # found through the path above
from lvm.core.records import Part  # noqa: E402
from lvm.triage import events as event_kinds  # noqa: E402
from lvm.triage.journal import SCHEMA  # noqa: E402

OUT = ROOT / "docs" / "journal.md"
INTRODUCTION = f"""# The journal of a run

`journal.jsonl` is the truth of a run: one JSON object a line, synced before the run goes on. All
else in a run folder can be written again from it. This page is schema {SCHEMA}; it is made from the
structs with which a journal is read and written (`python docs/build.py`). Each event has `event`,
its kind, and `at`, in seconds since 1970; the last key of a line, `sum`, is a checksum of the rest.
What is marked `=` may be missing, and is then what stands behind it. A line that lacks anything
else, or has another type somewhere, is refused with its number and the place. Schema 1 is read as
well: there an epoch had what parts from outside the package measured among its own keys, which
stand in `also` now.
"""


def document() -> str:
    """Return the page."""
    kinds = event_kinds.KINDS
    lines = [INTRODUCTION, "## Events", ""]
    parts: dict[str, type[Any]] = {"Where": Where}  # other keys may stand beside those of a Where
    for tag, kind in kinds.items():
        lines += [f"### {tag}", "", _first(kind), "", *_table(kind, parts), ""]
    lines += ["## Parts", ""]
    done: set[str] = set()
    while missing := sorted(parts.keys() - done):
        done |= {missing[0]}
        part = parts[missing[0]]
        lines += [f"### {missing[0]}", "", _first(part), "", *_table(part, parts), ""]
    return "\n".join(lines).rstrip() + "\n"


def _first(kind: type[Any]) -> str:
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def _table(kind: type[Any], parts: dict[str, type[Any]]) -> Iterator[str]:
    """Yield a row per field; parts that it is made of are noted."""
    hints = typing.get_type_hints(kind)
    yield "| key | type | |"
    yield "|---|---|---|"
    for field in msgspec.structs.fields(kind):
        if field.encode_name != "at":
            told = "" if field.required else f"= {_default(field)}"
            yield f"| `{field.encode_name}` | {_words(hints[field.name], parts)} | {told} |"


def _default(field: Any) -> str:
    if field.default is msgspec.UNSET:
        return "absent"
    if field.default is not msgspec.NODEFAULT:
        return f"`{field.default!r}`"
    return f"`{field.default_factory()!r}`" if field.default_factory in (list, dict) else "default"


def _words(hint: Any, parts: dict[str, type[Any]]) -> str:
    """Return a type in words."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _words(inner[0], parts)
    if origin is dict:
        return f"{_words(inner[1], parts)} by name"
    if origin is list:
        return f"list of {_words(inner[0], parts)}"
    if origin is tuple:
        return f"({', '.join(_words(one, parts) for one in inner)})"
    if inner:
        known = [_words(one, parts) for one in inner if one is not msgspec.UnsetType]
        return " or ".join(known)
    if hint is type(None):
        return "null"
    if isinstance(hint, type) and issubclass(hint, Part):
        parts[hint.__name__] = hint
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    return getattr(hint, "__name__", str(hint))


if __name__ == "__main__":
    OUT.write_text(document(), encoding="utf-8")
