"""One triage, ended by Ctrl-C, SIGTERM and SIGKILL, then resumed: it ends as if nothing had been.

The first three lives are processes of their own, connected to the shared Ray cluster; the last one
runs in this process. All are compared with the uninterrupted run of the same request.
"""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from msgspec.structs import replace

import tune_jobs.triage
from lvm.core.command import run_command
from lvm.data.files import write_bank
from lvm.triage.events import (
    ArmEnded,
    ArmJudged,
    Confirmed,
    Decision,
    Epoch,
    Event,
    Interrupted,
    Phase1Judged,
    Repeated,
    Resumed,
    StepEnded,
    StepStarted,
)
from lvm.triage.journal import read_events
from lvm.triage.on_ray import RayExecutor
from lvm.triage.state import RunState
from lvm.views.tracking import EXPERIMENT

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(240),  # the first test may wait for the uninterrupted run as well
    # MLflow 3.17 maps two of its tables in a way that SQLAlchemy 2.1 will drop.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 90.0
# A shell makes jobs in the background deaf to Ctrl-C, and these tests may be such a job.
HEED_CTRL_C = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)
JUDGED = ("reason", "epoch", "evaluation", "stage", "gains")


@dataclass(frozen=True, kw_only=True)
class Life:
    """What a process of the run left when it ended."""

    folder: Path
    events: list[Event]
    status: int
    printed: str
    statuses: list[str]  # of the MLflow parents of this run folder
    files: dict[Path, int]  # modification times of the checkpoints, nanoseconds
    document: dict[str, Any]  # verdict.json; empty where it was not written


