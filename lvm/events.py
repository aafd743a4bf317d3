"""The events of a run with an index: a lookup costs what it returns, not what came before it.

    Events(read_journal(folder)).of("epoch", arm="3f2a")     the epochs of one arm, in order
    events.last("decision", action="Stop")                   one event, or None
    events.append(event)                                     the index grows with it

Every reader of a journal looks events up here. The index of a kind and some keys is built when
they are first asked for, and kept from then on.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

Event = Mapping[str, Any]
Table = dict[tuple[Any, ...], list[int]]  # values of some keys -> places of the events


class Events(Sequence[Event]):
    """The events of one run in order. They must not be changed; for one thread at a time."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._events: list[Event] = []
        self._tables: dict[str, dict[tuple[str, ...], Table]] = {}  # kind -> keys -> table
        self._of_arm: dict[Any, list[int]] = {}
        for event in events:
            self.append(event)

    def append(self, event: Event) -> None:
        """Add an event, at the same cost whatever came before."""
        place = len(self._events)
        self._events.append(event)
        tables = self._tables.setdefault(event["event"], {(): {}})
        for keys, table in tables.items():
            _enter(table, [event.get(key) for key in keys], place)
        if "arm" in event:
            _enter(self._of_arm, [event["arm"]], place)

    def of(self, kind: str, **values: Any) -> list[Event]:
        """Return the events of one kind with these values in order; an absent value is None."""
        return [self._events[place] for place in self._places(kind, values)]

    def last(self, kind: str, **values: Any) -> Event | None:
        """Return the last event of one kind with these values, or None."""
        places = self._places(kind, values)
        return self._events[places[-1]] if places else None

    def about(self, arms: Collection[str]) -> list[Event]:
        """Return the events whose `arm` is one of these, in order."""
        places = sorted(place for arm in arms for place in self._of_arm.get((arm,), ()))
        return [self._events[place] for place in places]

    def _places(self, kind: str, values: Mapping[str, Any]) -> Sequence[int]:
        tables = self._tables.get(kind)
        if tables is None:
            return ()
        keys, wanted = tuple(values), tuple(values.values())
        if not _hashable(wanted):
            own = tables[()].get((), ())
            return [p for p in own if all(self._events[p].get(k) == values[k] for k in keys)]
        if keys not in tables:
            table: Table = {}
            for place in tables[()].get((), ()):
                _enter(table, [self._events[place].get(key) for key in keys], place)
            tables[keys] = table
        return tables[keys].get(wanted, ())

    @overload
    def __getitem__(self, place: int) -> Event: ...

    @overload
    def __getitem__(self, place: slice) -> list[Event]: ...

    def __getitem__(self, place: int | slice) -> Event | list[Event]:
        return self._events[place]

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events)

    def __len__(self) -> int:
        return len(self._events)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._events == list(other)

    __hash__ = None  # type: ignore[assignment]  # it grows


def indexed(events: Iterable[Event]) -> Events:
    """Return events with their index: themselves where they have one."""
    return events if isinstance(events, Events) else Events(events)


def _enter(table: Table, values: Sequence[Any], place: int) -> None:
    """Note a place; what cannot be a key equals nothing that can, so it is left out."""
    wanted = tuple(values)
    if _hashable(wanted):
        table.setdefault(wanted, []).append(place)


def _hashable(values: tuple[Hashable, ...]) -> bool:
    try:
        hash(values)
    except TypeError:
        return False
    return True
