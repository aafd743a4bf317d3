"""`lvm status`, JSON lines, and reports of runs that are still going, from cut and odd journals."""

from __future__ import annotations

import io
import json
from pathlib import Path

import made
import msgspec
import pytest
import tiny

from lvm.audit.document import AuditDocument
from lvm.cli import main
from lvm.core.command import run_command
from lvm.core.errors import ResumeError
from lvm.core.records import to_plain
from lvm.jobs.doors import triage_parser as parser
from lvm.jobs.job import Job
from lvm.triage.events import (
    KINDS,
    ArmEnded,
    Audited,
    Decision,
    Epoch,
    Interrupted,
    Phase1Judged,
    Resumed,
    Rung,
    RunStarted,
    StepEnded,
    StepStarted,
    kind_of,
)
from lvm.triage.journal import Journal, read_run
from lvm.triage.lock import Driver
from lvm.triage.owner import Owner
from lvm.triage.state import RunState
from lvm.triage.verdict import build_verdict
from lvm.views.progress import JsonLines, line, seconds_left
from lvm.views.status import Driving, status
from lvm.views.status.screen import screen
from tune_jobs import triage

CONFIG = tiny.config(base=tiny.recipe(**{"training.epochs": 2}), stage=0.3)
STARTED = tiny.started(CONFIG)


@pytest.fixture(scope="module")
def events():
    """A finished run of one step and a confirmed arm, as an earlier version wrote it."""
    text = (Path(__file__).parents[1] / "data/journal.jsonl").read_text()
    return [json.loads(row) for row in text.splitlines()]


@pytest.fixture
def journal(events, tmp_path):
    """The same as this version reads it."""
    return read_run(write(tmp_path / "kept", events))


def needs(event):
    """The fields that an event cannot be told without."""
    ends = ["verdict", "cause"] if event.get("action") == "Stop" else []
    found = msgspec.structs.fields(KINDS[event["event"]])
    return [
        *ends,
        *(field.name for field in found if field.required and field.name not in ("at", "schema")),
    ]


def write(folder, events):
    folder.mkdir(exist_ok=True)
    lines = "".join(json.dumps(to_plain(e)) + "\n" for e in events)
    (folder / "journal.jsonl").write_text(lines)
    return folder


def arm(name, epochs=4):
    return made.arm(f"id of {name}", name=name, epochs=epochs)


START = made.event(RunStarted, **STARTED)


def running(*after, arms=("a", "b")):
    """A step that began at second 100, and what came after it."""
    step = made.event(
        StepStarted,
        at=100.0,
        step="temperature",
        title="Temperature",
        number=2,
        epochs=4,
        arms=[arm(name) for name in arms],
    )
    return [START, step, *after]


def epoch(at, name, number, *, seconds=1.0, cosine=0.2, step="temperature"):
    return made.event(
        Epoch,
        at=at,
        arm=f"id of {name}",
        step=step,
        name=name,
        epoch=number,
        eval_cosine=cosine,
        r_at_5=0.1,
        loss=1.0,
        stage="FAIL",
        seconds=seconds,
    )


def ended(at, name, number, reason="pruned", detail=""):
    about = {"arm": f"id of {name}", "step": "temperature", "name": name}
    return made.event(ArmEnded, at=at, **about, epoch=number, reason=reason, detail=detail)


# --- every part of a run --------------------------------------------------------------------------


def test_every_prefix_gives_one_screen_and_a_report_that_says_it_is_partial(
    events, tmp_path, capsys
) -> None:
    for cut in range(1, len(events) + 1):
        run = write(tmp_path / "run", events[:cut])
        with (run / "journal.jsonl").open("a") as file:
            file.write('{"event": "epoch", "at": 1.0, "ar')  # a line that is being written
        assert main(["status", str(run)]) == 0
        seen = capsys.readouterr().out
        assert len(seen.splitlines()) <= 24
        assert all(len(text) <= 80 for text in seen.splitlines()[:-1])  # the last is a command
        assert main(["status", "--json", str(run)]) == 0
        json.loads(capsys.readouterr().out)
        assert main(["report", str(run)]) == 0
        report = (run / "report.md").read_text()
        partial = cut < len(events)
        assert report.startswith("# Triage report: UNFINISHED") == partial
        assert ("this is partial" in report.split("##")[1]) == partial
        assert ("partial" in capsys.readouterr().out) == partial


