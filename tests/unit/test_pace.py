"""The time left, kept up event by event, against the same said of all events at once."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from lvm.triage.pace import AFTER_A_STEP, NUM_GAPS, Progress

EPOCHS = 6


def slow_seconds_left(events: list[dict[str, Any]]) -> float | None:
    """What `Progress.seconds_left` stands for, from every event anew."""
    starts = [i for i, e in enumerate(events) if e["event"] in ("step_started", *AFTER_A_STEP)]
    if not starts or events[starts[-1]]["event"] != "step_started":
        return None
    started, *step = events[starts[-1] :]
    stretches: list[list[dict[str, Any]]] = [[]]
    for event in step:
        if event["event"] == "resumed":
            stretches.append([])
        elif event["event"] == "epoch" and event["epoch"] > 0:
            stretches[-1].append(event)
    stretches = [stretch for stretch in stretches if stretch]
    gone = {e["arm"] for e in step if e["event"] == "arm_ended"}
    left = {}
    for spec in started["arms"]:
        epochs = [e["epoch"] for e in events if e["event"] == "epoch" and e["arm"] == spec["id"]]
        if spec["id"] not in gone and spec["source"] is None:
            left[spec["id"]] = max(0, EPOCHS - max(epochs, default=0))
    if not any(left.values()):
        return 0.0
    if not stretches:
        return None
    busy = sum(s[-1]["at"] - s[0]["at"] + s[0]["seconds"] for s in stretches)
    together = busy / sum(map(len, stretches)) * sum(left.values())
    alone = []
    for arm, epochs_left in left.items():
        own = [e for e in stretches[-1] if e["arm"] == arm][-NUM_GAPS - 1 :]
        gap = own[0]["seconds"] if own else 0.0
        if len(own) > 1:
            gap = (own[-1]["at"] - own[0]["at"]) / (len(own) - 1)
        alone.append(gap * epochs_left)
    return round(max(together, *alone), 1)


def walk(rng: random.Random) -> list[dict[str, Any]]:
    """A run of a few steps that share arms, with endings, interruptions and searched arms."""
    clock = itertools.accumulate(rng.choice([0.5, 1.0, 30.0]) for _ in itertools.count())
    events: list[dict[str, Any]] = [{"event": "run_started", "at": 0.0, "config": {}}]
    epochs = dict.fromkeys("abcdefgh", 0)
    for number in range(3):
        arms = rng.sample(sorted(epochs), rng.randint(1, 6))
        source = {arm: "a checkpoint" if rng.random() < 0.1 else None for arm in arms}
        specs = [
            {"id": arm, "source": source[arm], "recipe": {"training": {"epochs": EPOCHS}}}
            for arm in arms
        ]
        step = f"step {number}"
        events.append({"event": "step_started", "at": next(clock), "step": step, "arms": specs})
        running = list(arms)
        while running:
            arm, at = rng.choice(running), next(clock)
            if rng.random() < 0.1:
                events += [{"event": "interrupted", "at": at}, {"event": "resumed", "at": at + 99}]
            epochs[arm] = min(EPOCHS, epochs[arm] + 1) if source[arm] is None else 0
            events.append(
                {
                    "event": "epoch",
                    "at": at + 99,
                    "arm": arm,
                    "step": step,
                    "epoch": epochs[arm],
                    "seconds": rng.choice([0.5, 7.0]),
                }
            )
            if source[arm] or epochs[arm] == EPOCHS or rng.random() < 0.15:
                running.remove(arm)
                events.append({"event": "arm_ended", "at": at + 99, "arm": arm, "step": step})
        if rng.random() < 0.7:
            events.append({"event": rng.choice(AFTER_A_STEP), "at": next(clock), "step": step})
    return events


@pytest.mark.parametrize("seed", range(20))
def test_the_time_left_after_every_event_is_that_of_all_events_at_once(seed: int) -> None:
    events, progress, answers = walk(random.Random(seed)), Progress(), set()
    for count, event in enumerate(events, start=1):
        progress.take(event)
        assert progress.seconds_left == slow_seconds_left(events[:count])
        answers.add(progress.seconds_left)
    assert len(answers) > 5  # the walk asked something
