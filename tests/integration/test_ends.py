"""How a run ends: by a signal in every phase, an error, a full disk; and who may go on with it.

The triages are processes of their own whose arms run in them (`tests/without_ray.py`); what Ray
does to signals is tested at the end, with Ray.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import without_ray
from forked import Forked
from without_ray import WithoutRay

import lvm.jobs.job
import tune_jobs.triage
from lvm.cli import main as lvm_main
from lvm.core.command import run_command
from lvm.core.errors import ClusterError, ClusterLostError
from lvm.data.files import read_bank
from lvm.data.windows import dataset_from_bank
from lvm.triage import lock
from lvm.triage.events import Event, Ladder, Phase1Judged
from lvm.triage.journal import Journal, read_journal
from lvm.triage.lock import driver_of
from lvm.views.tracking import EXPERIMENT

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    # MLflow 3.17 maps two of its tables in a way that SQLAlchemy 2.1 will drop.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

TESTS = Path(__file__).parents[1]
WITHOUT_RAY = str(TESTS / "without_ray.py")
PATIENCE_SECONDS = 120.0
# A base recipe that holds the success gate, so that a run ends after phase 1.
QUICK = {"temperature = 0.02": 'temperature = 0.05\nspace = "raw"'}


@dataclass(frozen=True, kw_only=True)
class Small:
    """A world whose triage takes a second, in a folder of its own."""

    bank: Path
    recipe: Path
    folder: Path
    printed: Path  # by processes

    def start(
        self,
        phase: str,
        *flags: str | Path,
        signals: str = "",
        count: int = 1,
        cwd: Path | None = None,
    ) -> Forked:
        """Start a triage that sends itself signals in a phase."""
        argv = [WITHOUT_RAY, phase, str(count), *map(str, flags)]
        return Forked(
            without_ray.run,
            argv,
            cwd=cwd or self.folder,
            env={**os.environ, "SIGNALS": signals},
            output=self.printed,
        )

    def new(self, out: str | None, *more: str | Path) -> list[str | Path]:
        """The flags of a new run."""
        named = [] if out is None else ["--out", self.folder / out]
        return ["--data", self.bank, "--recipe", self.recipe, *named, *more]

    def here(self, *flags: str | Path) -> int:
        """Run a triage in this process and return its status."""
        return run_command(tune_jobs.triage.main, [str(flag) for flag in flags])


def ended(process: Forked) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode is not None
    return process.returncode, out, err


@pytest.fixture(scope="module")
def small(world, tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp("ends")
    text = world.recipe.read_text()
    for old, new in QUICK.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    (folder / "recipe.toml").write_text(text)
    printed = tmp_path_factory.mktemp("printed")
    return Small(bank=world.bank, recipe=folder / "recipe.toml", folder=folder, printed=printed)


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in this process need no Ray either."""
    monkeypatch.setattr(lvm.jobs.job, "RayExecutor", WithoutRay)
    monkeypatch.setattr(lock, "WATCH_SECONDS", 0.5)


@pytest.fixture(scope="module")
def uninterrupted(small: Small) -> Path:
    """The run that every other one has to equal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lvm.jobs.job, "RayExecutor", WithoutRay)
        assert small.here(*small.new("uninterrupted")) == 0
    return small.folder / "uninterrupted"


def events(folder: Path) -> list[dict[str, Any]]:
    return list(read_journal(folder)) if (folder / "journal.jsonl").exists() else []


def kinds(folder: Path) -> list[str]:
    return [event["event"] for event in events(folder)]


def verdict(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "verdict.json").read_text())
    keys = ("verdict", "cause", "phase1", "ladder")
    return {key: untimed(document[key]) for key in keys}


def untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: untimed(v) for k, v in value.items() if k not in ("latency", "ann")}
    return [untimed(item) for item in value] if isinstance(value, list) else value


def mlflow(folder: Path) -> str:
    """The status of the MLflow parent of a run folder, whose children have all ended."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    (parent,) = client.search_runs([experiment.experiment_id], f"tags.folder = '{folder}'")
    of = f"tags.mlflow.parentRunId = '{parent.info.run_id}'"
    children = client.search_runs([experiment.experiment_id], of)
    assert "RUNNING" not in {run.info.status for run in children}
    status: str = parent.info.status
    return status


