from __future__ import annotations

import io

import pytest

from lvm.terminal import OTHER_LINES, Screen, duration, models_table
from lvm.triage.journal import read_journal
from lvm.triage.verdict import build_verdict


@pytest.fixture(scope="module")
def events(tiny_folder):
    return list(read_journal(tiny_folder))[1:]  # the tiny run_started says nothing of the data


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
        if event["event"] == "decision":
            assert f"since {event['since']}." in text
        if event["event"] == "arm_ended":
            assert f"{event['name']}: {event['reason']} at epoch {event['epoch']}" in text
        if event["event"] == "arm_judged" and event["role"] == "arm":
            assert f"stage gate {event['stage']['verdict']}, {event['stage']['reason']}" in text


def test_a_terminal_shows_the_running_step(events) -> None:
    start = next(i for i, e in enumerate(events) if e["event"] == "step_started" and "number" in e)
    upto = next(i for i, e in enumerate(events) if i > start + 1 and e["event"] == "epoch") + 1
    stream = Terminal()
    screen = Screen(stream)
    for event in events[:upto]:
        screen.event(event)
    screen.console.width = 160
    screen.console.print(screen._render())
    text = stream.getvalue()
    last = events[upto - 1]
    assert events[start]["title"] in text
    assert f"{last['epoch']}/{events[start]['epochs']}" in text
    assert f"{last['eval_cosine']:.3f}" in text
    for arm in events[start]["arms"]:
        assert arm["name"] in text


def many_arms(num: int) -> list[dict]:
    """A step of many arms: the first three have begun, the fourth was pruned."""
    specs = [{"id": str(i), "name": f"arm {i}"} for i in range(num)]
    began = [
        {"event": "epoch", "at": float(i), "arm": str(i), "name": f"arm {i}", "epoch": 1}
        for i in range(4)
    ]
    pruned = {
        "event": "arm_ended",
        "at": 9.0,
        "arm": "3",
        "name": "arm 3",
        "reason": "pruned",
        "epoch": 1,
        "detail": "",
    }
    step = {"event": "step_started", "step": "s", "title": "S", "epochs": 2, "arms": specs}
    return [step, *began, pruned]


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


def test_the_screen_survives_any_part_of_a_run_and_unknown_events(events) -> None:
    for cut in range(0, len(events), 7):
        assert shown([*events[:cut], {"event": "from_the_future"}], Terminal())


def test_a_resume_says_what_it_tries_again() -> None:
    arms = [{"arm": f"arm {i}", "step": "negatives"} for i in range(5)]
    (line,) = shown(
        [{"event": "reopened", "step": "negatives", "arms": arms}], io.StringIO()
    ).splitlines()
    assert line.endswith("arm 2 of negatives and 2 more.")
    assert "Trying again: arm 0 of negatives" in line


def test_a_network_below_the_ladder_is_told_when_it_is_found() -> None:
    finding = {"code": "BELOW_LADDER", "seen": "AR-only reaches .4", "meaning": "It is lost."}
    event = {"event": "below_ladder", "findings": [finding], "gains": {}, "reason": ""}
    (line,) = shown([event], io.StringIO()).splitlines()
    assert line.endswith("BELOW_LADDER: AR-only reaches .4. It is lost.")
    assert shown([{**event, "findings": []}], io.StringIO()) == ""


def test_markup_in_a_name_is_shown_as_it_is() -> None:
    stream = io.StringIO()
    Screen(stream).say("[red]not a colour[/red]")
    assert stream.getvalue() == "[red]not a colour[/red]\n"


def test_run_started_tells_what_the_data_is() -> None:
    data = {
        "source": "a bank",
        "rows": 12345,
        "width": 16,
        "windows": {"train": 1000, "dev": 2},
    }
    event = {
        "event": "run_started",
        "data": data,
        "config": {"gates": {"stage_eval_cosine": 0.35}},
    }
    text = shown([event], io.StringIO())
    assert "a bank: 12,345 vectors of width 16, windows train 1,000, dev 2" in text
    data["drawn_from"] = {"dev": {"windows": 61737, "articles": 3000}}
    assert "windows train 1,000, dev 2 of 61,737\n" in shown([event], io.StringIO())


def test_the_table_holds_models_and_ladder(events) -> None:
    document = build_verdict(events, resume="")
    stream = io.StringIO()
    screen = Screen(stream)
    screen.console.width = 200
    screen.console.print(models_table(document))
    lines = stream.getvalue().splitlines()
    for model in document["models"]:
        (line,) = (x for x in lines if x.startswith(f"{model['name']} "))
        assert f"{model['masked']['mrr']:.3f}" in line
    assert sum(x.startswith("ladder: ") for x in lines) == len(document["ladder"])


@pytest.mark.parametrize(
    ("seconds", "want"), [(0, "0:00"), (59.9, "0:59"), (61, "1:01"), (3661, "61:01")]
)
def testdurations(seconds, want) -> None:
    assert duration(seconds) == want
