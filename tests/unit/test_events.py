"""Lookups by the index against a look at every event."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest

from lvm.triage.state import RunState, indexed

KEYS = {
    "arm": ["a", "b", None, ["a"]],  # a list cannot be a key of the index, and is equal to itself
    "step": ["s", "t", ["s", "t"]],
    "epoch": [1, 2, 2.0],
}


def event(rng: random.Random, number: int) -> dict[str, Any]:
    values = {key: rng.choice(some) for key, some in KEYS.items() if rng.random() < 0.7}
    return {"event": rng.choice(["epoch", "rung"]), "number": number, **values}


def slow(events: list[dict[str, Any]], kind: str, **values: Any) -> list[dict[str, Any]]:
    found = [e for e in events if e["event"] == kind]
    return [e for e in found if all(e.get(key) == value for key, value in values.items())]


@pytest.mark.parametrize("seed", range(5))
def test_a_lookup_finds_what_a_look_at_every_event_finds(seed: int) -> None:
    rng, every, events, hits = random.Random(seed), [], RunState(), 0
    for number in range(300):
        every.append(event(rng, number))
        events.append(every[-1])
        kind = rng.choice(["epoch", "rung", "unknown"])
        values = {k: rng.choice(v) for k, v in rng.sample(sorted(KEYS.items()), rng.randint(0, 3))}
        wanted = slow(every, kind, **values)
        assert events.of(kind, **values) == wanted
        assert events.last(kind, **values) == (wanted[-1] if wanted else None)
        hits += bool(wanted)
    assert hits > 100


def test_the_events_of_some_arms_come_in_the_order_of_the_journal() -> None:
    rng = random.Random(1)
    every = [event(rng, number) for number in range(100)]
    wanted = [e for e in every if e.get("arm") in ("a", "b")]
    assert RunState(every).about({"b", "a", "nobody"}) == wanted
    assert RunState(every).about(set()) == []


def test_events_are_a_sequence_like_any_other() -> None:
    every = [event(random.Random(2), number) for number in range(10)]
    events = RunState(every)
    assert events == every == list(events)
    assert (len(events), events[0], events[-1]) == (10, every[0], every[-1])
    assert events[2:5] == every[2:5]
    assert list(reversed(events)) == every[::-1]
    assert copy.deepcopy(events) == events != RunState(every[1:])
    assert not RunState()


def test_what_has_an_index_is_not_indexed_again() -> None:
    events = RunState([{"event": "epoch"}])
    assert indexed(events) is events
    assert indexed([{"event": "epoch"}]) == events