def left_over(folder: Path) -> list[str]:
    """Locks, and files that were not finished; what Tune keeps of its own is its affair."""
    found = [
        path
        for path in folder.rglob("*")
        if path.name.startswith((".", lock.FILE)) and "tune" not in path.relative_to(folder).parts
    ]
    return sorted(str(path.relative_to(folder)) for path in found)


# --- SIGTERM --------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["audit", "data"])
def test_sigterm_before_the_run_began_leaves_nothing(phase: str, small: Small):
    before = sorted(small.folder.iterdir())
    status, out, err = ended(small.start(phase, *small.new(f"early_{phase}"), signals="15"))
    assert (status, err) == (130, "")
    assert out.startswith("interrupted before the run began; start it with: ")
    assert shlex.split(out)[-4:] == ["--data", str(small.bank), "--recipe", "recipe.toml"]
    assert sorted(small.folder.iterdir()) == before


@pytest.mark.parametrize(
    ("phase", "count", "last"),
    [
        ("start", 1, "audited"),  # of Ray
        ("arms", 1, "step_started"),
        ("event", 8, "epoch"),
        ("views", 1, "decision"),
        ("words", 1, "decision"),
    ],
)
def test_sigterm_ends_as_ctrl_c_does_whenever_it_comes(
    phase: str, count: int, last: str, small: Small, uninterrupted: Path, no_ray, capsys
):
    folder = small.folder / f"term_{phase}"
    process = small.start(
        phase, *small.new(folder.name), "--address", "auto", signals="15", count=count
    )
    status, out, err = ended(process)
    assert status == 130, err
    assert "Traceback" not in err
    assert kinds(folder)[-1] == "interrupted"
    assert kinds(folder)[-2] == last
    (line,) = [text for text in out.splitlines() if text.startswith("interrupted; continue with: ")]
    command = shlex.split(line.removeprefix("interrupted; continue with: "))
    assert command[2:] == ["--resume", folder.name, "--address", "auto"]
    assert Path(command[1]).samefile(tune_jobs.triage.__file__)
    assert mlflow(folder) == ("FINISHED" if last == "decision" else "KILLED")
    assert left_over(folder) == []
    assert json.loads((folder / "verdict.json").read_text())["resume"].endswith("--address auto")
    assert small.here("--resume", folder) == 0
    assert verdict(folder) == verdict(uninterrupted)
    assert mlflow(folder) == "FINISHED"
    trained = [(e["arm"], e["epoch"]) for e in events(folder) if e["event"] == "epoch"]
    assert len(trained) == len(set(trained)) == 4


def test_a_second_sigterm_ends_at_once(small: Small):
    """The first one waits for the event that is being written, the second one does not."""
    folder = small.folder / "twice"
    status, out, _ = ended(small.start("event", *small.new("twice"), signals="15 15", count=6))
    assert (status, out) == (130, "")
    assert "interrupted" not in kinds(folder)
    driver = driver_of(folder)
    assert driver is not None
    assert driver.abandoned  # at once: its process is gone


# --- errors ---------------------------------------------------------------------------------------


def raising(error: Exception) -> Callable[..., None]:
    def run(*_: object) -> None:
        raise error

    return run