def test_events_from_the_future_change_nothing(events, tmp_path, capsys) -> None:
    future = {"event": "dreamt", "of": {"electric": ["sheep"]}, "step": None}
    mixed = [e for event in events for e in ({**event, "new": [1]}, {**future, "at": event["at"]})]
    for name, journal in (("plain", events), ("mixed", mixed)):
        run = write(tmp_path / name, journal)
        assert main(["report", str(run)]) == 0
    at = events[-1]["at"]
    plain, other = (status(read_run(tmp_path / n), tmp_path, at) for n in ("plain", "mixed"))
    assert plain == other
    one, two = ((tmp_path / n / "report.md").read_text() for n in ("plain", "mixed"))
    assert one.splitlines()[:20] == two.splitlines()[:20]


def test_events_without_newer_fields_are_still_told(events, tmp_path) -> None:
    always = {"event", "at", "schema", "number"}
    old = [{k: v for k, v in e.items() if k in {*needs(e), *always}} for e in events]
    run = write(tmp_path / "run", old)
    assert main(["report", str(run)]) == 0
    assert main(["status", str(run)]) == 0


# --- incomplete and foreign journals --------------------------------------------------------------


@pytest.mark.parametrize("command", ["status", "report", "track"])
def test_a_folder_that_is_no_run_is_one_sentence(command, tmp_path, capsys) -> None:
    def said(run):
        assert run_command(main, [command, str(run)]) == 2
        captured = capsys.readouterr()
        assert (captured.out, captured.err.count("\n")) == ("", 1)
        return captured.err

    assert "cannot be read" in said(tmp_path / "nowhere")
    foreign = write(tmp_path / "foreign", [{"name": "another program", "at": 3}])
    assert "line 1 is not a valid lvm event" in said(foreign)
    headless = write(tmp_path / "headless", [epoch(1.0, "a", 1)])
    assert "line 1 is not a valid lvm event" in said(headless)
    other = write(tmp_path / "other", [msgspec.structs.replace(START, schema=9)])
    assert "has schema 9" in said(other)
    empty = write(tmp_path / "empty", [])
    (empty / "journal.jsonl").write_text('{"event": "run_st')
    assert "is empty: the run has not started yet" in said(empty)


def test_an_event_without_what_it_needs_is_named_with_its_line(events, tmp_path) -> None:
    tried = set()
    for number, event in enumerate(events, start=1):
        for key in needs(event):
            if (event["event"], key) in tried:
                continue
            tried.add((event["event"], key))
            less = {k: v for k, v in event.items() if k != key}
            run = write(tmp_path / "run", [*events[: number - 1], less, *events[number:]])
            with pytest.raises(ResumeError, match=rf"line {number} \(.*`{key}`"):
                read_run(run)
    assert len(tried) > 30
    text = write(tmp_path / "run", [{**events[0], "config": "a string"}, *events[1:]])
    with pytest.raises(ResumeError, match=r"line 1 \(run_started\).*config"):
        read_run(text)


# --- what it says ---------------------------------------------------------------------------------


def driver(*, age=2.0, lives=True):
    """What a lock says of a driver of this run."""
    owner = Owner(host="node-7", boot="b", space="s", pid=4321, started="1", token="t")
    return Driver(owner=owner, key="t", touched=0.0, age=age, lives=lives)


def told(events, now, folder="/a/run", by=None):
    seen = status(RunState(events), Path(folder), now, by)
    return seen, "\n".join(screen(seen))


