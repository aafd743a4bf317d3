"""Lookups by the index against a look at every event."""

from __future__ import annotations

import copy
import random
from typing import Any

import made
import pytest

from lvm.triage.events import ArmEnded, ArmRestarted, Event, Waiting
from lvm.triage.state import RunState, indexed

KINDS: tuple[type[Event], ...] = (ArmEnded, ArmRestarted, Waiting)
VALUES: dict[str, list[Any]] = {"arm": ["a", "b", "c"], "step": ["s", "t"], "epoch": [1, 2]}


def event(rng: random.Random) -> Event:
    kind = rng.choice(KINDS[:2])
    return made.event(kind, **{key: rng.choice(some) for key, some in VALUES.items()})


def slow(events: list[Event], kind: type[Event], **values: Any) -> list[Event]:
    found = [e for e in events if isinstance(e, kind)]
    return [e for e in found if all(getattr(e, key) == value for key, value in values.items())]


@pytest.mark.parametrize("seed", range(5))
def test_a_lookup_finds_what_a_look_at_every_event_finds(seed: int) -> None:
    rng, every, events, hits = random.Random(seed), [], RunState(), 0
    for _ in range(300):
        every.append(event(rng))
        events.append(every[-1])
        kind = rng.choice(KINDS)
        asked = rng.sample(sorted(VALUES), rng.randint(0, 3))
        values = {key: rng.choice([*VALUES[key], "of no event"]) for key in asked}
        wanted = slow(every, kind, **values)
        assert events.of(kind, **values) == wanted
        assert events.last(kind, **values) == (wanted[-1] if wanted else None)
        hits += bool(wanted)
    assert hits > 100


def test_the_events_of_some_arms_come_in_the_order_of_the_journal() -> None:
    rng = random.Random(1)
    every = [event(rng) for _ in range(100)]
    wanted = [e for e in every if e.arm in ("a", "b")]
    assert RunState(every).about({"b", "a", "nobody"}) == wanted
    assert RunState(every).about(set()) == []


def test_events_are_a_sequence_like_any_other() -> None:
    rng = random.Random(2)
    every = [event(rng) for _ in range(10)]
    events = RunState(every)
    assert events == every == list(events)
    assert (len(events), events[0], events[-1]) == (10, every[0], every[-1])
    assert events[2:5] == every[2:5]
    assert list(reversed(events)) == every[::-1]
    assert copy.deepcopy(events) == events != RunState(every[1:])
    assert not RunState()


def test_what_has_an_index_is_not_indexed_again() -> None:
    events = RunState([made.event(Waiting)])
    assert indexed(events) is events
    assert indexed([made.event(Waiting)]) == events