def live(
    words: list[str], folder: Path, until: Callable[[list[Event]], bool], end_with: signal.Signals
) -> Life:
    """Run a triage in a process, send it a signal once its journal is as wanted, and wait."""
    process = subprocess.Popen(
        [sys.executable, "-c", HEED_CTRL_C, *words],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not until(journal(folder)):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, f"no such event in {folder}"
            time.sleep(0.02)
        process.send_signal(end_with)
        printed, complaint = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in complaint, complaint
    assert "SIGTERM received" not in complaint  # the first words of the stack that Ray prints
    document = folder / "verdict.json"
    return Life(
        folder=folder,
        events=journal(folder),
        status=process.returncode,
        printed=printed,
        statuses=parents(folder),
        files=checkpoints(folder),
        document=json.loads(document.read_text()) if document.exists() else {},
    )


def journal(folder: Path) -> list[Event]:
    return list(read_events(folder)) if (folder / "journal.jsonl").exists() else []


def checkpoints(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob("arms/*/checkpoint/*")}


def parents(folder: Path) -> list[str]:
    """The statuses of the MLflow parents of a run folder."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id], f"tags.folder = '{folder}'")
    return [run.info.status for run in runs]


def trained(events: list[Event]) -> set[str]:
    return {event.arm for event in events if isinstance(event, Epoch) and event.epoch > 0}


@pytest.fixture(scope="module")
def stopped(world, cluster, finished) -> Life:
    """Ctrl-C in phase 1. (The uninterrupted run comes first: it makes the MLflow store.)"""
    words = [sys.executable, "tune_jobs/triage.py", *world.argv("stopped", "--seeds", "2")]
    words += ["--address", cluster]
    return live(words, world.runs / "stopped", lambda e: len(trained(e)) == 2, signal.SIGINT)


def goes_on(life: Life) -> list[str]:
    """The command that a process printed when it was interrupted."""
    return shlex.split(life.printed.strip().removeprefix("interrupted; continue with: "))


@pytest.fixture(scope="module")
def terminated(stopped: Life) -> Life:
    """The command that Ctrl-C printed, ended by SIGTERM when arms run again."""

    def runs_again(events: list[Event]) -> bool:
        new = events[len(stopped.events) :]
        return any(isinstance(event, Epoch | StepStarted) for event in new)

    return live(goes_on(stopped), stopped.folder, runs_again, signal.SIGTERM)


@pytest.fixture(scope="module")
def killed(terminated: Life) -> Life:
    """The command that SIGTERM printed, killed while the third arm is running."""

    def open_in_mlflow(events: list[Event]) -> bool:  # which hears of the run a little later
        return len(trained(events)) >= 3 and parents(terminated.folder) == ["RUNNING"]

    return live(goes_on(terminated), terminated.folder, open_in_mlflow, signal.SIGKILL)


@pytest.fixture(scope="module")
def left_behind(killed: Life, cluster) -> float:
    """Seconds until the trials of the killed driver, and their processes, were gone."""
    import ray

    ours = ray.get_runtime_context().get_job_id()
    started = time.monotonic()
    while True:
        # Ray Train keeps an actor of its own that outlives all jobs on purpose: a detached one.
        actors = ray._private.state.actors().values()
        trials = [a for a in actors if a["JobID"] != ours and not a["IsDetached"]]
        assert trials
        if not any(a["State"] == "ALIVE" or psutil.pid_exists(a["Pid"]) for a in trials):
            return time.monotonic() - started
        assert time.monotonic() < started + PATIENCE_SECONDS, "trials outlive their driver"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def resumed(killed: Life, left_behind: float, triage) -> Any:
    """The same run, taken to its end in this process."""
    return triage(killed.folder, ["--resume", str(killed.folder)])


# --- Ctrl-C ---------------------------------------------------------------------------------------


def test_ctrl_c_answers_with_the_command_that_goes_on(stopped: Life, cluster):
    assert stopped.status == 130
    assert stopped.printed.startswith("interrupted; continue with: ")
    python, script, *flags = goes_on(stopped)
    assert flags == ["--resume", str(stopped.folder), "--address", cluster]
    assert Path(script).samefile(tune_jobs.triage.__file__)
    assert isinstance(stopped.events[-1], Interrupted)
    assert stopped.document["verdict"] is None
    resume = shlex.split(stopped.document["resume"])  # as a file keeps it: with whole paths
    assert resume[2:] == flags
    assert all(Path(word).is_absolute() and Path(word).exists() for word in resume[:2])
    assert Path(resume[0]).resolve() == Path(python).resolve()


def test_ctrl_c_leaves_no_mlflow_run_open(stopped: Life):
    assert stopped.statuses == ["KILLED"]


def test_sigterm_ends_as_ctrl_c_does(stopped: Life, terminated: Life):
    assert terminated.status == 130
    assert goes_on(terminated) == goes_on(stopped)
    assert isinstance(terminated.events[-1], Interrupted)
    assert terminated.statuses == ["KILLED"]


# --- kill -9 --------------------------------------------------------------------------------------


def test_the_process_was_killed_amid_the_run(stopped: Life, killed: Life):
    assert killed.status == -signal.SIGKILL
    started = [event.step for event in killed.events if isinstance(event, StepStarted)]
    assert started[:2] == ["phase_1", "projection_head"]
    assert RunState(killed.events).stop is None
    assert len(RunState(killed.events).of(Resumed)) == 2
    assert killed.statuses == ["RUNNING"]  # nobody could close it


def test_trials_end_with_their_driver(left_behind: float):
    """Ray ends the actors of a dead driver, long before a resumed run reaches its first epoch."""
    assert left_behind < 10


def test_finished_arms_are_not_run_again(killed: Life, resumed):
    for kind, keys in ((Epoch, ("arm", "epoch")), (ArmEnded, ("arm", "step"))):
        seen = [tuple(getattr(event, key) for key in keys) for event in resumed.of(kind)]
        assert len(seen) == len(set(seen)), kind
    ended = {event.arm for event in killed.events if isinstance(event, ArmEnded)}
    assert len(ended) >= 2
    kept = {path: at for path, at in killed.files.items() if path.parts[-3] in ended}
    assert len({path.parts[-3] for path in kept}) >= 2
    now = checkpoints(killed.folder)
    assert {path: now[path] for path in kept} == kept
    assert len(resumed.of(Resumed)) == 3


def test_what_was_written_stays_as_it_is(stopped: Life, terminated: Life, killed: Life, resumed):
    """The journal only grows."""
    assert terminated.events[: len(stopped.events)] == stopped.events
    assert killed.events[: len(terminated.events)] == terminated.events
    assert resumed.events[: len(killed.events)] == killed.events


def test_the_resumed_run_ends_as_the_uninterrupted_one(finished, resumed):
    assert resumed.status == finished.status == 0
    assert judged(resumed.events) == judged(finished.events)
    for kind in (Phase1Judged, StepEnded, Confirmed, Repeated, Decision):
        assert plain(resumed.of(kind)) == plain(finished.of(kind)), kind
    ours, theirs = (
        json.loads((run.folder / "verdict.json").read_text()) for run in (resumed, finished)
    )
    for key in ("verdict", "cause", "phase1", "ladder", "seeds", "warnings"):
        assert untimed(ours[key]) == untimed(theirs[key]), key
    assert ours["arm"]["gates"] == theirs["arm"]["gates"]
    assert parents(resumed.folder) == ["FINISHED"]


def judged(events: list[Event]) -> dict[tuple[str, str], dict[str, Any]]:
    found = [event for event in events if isinstance(event, ArmJudged)]
    assert len({(e.step, e.name) for e in found}) == len(found)
    return {(e.step, e.name): {key: getattr(e, key) for key in JUDGED} for e in found}


def plain(events: list[Event]) -> list[Event]:
    """Events without what a clock decides."""
    return [replace(event, at=0.0) for event in events]


def untimed(value: Any) -> Any:
    """A nested record without latencies, and without ids that name the run folder."""
    if isinstance(value, dict):
        return {k: untimed(v) for k, v in value.items() if k not in ("latency", "ann", "arm")}
    return [untimed(item) for item in value] if isinstance(value, list) else value


def test_a_finished_run_has_nothing_left_to_do(resumed, triage):
    before = resumed.events
    again = triage(resumed.folder, ["--resume", str(resumed.folder)])
    assert again.status == resumed.status
    assert again.printed == resumed.printed
    assert [type(event) for event in again.events[len(before) :]] == [Resumed]


# --- what is refused ------------------------------------------------------------------------------


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the triage, check that it refuses in one sentence before Ray; return the sentence."""

    def start(executor: RayExecutor) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(RayExecutor, "start", start)

    def run(*argv: str | Path) -> str:
        assert run_command(tune_jobs.triage.main, list(map(str, argv))) == 2
        printed, complaint = capsys.readouterr()
        assert printed == ""
        assert complaint.startswith("error: ")
        assert complaint.count("\n") == 1
        return complaint

    return run


@pytest.fixture
def copied(finished, tmp_path: Path) -> Iterator[Any]:
    """A function that copies the journal of the finished run and changes its first event."""
    folder = tmp_path / "run"
    folder.mkdir()

    def copy(**changes: Any) -> Path:
        first, *rest = (finished.folder / "journal.jsonl").read_text().splitlines(keepends=True)
        event = json.loads(first)
        del event["sum"]  # as an earlier version wrote it
        arguments = event["arguments"] | changes.pop("arguments", {})
        changed = json.dumps({**event, **changes, "arguments": arguments}) + "\n"
        (folder / "journal.jsonl").write_text(changed + "".join(rest))
        return folder

    yield copy
    assert [path.name for path in folder.iterdir()] == ["journal.jsonl"]  # nothing was written


def test_changed_data(world, copied, tmp_path: Path, refused):
    from lvm.data.files import read_bank

    bank = read_bank(world.bank)
    vectors = bank.vectors.copy()
    vectors[[0, 1]] = vectors[[1, 0]]
    write_bank(tmp_path / "bank", vectors, bank.keys, {"split": bank.manifest["split"]})
    folder = copied(arguments={"data": str(tmp_path / "bank")})
    sentence = refused("--resume", folder)
    for words in (str(folder), "the data changed", "restore it", "--out"):
        assert words in sentence


def test_a_changed_recipe_file(world, copied, tmp_path: Path, refused):
    other = tmp_path / "other.toml"
    other.write_text(world.recipe.read_text().replace("epochs = 2", "epochs = 3", 1))
    folder = copied(arguments={"recipe": str(other)})
    sentence = refused("--resume", folder)
    for words in (str(folder), "the configuration changed", "restore it"):
        assert words in sentence


def test_a_changed_program(copied, refused):
    assert "the code (0.0.0+abc, now " in refused("--resume", copied(code="0.0.0+abc"))


def test_data_that_lies_elsewhere_is_asked_for(copied, tmp_path: Path, refused):
    folder = copied(arguments={"data": str(tmp_path / "gone")})
    sentence = refused("--resume", folder)
    for words in (str(tmp_path / "gone"), "does not exist here", "give --data again"):
        assert words in sentence


@pytest.mark.parametrize("flag", ["--train", "--payload", "--checkpoint", "--predictions", "--out"])
def test_a_flag_that_the_journal_knows(flag: str, copied, tmp_path: Path, refused):
    sentence = refused("--resume", copied(), flag, tmp_path / "other")
    for words in (flag, "cannot be combined with --resume", "leave it out or start a new run"):
        assert words in sentence


def test_another_preset(copied, refused):
    sentence = refused("--resume", copied(), "--preset", "gpu")
    assert "--preset cannot be combined with --resume" in sentence


def test_a_folder_that_holds_no_run(tmp_path: Path, refused):
    for folder in (tmp_path, tmp_path / "nowhere"):
        sentence = refused("--resume", folder)
        for words in (str(folder), "no journal.jsonl", "give the --out of an interrupted run"):
            assert words in sentence


def test_a_journal_of_somebody_else(copied, refused):
    folder = copied()
    (folder / "journal.jsonl").write_text('{"kind": "diary"}\n')
    assert "line 1 is not a valid lvm event" in refused("--resume", folder)


def test_an_empty_journal(copied, refused):
    folder = copied()
    (folder / "journal.jsonl").write_text("")
    assert "empty journal; start a new run" in refused("--resume", folder)


def test_an_out_folder_that_holds_another_run(world, finished, refused):
    sentence = refused(*world.argv(finished.folder.name))
    for words in (str(finished.folder), "already holds a run", "choose another --out", "--resume"):
        assert words in sentence
