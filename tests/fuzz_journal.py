"""Journals with one thing wrong, and every view of what is still read.

Each place in an event (a key at any depth; entries of a list, and of a mapping by names of the run,
count as one place) is taken out, and given a value of every other type.
"""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from frozen_runs import rendered

from lvm.core.errors import LvmError
from lvm.triage.journal import FILE_NAME, read_run
from lvm.triage.verdict import build_verdict
from lvm.views.report import Run, html
from lvm.views.report.markdown import report_sections
from lvm.views.terminal import Screen

Place = tuple[str | int, ...]
VALUES: tuple[Any, ...] = (None, True, 7, -1, 0.5, 1e300, "", "text", [], [None], {}, {"a": []})
GONE = object()


def places(value: Any, names: frozenset[str], at: Place = ()) -> Iterator[tuple[Place, Place]]:
    """Yield (path, shape of the path): of places of one shape a caller takes one."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield (*at, key), (*at, key)
            yield from places(item, names, (*at, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield (*at, number), (*at, number)
            yield from places(item, names, (*at, number))


def shape(path: Place, names: frozenset[str]) -> Place:
    """Return a path with `*` for places in lists and for names of a run."""
    return tuple("*" if isinstance(p, int) or p in names or p.isdigit() else p for p in path)


def names_of(events: list[dict[str, Any]]) -> frozenset[str]:
    """Return what a run calls its arms and predictors."""
    arms = [arm for event in events for arm in event.get("arms", [])]
    found = {arm[key] for arm in arms for key in ("id", "name") if key in arm}
    rows = [event["rows"] for event in events if event["event"] == "ladder"]
    return frozenset(found.union(*rows))


def mutations(events: list[dict[str, Any]]) -> Iterator[tuple[int, Place, Any]]:
    """Yield (event, path, value) once for every kind, shape of a path and value of another type."""
    names, seen = names_of(events), set()
    for number, event in enumerate(events):
        for path, _ in places(event, names):
            key = (event["event"], shape(path, names))
            if key in seen or path in (("event",), ("at",)):
                continue
            seen.add(key)
            old = at(event, path)
            yield number, path, GONE
            for value in VALUES:
                if type(value) is not type(old):
                    yield number, path, value


def at(event: Any, path: Place) -> Any:
    """Return the value at a path."""
    for part in path:
        event = event[part]
    return event


def changed(event: dict[str, Any], path: Place, value: Any) -> dict[str, Any]:
    """Return a copy of an event with another value at a path."""
    event = copy.deepcopy(event)
    inside = at(event, path[:-1])
    if value is GONE:
        del inside[path[-1]]
    else:
        inside[path[-1]] = value
    return event


def read(lines: list[str], folder: Path) -> bool:
    """Read a journal and look at it through every view; False where it is refused in one sentence.

    Any other error is a view's crash, and raised.
    """
    (folder / FILE_NAME).write_text("\n".join(lines) + "\n", encoding="utf-8")
    try:
        events = read_run(folder)
    except LvmError as error:
        if "\n" in str(error):
            raise AssertionError(f"more than one line: {error}") from error
        return False
    rendered(folder)
    document = build_verdict(events, resume="x")
    html.render(report_sections(Run(events, document)), "x")
    screen = Screen(io.StringIO())
    for event in events:
        screen.event(event)
    return True


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """Return the events of a kept run."""
    text = (folder / FILE_NAME).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
