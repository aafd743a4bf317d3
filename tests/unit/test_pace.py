"""The time left, kept up event by event, against the same said of all events at once."""

from __future__ import annotations

import itertools
import random

import made
import pytest

from lvm.triage.events import ArmEnded, Epoch, Event, Interrupted, Resumed, RunStarted, StepStarted
from lvm.triage.pace import AFTER_A_STEP, NUM_GAPS, Progress

EPOCHS = 6


def slow_seconds_left(events: list[Event]) -> float | None:
    """What `Progress.seconds_left` stands for, from every event anew."""
    turns = [e for e in events if isinstance(e, (StepStarted, *AFTER_A_STEP))]
    if not turns or not isinstance(turns[-1], StepStarted):
        return None
    started, step = turns[-1], events[events.index(turns[-1]) + 1 :]
    stretches: list[list[Epoch]] = [[]]
    for event in step:
        if isinstance(event, Resumed):
            stretches.append([])
        elif isinstance(event, Epoch) and event.epoch > 0:
            stretches[-1].append(event)
    stretches = [stretch for stretch in stretches if stretch]
    gone = {e.arm for e in step if isinstance(e, ArmEnded)}
    left = {}
    for spec in started.arms:
        epochs = [e.epoch for e in events if isinstance(e, Epoch) and e.arm == spec.id]
        if spec.id not in gone and spec.source is None:
            left[spec.id] = max(0, EPOCHS - max(epochs, default=0))
    if not any(left.values()):
        return 0.0
    if not stretches:
        return None
    busy = sum(s[-1].at - s[0].at + s[0].seconds for s in stretches)
    together = busy / sum(map(len, stretches)) * sum(left.values())
    alone = []
    for arm, epochs_left in left.items():
        own = [e for e in stretches[-1] if e.arm == arm][-NUM_GAPS - 1 :]
        gap = own[0].seconds if own else 0.0
        if len(own) > 1:
            gap = (own[-1].at - own[0].at) / (len(own) - 1)
        alone.append(gap * epochs_left)
    return round(max(together, *alone), 1)


def walk(rng: random.Random) -> list[Event]:
    """A run of a few steps that share arms, with endings, interruptions and searched arms."""
    clock = itertools.accumulate(rng.choice([0.5, 1.0, 30.0]) for _ in itertools.count())
    events: list[Event] = [made.event(RunStarted)]
    epochs = dict.fromkeys("abcdefgh", 0)
    for number in range(3):
        arms = rng.sample(sorted(epochs), rng.randint(1, 6))
        source = {arm: "a checkpoint" if rng.random() < 0.1 else None for arm in arms}
        specs = [made.arm(arm, epochs=EPOCHS, source=source[arm]) for arm in arms]
        step = f"step {number}"
        events.append(made.event(StepStarted, at=next(clock), step=step, arms=specs))
        running = list(arms)
        while running:
            arm, at = rng.choice(running), next(clock)
            if rng.random() < 0.1:
                events += [Interrupted(at=at), Resumed(at=at + 99)]
            epochs[arm] = min(EPOCHS, epochs[arm] + 1) if source[arm] is None else 0
            about = {"at": at + 99, "arm": arm, "step": step, "epoch": epochs[arm]}
            events.append(made.event(Epoch, **about, seconds=rng.choice([0.5, 7.0])))
            if source[arm] or epochs[arm] == EPOCHS or rng.random() < 0.15:
                running.remove(arm)
                events.append(made.event(ArmEnded, **about))
        if rng.random() < 0.7:
            events.append(made.event(rng.choice(AFTER_A_STEP), at=next(clock)))
    return events


@pytest.mark.parametrize("seed", range(20))
def test_the_time_left_after_every_event_is_that_of_all_events_at_once(seed: int) -> None:
    events, progress, answers = walk(random.Random(seed)), Progress(), set()
    for count, event in enumerate(events, start=1):
        progress.take(event)
        assert progress.seconds_left == slow_seconds_left(events[:count])
        answers.add(progress.seconds_left)
    assert len(answers) > 5  # the walk asked something