def test_an_error_of_the_program_is_one_sentence_and_can_be_resumed(
    small: Small, uninterrupted: Path, no_ray, capsys, monkeypatch
):
    folder = small.folder / "broken"
    with monkeypatch.context() as patch:
        patch.setattr(WithoutRay, "run", raising(TypeError("unhashable type: 'dict'")))
        assert small.here(*small.new("broken")) == 70
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    sentence = err.splitlines()[-1]
    assert sentence.startswith("error: lvm failed: TypeError: unhashable type: 'dict'; the trace")
    assert f"is in {folder / 'error.txt'}; continue with: " in sentence
    assert "TypeError: unhashable type: 'dict'" in (folder / "error.txt").read_text()
    assert mlflow(folder) == "FAILED"
    assert left_over(folder) == []
    assert small.here("--resume", folder) == 0
    assert verdict(folder) == verdict(uninterrupted)


def test_a_lost_cluster_ends_with_75_and_the_command_that_goes_on(
    small: Small, uninterrupted: Path, no_ray, capsys, monkeypatch
):
    folder = small.folder / "lost"
    with monkeypatch.context() as patch:
        patch.setattr(WithoutRay, "run", raising(ClusterLostError("the head is gone.")))
        assert small.here(*small.new("lost"), "--address", "head:6379") == 75
    out, err = capsys.readouterr()
    assert out.startswith("the cluster was lost; continue with: ")
    assert out.rstrip().endswith(f"--resume {folder} --address head:6379")
    assert err.splitlines()[-1] == "error: the head is gone."
    assert events(folder)[-1]["event"] == "interrupted"
    assert events(folder)[-1]["since"] == "the head is gone."
    assert mlflow(folder) == "KILLED"
    assert small.here("--resume", folder) == 0
    assert verdict(folder) == verdict(uninterrupted)


