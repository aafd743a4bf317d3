from __future__ import annotations

import io

import made
import pytest

from lvm.core.records import Absence, StopReason
from lvm.triage.events import (
    ArmEnded,
    ArmJudged,
    BelowLadder,
    Decision,
    Epoch,
    Event,
    Nodes,
    Reopened,
    RunStarted,
    StepStarted,
)
from lvm.triage.journal import read_run
from lvm.triage.verdict import build_verdict
from lvm.views.terminal import OTHER_LINES, Screen, duration, models_table


@pytest.fixture(scope="module")
def events(tiny_folder):
    return list(read_run(tiny_folder))[1:]  # the tiny run_started says nothing of the data


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(events, stream):
    with Screen(stream) as screen:
        for event in events:
            screen.event(event)
    return stream.getvalue()


def test_plain_output_tells_every_decision_and_every_ending(events) -> None:
    text = shown(events, io.StringIO())
    assert "\x1b" not in text  # no colours in a file
    for event in events:
        if isinstance(event, Decision):
            assert f"({event.since})." in text
        if isinstance(event, ArmEnded):
            assert f"{event.name}: {event.reason} at epoch {event.epoch}" in text
        if isinstance(event, ArmJudged) and event.role == "arm":
            assert f"stage gate {event.stage.verdict}, {event.stage.reason}" in text


def test_a_terminal_shows_the_running_step(events) -> None:
    first = next(e for e in events if isinstance(e, StepStarted) and e.number is not None)
    start = events.index(first)
    upto = next(i for i, e in enumerate(events) if i > start + 1 and isinstance(e, Epoch)) + 1
    stream = Terminal()
    screen = Screen(stream)
    for event in events[:upto]:
        screen.event(event)
    screen.console.width = 160
    screen.console.print(screen._render())
    text = stream.getvalue()
    last = events[upto - 1]
    assert first.title in text
    assert f"{last.epoch}/{first.epochs}" in text
    assert f"{last.eval_cosine:.3f}" in text
    for arm in first.arms:
        assert arm.name in text


def many_arms(num: int) -> list[Event]:
    """A step of many arms: the first three have begun, the fourth was pruned."""
    specs = [made.arm(str(i), name=f"arm {i}") for i in range(num)]
    began = [made.event(Epoch, at=float(i), arm=str(i), name=f"arm {i}") for i in range(4)]
    pruned = made.event(ArmEnded, at=9.0, arm="3", name="arm 3", reason="pruned")
    return [made.event(StepStarted, epochs=2, arms=specs), *began, pruned]


@pytest.mark.parametrize("num", [50, 5000])
def test_a_frame_has_as_many_rows_as_the_terminal_and_counts_the_other_arms(num: int) -> None:
    screen = Screen(io.StringIO())
    screen.console.size = (120, 20)
    for event in many_arms(num):
        screen.event(event)
    before = len(screen.console.file.getvalue())
    screen.console.print(screen._render())
    lines = screen.console.file.getvalue()[before:].splitlines()
    assert len(lines) <= 20
    names = [" ".join(line.split()[:2]) for line in lines[2:-1]]
    room = 20 - OTHER_LINES
    # Arms that run stand before arm 3, which has ended.
    assert names == [f"arm {i}" for i in [0, 1, 2, *range(4, room + 1)]]
    assert lines[-1] == f"and {num - room:,} more arms: {num - room - 1:,} not begun, 1 pruned"


def test_the_screen_survives_any_part_of_a_run(events) -> None:
    for cut in range(0, len(events), 7):
        assert shown([*events[:cut], made.event(Nodes, nodes={})], Terminal())


def test_a_resume_says_what_it_tries_again() -> None:
    arms = [
        Absence(step="negatives", arm=f"arm {i}", role="arm", reason=StopReason.CRASHED)
        for i in range(5)
    ]
    (line,) = shown([made.event(Reopened, arms=arms)], io.StringIO()).splitlines()
    assert line.endswith("arm 2 of negatives and 2 more.")
    assert "Retrying: arm 0 of negatives" in line


def test_a_network_below_the_ladder_is_told_when_it_is_found() -> None:
    finding = {
        "code": "BELOW_LADDER",
        "severity": "warn",
        "seen": "AR-only reaches .4",
        "allowed": "",
        "where": {},
        "meaning": "It is lost.",
        "next": "",
    }
    event = made.event(BelowLadder, findings=[finding])
    (line,) = shown([event], io.StringIO()).splitlines()
    assert line.endswith("BELOW_LADDER: AR-only reaches .4. It is lost.")
    assert shown([made.event(BelowLadder)], io.StringIO()) == ""


def test_markup_in_a_name_is_shown_as_it_is() -> None:
    stream = io.StringIO()
    Screen(stream).say("[red]not a colour[/red]")
    assert stream.getvalue() == "[red]not a colour[/red]\n"


def test_run_started_tells_what_the_data_is() -> None:
    data = {
        "source": "a bank",
        "rows": 12345,
        "width": 16,
        "fingerprint": None,
        "windows": {"train": 1000, "dev": 2},
        "articles": {},
    }
    text = shown([made.event(RunStarted, data=data)], io.StringIO())
    assert "a bank: 12,345 vectors of width 16, windows train 1,000, dev 2" in text
    data["drawn_from"] = {"dev": {"windows": 61737, "articles": 3000}}
    text = shown([made.event(RunStarted, data=data)], io.StringIO())
    assert "windows train 1,000, dev 2 of 61,737\n" in text


def test_the_table_holds_models_and_ladder(events) -> None:
    document = build_verdict(events, resume="")
    stream = io.StringIO()
    screen = Screen(stream)
    screen.console.width = 200
    screen.console.print(models_table(document))
    lines = stream.getvalue().splitlines()
    for model in document.models:
        (line,) = (x for x in lines if x.startswith(f"{model.name} "))
        assert f"{model.masked['mrr']:.3f}" in line
    assert sum(x.startswith("ladder: ") for x in lines) == len(document.ladder)


@pytest.mark.parametrize(
    ("seconds", "want"), [(0, "0:00"), (59.9, "0:59"), (61, "1:01"), (3661, "61:01")]
)
def testdurations(seconds, want) -> None:
    assert duration(seconds) == want