def test_a_running_step_shows_its_arms_against_the_gate_and_what_ended() -> None:
    after = [
        epoch(111.0, "a", 1, cosine=0.321),
        epoch(112.0, "b", 1),
        ended(112.1, "b", 1, "crashed", "out of memory"),
    ]
    seen, text = told(running(*after), 122.1, by=driver())
    assert (seen.state, seen.verdict, seen.age_seconds) == ("running", None, 10.0)
    assert text.startswith("RUNNING: step 2, Temperature, 0:22 in this step")
    rows = {row.split()[0]: row for row in text.splitlines()}
    assert rows["a"].split() == ["a", "1/4", "0.321", "0.30", "FAIL"]
    assert rows["b"].split(maxsplit=4)[4] == "crashed: out of me…"
    assert rows["next"].endswith("report /a/run")
    assert seen.step.arms[1].detail == "out of memory"


@pytest.mark.parametrize(
    ("by", "state"),
    [
        (driver(), "running"),
        (driver(age=59.0), "running"),
        (driver(lives=None), "running"),  # on another machine, and it stirs
        (driver(age=61.0), "interrupted"),
        (driver(age=61.0, lives=None), "interrupted"),
        (driver(age=1.0, lives=False), "interrupted"),
        (None, "interrupted"),
    ],
)
def test_the_lock_tells_a_live_run_from_a_dead_one_however_long_it_was_silent(by, state) -> None:
    journal = running(epoch(101.0, "a", 1))
    for now in (102.0, 1e6):
        seen, text = told(journal, now, by=by)
        assert seen.state == state
        assert text.startswith(state.upper())
        assert text.splitlines()[-1].endswith("--resume /a/run") == (state == "interrupted")
    seen, _ = told(journal, 102.0, by=by)
    alive = Driving(host="node-7", pid=4321, silent_seconds=by.age) if by else None
    assert seen.driver == (alive if state == "running" else None)


def test_what_lay_between_an_interruption_and_its_resumption_is_no_time_spent() -> None:
    journal = running(epoch(101.0, "a", 1), Interrupted(at=105.0))
    assert told(journal, 5000.0)[0].seconds == 105.0
    again = [*journal, Resumed(at=4990.0)]
    seen, _ = told(again, 5000.0, by=driver())
    assert seen.state == "running"
    assert seen.seconds == 115.0


def test_the_command_that_goes_on_names_the_cluster_of_the_last_start() -> None:
    first, *rest = running(epoch(101.0, "a", 1))
    journal = [msgspec.structs.replace(first, address="old:6379"), *rest]
    assert told(journal, 5000.0)[1].endswith("--resume /a/run --address old:6379")
    moved = [*journal, Resumed(at=300.0, address="new:6379")]
    assert told(moved, 5000.0)[1].endswith("--resume /a/run --address new:6379")


def test_a_blocked_run_shows_its_codes_and_their_remedies() -> None:
    finding = {
        "code": "KEYS_WRONG",
        "severity": "block",
        "seen": "keys that do not match",
        "next": "fix",
        "meaning": "m",
        "allowed": "a",
        "where": {},
    }
    audit = {**made.AUDIT, "verdict": "BLOCKED", "findings": [finding]}
    about = {"action": "Stop", "verdict": "BLOCKED", "cause": ["KEYS_WRONG"]}
    journal = [START, made.event(Audited, audit=audit), made.event(Decision, **about)]
    seen, text = told(journal, 9e9)
    assert (seen.state, seen.verdict) == ("finished", "BLOCKED")
    assert "blocked  KEYS_WRONG: keys that do not match" in text
    assert text.splitlines()[-2:] == ["next     fix", f"then     {STARTED['command']}"]


