"""The state of a run: its events, folded into an index by kind and by what they say.

    state = RunState(events)
    state.of(Epoch, arm="3f2a")           the epochs of one arm, in order
    state.last(Decision, action="Stop")   one event, or None
    state.append(event)                   the state grows with the run

Every reader of a journal looks events up here. A lookup costs what it returns: the index of a kind
and some fields is built when they are first asked for, and kept from then on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TypeVar, cast, overload

from msgspec.structs import replace

from lvm.triage.events import ArmsAdded, Decision, Event, Resumed, RunStarted, StepStarted
from lvm.triage.events.parts import Arguments

E = TypeVar("E", bound=Event)
Table = dict[tuple[object, ...], list[int]]  # values of some fields -> places of the events


class RunState(Sequence[Event]):
    """The events of one run in order. They must not be changed; for one thread at a time."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._events: list[Event] = []
        self._tables: dict[type[Event], dict[tuple[str, ...], Table]] = {}
        self._of_arm: dict[str, list[int]] = {}
        for event in events:
            self.append(event)

    def append(self, event: Event) -> None:
        """Add an event, at the same cost whatever came before."""
        if isinstance(event, ArmsAdded):
            self._add_arms(event)
        place = len(self._events)
        self._events.append(event)
        tables = self._tables.setdefault(type(event), {(): {}})
        for fields, table in tables.items():
            _enter(table, event, fields, place)
        arm = getattr(event, "arm", None)
        if arm is not None:
            self._of_arm.setdefault(arm, []).append(place)

    def of(self, kind: type[E], **values: object) -> list[E]:
        """Return the events of one kind with these values, in order."""
        return [cast(E, self._events[place]) for place in self._places(kind, values)]

    def last(self, kind: type[E], **values: object) -> E | None:
        """Return the last event of one kind with these values, or None."""
        places = self._places(kind, values)
        return cast(E, self._events[places[-1]]) if places else None

    def about(self, arms: Collection[str]) -> list[Event]:
        """Return the events whose `arm` is one of these, in order."""
        places = sorted(place for arm in arms for place in self._of_arm.get(arm, ()))
        return [self._events[place] for place in places]

    def _add_arms(self, event: ArmsAdded) -> None:
        """Add them to the start of their step: a reader knows one list of arms."""
        places = self._places(StepStarted, {"step": event.step})
        if places:
            started = cast(StepStarted, self._events[places[-1]])
            known = {arm.id for arm in started.arms}
            self._events[places[-1]] = replace(
                started,
                arms=[*started.arms, *(arm for arm in event.arms if arm.id not in known)],
                left_out={**started.left_out, **event.left_out},
            )

    # --- what a run is asked ----------------------------------------------------------------------

    @property
    def started(self) -> RunStarted | None:
        """The configuration, data and code of the run."""
        return self.last(RunStarted)

    @property
    def arguments(self) -> Arguments:
        """What the run is asked, with the paths where its files were last found."""
        starts = [event for event in self if isinstance(event, RunStarted | Resumed)]
        known = [event.arguments for event in starts if event.arguments != Arguments()]
        return known[-1] if known else Arguments()

    @property
    def address(self) -> str | None:
        """The cluster that the run last had; None where it has one of its own."""
        starts = [event for event in self if isinstance(event, RunStarted | Resumed)]
        return starts[-1].address if starts else None

    @property
    def steps(self) -> list[StepStarted]:
        """The steps that were begun; other races, as phase 1 or a confirmation, are none."""
        return [event for event in self.of(StepStarted) if event.number is not None]

    @property
    def stop(self) -> Decision | None:
        """How the run ended; None while it runs."""
        return self.last(Decision, action="Stop")

    @property
    def causes(self) -> list[str]:
        """What the run names as the cause; nothing while it runs."""
        return list(self.stop.cause or ()) if self.stop else []

    # --- the index --------------------------------------------------------------------------------

    def _places(self, kind: type[Event], values: dict[str, object]) -> Sequence[int]:
        tables = self._tables.get(kind)
        if tables is None:
            return ()
        fields = tuple(values)
        if fields not in tables:
            table: Table = {}
            for place in tables[()].get((), ()):
                _enter(table, self._events[place], fields, place)
            tables[fields] = table
        return tables[fields].get(tuple(values.values()), ())

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


def indexed(events: Iterable[Event]) -> RunState:
    """Return events with their index: themselves where they have one."""
    return events if isinstance(events, RunState) else RunState(events)


def _enter(table: Table, event: Event, fields: tuple[str, ...], place: int) -> None:
    table.setdefault(tuple(getattr(event, field) for field in fields), []).append(place)