def test_a_server_of_mlflow_that_is_gone_changes_no_status(
    small: Small, uninterrupted: Path, no_ray, capsys, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert small.here(*small.new("no_mlflow")) == 0
    assert "Some results were not uploaded to MLflow" in capsys.readouterr().out
    assert verdict(small.folder / "no_mlflow") == verdict(uninterrupted)


# --- disks ----------------------------------------------------------------------------------------

LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.argv[:] = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_disk_that_fills_up_during_a_run_costs_no_event(
    small: Small, uninterrupted: Path, no_ray, capsys
):
    """A limit on the size of files stands for a full disk: a write is cut short, then refused."""
    folder = small.folder / "full"
    weights = next((uninterrupted / "arms").glob("*/checkpoint/model.safetensors"))
    path = os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")])
    # The state of a training, which holds the optimiser's moments, is longer than its weights; the
    # journal is shorter until then.
    limit = weights.stat().st_size * 5 // 4
    words = [sys.executable, "-c", LIMITED, str(limit), WITHOUT_RAY, "-", "1", *small.new("full")]
    done = subprocess.run(
        list(map(str, words)),
        cwd=small.folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith(f"error: {folder / 'report.html'} cannot be written (File too large")
    assert (folder / "journal.jsonl").read_bytes().endswith(b"\n")
    assert "epoch" not in kinds(folder)  # none without its checkpoint
    stopped = json.loads((folder / "verdict.json").read_text())
    assert stopped["verdict"] == "INCONCLUSIVE"
    assert {lost["detail"].rpartition(" ")[0] for lost in stopped["absent"]} == {"no space left on"}
    assert small.here("--resume", folder) == 0
    assert verdict(folder) == verdict(uninterrupted)
    trained = [(e["arm"], e["epoch"]) for e in events(folder) if e["event"] == "epoch"]
    assert len(trained) == len(set(trained)) == 4
    assert left_over(folder) == []


def test_a_folder_that_becomes_read_only_is_one_sentence(
    small: Small, uninterrupted: Path, no_ray, capsys, monkeypatch
):
    folder, real, written = small.folder / "read_only", Path.open, list[str]()

    def read_only(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if (path, mode) == (folder / "journal.jsonl", "a"):
            if len(written) == 8:
                raise OSError(errno.EROFS, "Read-only file system", str(path))
            written.append(mode)
        return real(path, mode, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", read_only)
        assert small.here(*small.new("read_only")) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    sentence = err.splitlines()[-1]
    for words in ("error: ", "journal.jsonl", "Read-only file system", f"--resume {folder}"):
        assert words in sentence
    assert len(events(folder)) == 8
    assert small.here("--resume", folder) == 0
    assert verdict(folder) == verdict(uninterrupted)


# --- one driver -----------------------------------------------------------------------------------


def test_two_starts_in_one_moment_get_a_folder_each(small: Small, tmp_path: Path):
    both = [small.start("start", *small.new(None), signals="15", cwd=tmp_path) for _ in range(2)]
    assert [ended(process)[0] for process in both] == [130, 130]
    assert sorted(path.name for path in (tmp_path / "runs").glob("[0-9]*")) == ["1", "2"]
    for number in ("1", "2"):
        assert kinds(tmp_path / "runs" / number).count("run_started") == 1


def test_of_two_starts_into_one_folder_one_is_refused(small: Small):
    both = [small.start("start", *small.new("both"), signals="15") for _ in range(2)]
    answers = sorted((ended(process) for process in both), key=lambda answer: answer[0])
    assert [status for status, _, _ in answers] == [2, 130]
    refused = answers[0][2]
    assert refused.startswith("error: ")
    assert "is driven by process" in refused or "already holds a run" in refused
    assert kinds(small.folder / "both").count("run_started") == 1
    assert left_over(small.folder / "both") == []


@contextlib.contextmanager
def asleep(small: Small, out: str) -> Iterator[Forked]:
    """A run that stops (SIGSTOP) when its first arms are to start."""
    process = small.start("arms", *small.new(out), signals=str(int(signal.SIGSTOP)))
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_live_run_is_not_resumed_and_status_says_that_it_lives(small: Small, no_ray, capsys):
    folder = small.folder / "live"
    with asleep(small, "live") as process:
        before = (folder / "journal.jsonl").read_bytes()
        assert small.here("--resume", folder) == 2
        sentence = capsys.readouterr().err
        for words in (f"{folder} is driven by process {process.pid} on ", "wait for it or"):
            assert words in sentence
        assert (folder / "journal.jsonl").read_bytes() == before
        assert run_command(lvm_main, ["status", "--json", str(folder)]) == 0
        seen = json.loads(capsys.readouterr().out)
        assert (seen["state"], seen["driver"]["pid"]) == ("running", process.pid)
        process.send_signal(signal.SIGCONT)
        assert ended(process)[0] == 0
    assert run_command(lvm_main, ["status", "--json", str(folder)]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "finished"


def test_a_killed_run_is_resumed_at_once_from_where_it_is_now(
    small: Small, uninterrupted: Path, no_ray, capsys, tmp_path: Path
):
    """kill -9 amid the arms; then the folder is moved."""
    status, _, _ = ended(small.start("event", *small.new("killed"), signals="9", count=9))
    assert status == -signal.SIGKILL
    folder = Path(shutil.move(small.folder / "killed", tmp_path / "fetched"))
    assert run_command(lvm_main, ["status", "--json", str(folder)]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert (seen["state"], seen["driver"]) == ("interrupted", None)
    assert shlex.split(seen["next"])[2:] == ["--resume", str(folder)]
    assert small.here("--resume", folder) == 0
    assert verdict(folder) == verdict(uninterrupted)
    trained = [(e["arm"], e["epoch"]) for e in events(folder) if e["event"] == "epoch"]
    assert len(trained) == len(set(trained)) == 4
    assert str(small.folder / "killed") not in "".join(
        json.dumps(e) for e in events(folder) if e["event"] not in ("run_started", "resumed")
    )
    for command in ("report", "status", "track"):
        assert run_command(lvm_main, [command, str(folder)]) == 0
    assert left_over(folder) == []


def test_a_driver_that_slept_too_long_stops_when_it_wakes(
    small: Small, uninterrupted: Path, no_ray, capsys
):
    folder = small.folder / "slept"
    with asleep(small, "slept") as process:
        os.utime(folder / lock.FILE, (1e9, 1e9))  # as after a minute
        assert small.here("--resume", folder) == 0
        before = {name: (folder / name).read_bytes() for name in ("journal.jsonl", "verdict.json")}
        process.send_signal(signal.SIGCONT)
        status, _, err = ended(process)
    assert status == 75
    assert "driver.json no longer belongs to this process" in err
    assert "Traceback" not in err
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert verdict(folder) == verdict(uninterrupted)
    assert mlflow(folder) == "FINISHED"


# --- content --------------------------------------------------------------------------------------


@pytest.fixture
def predictions(small: Small, tmp_path: Path, monkeypatch) -> Path:
    """A file of predictions in the current folder: copies of the last context."""
    dataset = dataset_from_bank(read_bank(small.bank), 5)
    rows = dataset.bank.rows(dataset.test.contexts[:, -1])
    monkeypatch.chdir(tmp_path)
    np.save("predictions.npy", rows)
    return tmp_path / "predictions.npy"


def interrupt_at(monkeypatch, kind: type[Event]) -> None:
    """Interrupt this process as soon as an event of a kind is written."""
    real = Journal.append

    def append(journal: Journal, new: Event) -> Event:
        written = real(journal, new)
        if isinstance(new, kind):
            raise KeyboardInterrupt
        return written

    monkeypatch.setattr(Journal, "append", append)


def test_relative_predictions_are_resumed_from_elsewhere_and_replaced_ones_refused(
    small: Small, predictions: Path, no_ray, capsys, monkeypatch, tmp_path_factory
):
    folder = small.folder / "predicted"
    with monkeypatch.context() as patch:
        interrupt_at(patch, Ladder)
        flags = ["--independent", "--predictions", "predictions.npy"]
        assert small.here(*small.new("predicted"), *flags) == 130
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    kept = predictions.read_bytes()
    np.save(predictions, -np.load(predictions))
    before = (folder / "journal.jsonl").read_bytes()
    assert small.here("--resume", folder) == 2
    sentence = capsys.readouterr().err
    assert f"the predictions {predictions} changed since it started" in sentence
    assert (folder / "journal.jsonl").read_bytes() == before
    predictions.write_bytes(kept)
    moved = Path(shutil.move(predictions, "moved.npy"))
    assert small.here("--resume", folder) == 2
    assert "give --predictions again with its current path" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        interrupt_at(patch, Phase1Judged)
        assert small.here("--resume", folder, "--predictions", moved) == 130
    judged = [event for event in events(folder) if event["event"] == "test_judged"]
    assert [event["arm"] for event in judged].count("predictions") == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--preset", "cluster"], "none was named; give --address"),
        (["--address", "ray://127.0.0.1:10001"], "is a Ray Client address"),
        (["--address", "here"], "--address must be HOST:PORT"),
    ],
)
def test_a_cluster_that_cannot_be_used_is_refused_before_anything_runs(
    flags: list[str], words: str, small: Small, no_ray, capsys, tmp_path: Path
):
    import tune_jobs.train

    out = tmp_path / "run"
    for main in (tune_jobs.triage.main, tune_jobs.train.main):
        assert run_command(main, ["--data", str(small.bank), "--out", str(out), *flags]) == 2
        sentence = capsys.readouterr().err
        assert words in sentence
        assert sentence.count("\n") == 1
        assert not out.exists()


@pytest.mark.parametrize("error", [ClusterError("no raylet."), OSError("no such program")])
def test_a_run_whose_ray_does_not_start_leaves_nothing_and_its_out_is_free(
    error: Exception, small: Small, no_ray, capsys, monkeypatch
):
    """Named folders and numbered ones, new and empty ones, are as they were."""
    (small.folder / "empty").mkdir(exist_ok=True)
    before = sorted(small.folder.rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(WithoutRay, "start", raising(error))
        for out in ("a/b/run", "empty"):
            assert small.here(*small.new(out)) == (2 if isinstance(error, ClusterError) else 70)
            sentence = capsys.readouterr().err.splitlines()[-1]
            assert "start again with: " in sentence
            assert sorted(small.folder.rglob("*")) == before
    assert small.here(*small.new("empty")) == 0
    shutil.rmtree(small.folder / "empty")


def test_a_resumed_run_whose_ray_does_not_start_is_kept(small: Small, no_ray, monkeypatch):
    folder = small.folder / "kept"
    with monkeypatch.context() as patch:
        patch.setattr(WithoutRay, "run", raising(TypeError("broken")))
        assert small.here(*small.new("kept")) == 70
    with monkeypatch.context() as patch:
        patch.setattr(WithoutRay, "start", raising(ClusterError("no raylet.")))
        assert small.here("--resume", folder) == 2
    assert kinds(folder)[:2] == ["run_started", "audited"]
    assert small.here("--resume", folder) == 0


# --- with Ray -------------------------------------------------------------------------------------

WITHOUT_A_HEAD = """
import sys
from pathlib import Path
from lvm.core.command import run_program
from lvm.triage import local_head
from tune_jobs.triage import main

local_head.PROGRAM = Path(sys.argv.pop(1))
run_program(main)
"""


@pytest.mark.parametrize(
    "head",
    [
        "raise SystemExit('no raylet here')",
        "import sys\nsys.stdin.readline()\n"
        'print(\'{"problem": "OSError", "texts": ["no raylet here"]}\')',
    ],
)
def test_a_head_that_does_not_start_leaves_nothing(head: str, small: Small, tmp_path: Path):
    (tmp_path / "head.py").write_text(head)
    out = small.folder / "headless"
    for _ in range(2):  # the same --out is free again
        status, _, err = by_python(WITHOUT_A_HEAD, tmp_path / "head.py", *small.new(out.name))
        assert status == 2, err
        assert "Ray did not start on this machine (no raylet here)" in err
        assert not out.exists()


WHILE_RAY_STARTS = """
import os, signal, sys, threading, time
import ray
from lvm.triage.on_ray import cluster
from lvm.core.command import run_program
from tune_jobs.triage import main

real = ray.init

after = float(sys.argv.pop(1))  # before the flags are read; the address is waited for in between

def init(**options):
    kill = threading.Timer(after, os.kill, (os.getpid(), signal.SIGTERM))
    kill.daemon = True
    kill.start()
    return real(**options)

ray.init = init
run_program(main)
"""
WHILE_RAY_ENDS = """
import os, signal, threading
import ray
from lvm.core.command import run_program
from lvm.core.signals import held_signals, heeding_signals

def main(argv):
    with held_signals():
        ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    real = ray._private.worker._global_node.kill_all_processes

    def kill_all_processes(*args, **kwargs):  # the second half of Ray's end
        ray._private.worker._global_node.kill_all_processes = real
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*args, **kwargs)

    ray._private.worker._global_node.kill_all_processes = kill_all_processes
    with held_signals():
        ray.shutdown()
    return 1

run_program(main)
"""


def by_python(program: str, *argv: str | Path) -> tuple[int, str, str]:
    path = os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, argv)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env={**os.environ, "PYTHONPATH": path},
    )
    return done.returncode, done.stdout, done.stderr


def test_sigterm_while_ray_starts(small: Small):
    folder = small.folder / "ray_starts"
    status, out, err = by_python(WHILE_RAY_STARTS, "4", *small.new("ray_starts"))
    assert status == 130, err
    assert "SIGTERM received" not in err  # the first words of the stack that Ray prints
    assert out.startswith("interrupted; continue with: ")
    assert kinds(folder)[-1] == "interrupted"
    assert mlflow(folder) == "KILLED"
    assert left_over(folder) == []


def test_sigterm_while_ray_ends():
    """Ray leaves SIGTERM to end the process a second before it has ended itself."""
    status, _, err = by_python(WHILE_RAY_ENDS)
    assert status == 130, err
    assert "SIGTERM received" not in err