def test_a_finished_run_tells_its_steps_and_its_gains(journal) -> None:
    seen, text = told(journal, journal[-1].at + 1e6)
    assert text.startswith(journal.stop.verdict)
    assert (seen.state, seen.step, seen.doing) == ("finished", None, None)
    assert [step.step for step in seen.ended] == [e.step for e in journal.of(StepStarted)]
    assert seen.ended[0].verdict == journal.last(Phase1Judged).verdict
    assert journal.of(StepEnded)
    for e in journal.of(StepEnded):
        (step,) = (s for s in seen.ended if s.step == e.step)
        assert (step.verdict, step.kept) == (e.stage, e.kept)
        assert f"{step.title}: {e.stage}" in text


def test_many_arms_and_steps_still_fit_one_screen() -> None:
    names = [f"arm number {i} with a name that goes on and on" for i in range(20)]
    journal = running(*(epoch(101.0 + i, n, 1) for i, n in enumerate(names)), arms=names)
    done = [made.event(StepStarted, step=f"s{i}", title=f"Step {i}") for i in range(20)]
    most = [ended(130.0 + i, name, 1) for i, name in enumerate(names[:-1])]
    _, text = told([journal[0], *done, *journal[1:], *most], 150.0)
    assert len(text.splitlines()) <= 24
    assert max(map(len, text.splitlines())) <= 80
    assert "1/4" in text.splitlines()[-8]  # the arm that still runs is shown first
    assert "pruned" not in text.splitlines()[-8]
    assert "(and 14 more arms)" in text
    assert "(15 earlier: see the report)" in text


# --- the time left --------------------------------------------------------------------------------


def test_the_time_left_is_the_rate_of_the_step_without_the_start_of_its_workers() -> None:
    assert seconds_left(running()) is None
    one = running(epoch(160.0, "a", 1, seconds=10.0), arms=["a"])
    assert seconds_left(one) == 30.0  # ten seconds an epoch, not sixty
    both = running(
        epoch(160.0, "a", 1, seconds=10.0),
        epoch(160.0, "b", 1, seconds=10.0),
        epoch(170.0, "a", 2, seconds=10.0),
        epoch(170.0, "b", 2, seconds=10.0),
    )
    assert seconds_left(both) == 20.0  # side by side


def test_arms_that_ended_and_time_away_do_not_count() -> None:
    journal = running(
        epoch(110.0, "a", 1, seconds=10.0),
        epoch(110.0, "b", 1, seconds=10.0),
        ended(110.1, "b", 1),
        Interrupted(at=120.0),
        Resumed(at=9000.0),
        epoch(9030.0, "a", 2, seconds=10.0),
    )
    assert seconds_left(journal) == 20.0
    finished = [*journal, epoch(9040.0, "a", 3), epoch(9050.0, "a", 4)]
    assert seconds_left(finished) == 0.0
    over = made.event(StepEnded, step="temperature")
    assert seconds_left([*finished, over]) is None


def test_a_control_that_ran_in_an_earlier_step_has_nothing_left() -> None:
    earlier = [epoch(50.0 + i, "a", i, step="phase_1") for i in range(1, 5)]
    first, *step = running(epoch(110.0, "b", 1, seconds=5.0))
    assert seconds_left([first, *earlier, *step]) == 15.0


# --- JSON lines -----------------------------------------------------------------------------------


def journal_of(folder, events):
    journal = Journal(folder)
    journal.events = RunState(events)
    return journal


def test_json_lines_tell_the_run_and_end_with_the_verdict(journal, tmp_path, capsys) -> None:
    stream = io.StringIO()
    with JsonLines(stream) as lines:
        print("for a person")
        for cut in range(1, len(journal) + 1):
            lines.tell(journal_of(tmp_path, journal[:cut]))
        lines.verdict(build_verdict(journal, resume=""))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "for a person\n")
    records = [json.loads(text) for text in stream.getvalue().splitlines()]
    assert [r["event"] for r in records[:-1]] == [
        kind_of(e) for e in journal if not isinstance(e, Rung)
    ]
    assert records[0]["run"] == str(tmp_path)
    assert (records[-1]["event"], records[-1]["verdict"]) == ("verdict", journal.stop.verdict)
    stored = journal.of(Epoch)
    for record, e in zip((r for r in records if r["event"] == "epoch"), stored, strict=True):
        assert (record["arm"], record["id"], record["at"]) == (e.name, e.arm, e.at)
        assert record["of"] in (0, 8)
        assert record["eval_cosine"] == e.eval_cosine
        assert record["gate"] == 0.35
    left = [r["seconds_left"] for r in records if r["event"] == "epoch" and r["of"]]
    assert all(value is not None and value >= 0 for value in left)


def test_a_resumed_run_does_not_repeat_what_it_told(journal, tmp_path) -> None:
    stream = io.StringIO()
    begun = journal_of(tmp_path, journal[:5])
    with JsonLines(stream) as lines:
        lines.skip(begun)
        begun.append(Resumed(command="x"))
        lines.tell(begun)
        lines.tell(begun)
    (record,) = (json.loads(text) for text in stream.getvalue().splitlines())
    assert record["event"] == "resumed"


def test_without_a_stream_nothing_is_written_and_stdout_stays(journal, tmp_path, capsys) -> None:
    with JsonLines(None) as lines:
        print("for a person")
        lines.tell(journal_of(tmp_path, journal))
        lines.verdict(build_verdict(RunState(), resume=""))
    assert capsys.readouterr() == ("for a person\n", "")


def test_an_event_is_told_with_its_plain_values() -> None:
    event = made.event(StepEnded, at=7.0, step="temperature", conflicts=["b"])
    assert line(RunState(running(event))) == {
        "event": "step_ended",
        "at": 7.0,
        "step": "temperature",
        "stage": "FAIL",
        "candidate": None,
        "kept": None,
    }


def test_a_reader_that_leaves_does_not_end_the_run(tmp_path, capsys) -> None:
    with (tmp_path / "out").open("w") as file:

        class Left(io.StringIO):
            def write(self, text: str) -> int:
                raise BrokenPipeError(32, "Broken pipe")

            def fileno(self) -> int:
                return file.fileno()

        with JsonLines(Left()) as lines:
            lines.verdict(build_verdict(RunState(), resume=""))
            lines.verdict(build_verdict(RunState(), resume=""))
    assert capsys.readouterr().err.count("the run continues without it") == 1


def test_json_and_show_exclude_each_other(capsys) -> None:
    def parse(argv):
        parser().parse_args(argv)
        return 0

    assert run_command(parse, ["--json", "--show"]) == 2
    assert "not allowed with" in capsys.readouterr().err


def test_a_blocked_run_in_json_has_lines_on_stdout_and_words_on_stderr(
    tmp_path, monkeypatch, capsys
) -> None:
    finding = {
        "code": "KEYS_WRONG",
        "severity": "block",
        "seen": "s",
        "next": "n",
        "meaning": "m",
        "values": {},
        "allowed": "a",
        "where": {},
    }
    audit = {
        "schema": 1,
        "verdict": "BLOCKED",
        "findings": [finding],
        "checks": [],
        "allowed": [],
        "seconds": 0.1,
        "route": {"blocked": ["KEYS_WRONG"], "order": [], "reasons": []},
    }
    document = msgspec.convert(audit, AuditDocument)
    monkeypatch.setattr(Job, "_audit", lambda *_: document)
    out = tmp_path / "run"
    assert triage.main(["--out", str(out), "--json"]) == 3
    captured = capsys.readouterr()
    records = [json.loads(text) for text in captured.out.splitlines()]
    assert [r["event"] for r in records] == ["run_started", "audited", "decision", "verdict"]
    assert records[0]["run"] == str(out)
    assert records[1]["codes"] == ["KEYS_WRONG"]
    verdict = json.loads((out / "verdict.json").read_text())
    assert verdict.items() <= records[-1].items()
    assert "no training was started" in captured.err
    assert triage.main(["--resume", str(out), "--json"]) == 3
    (again,) = (json.loads(text) for text in capsys.readouterr().out.splitlines())
    assert again["verdict"] == "BLOCKED"
