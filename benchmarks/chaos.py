"""Does a triage that is hit at a random moment end as it would have ended undisturbed?

    python benchmarks/chaos.py [--write] [--runs 30] [--seed 0]

A small triage runs once undisturbed, then once per run with one hit: kill -9 of driver, trial,
Train worker, raylet, head; SIGTERM; SIGSTOP of a trial; a full disk; a read-only folder; an MLflow
server that goes away; a clock that falls back two hours. (The SIGTERM of a submitted job is a test,
tests/integration/test_cluster_jobs.py.) Every run must end, after at most one --resume, in the
undisturbed verdict with the same numbers; no epoch stands twice in its journal, none that it holds
is lost, no MLflow run stays RUNNING, no process and no placement group is left behind. Full disk
and read-only folder need the right to mount a tmpfs.
`--write` keeps the table in reports/chaos/. About a minute per run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

import chaos  # noqa: E402  # found through the path above
import linear_bank  # noqa: E402
from keep import REPORTS, origin, show  # noqa: E402

from lvm.triage.events import Epoch, Event, StepStarted  # noqa: E402

OUT = REPORTS / "chaos" / "chaos.md"
PATIENCE = 600.0
DISKS = ("full disk", "read-only folder")
OTHERS = ("MLflow server gone", "clock jump")
SERVER_SECONDS = 120.0


@dataclass(kw_only=True)
class Result:
    """What one hit run came to."""

    hit: str
    at: str  # the moment: number of events in the journal
    status: int | str = 0
    resumed: int | str = "-"
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)
    missed: bool = False  # the hit found nothing to hit

    def row(self) -> str:
        """Return the row of the table."""
        faults = "; ".join(self.faults) or "as undisturbed"
        return (
            f"| {self.hit} | {self.at} | {self.status} | {self.resumed} | {self.seconds:.0f} | "
            f"{faults} |"
        )


def main() -> None:
    """Print the table."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--runs", type=int, default=30)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--write", action="store_true")
    args = p.parse_args()
    show(table(args.runs, args.seed), OUT if args.write else None)


def table(runs: int, seed: int) -> Iterator[str]:
    """Yield the report, a row per run as it ends."""
    question = "does a triage that is hit at a random moment end as it would have undisturbed?"
    yield from origin("Chaos", question, f"python benchmarks/chaos.py --runs {runs}")
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        place = place_in(Path(name))
        whole = chaos.Run(place, place.folder / "whole")
        started = time.monotonic()
        whole.start(place.flags(whole.out))
        status = whole.end(PATIENCE)
        wanted, length = chaos.outcome(whole.events()), len(whole.events())
        seconds = time.monotonic() - started
        yield f"Undisturbed: {wanted[0]}, exit {status}, {length} events, {seconds:.0f} s."
        yield ""
        yield "| hit | after event | exit | exit of --resume | seconds | result |"
        yield "|---|---|---|---|---|---|"
        draw, results = random.Random(seed), []
        kinds = [*chaos.HITS, *DISKS, *OTHERS]
        for number in range(runs):
            hit = kinds[number % len(kinds)]
            at = draw.randrange(3, length - 2)
            result = one(place, number, hit, at, wanted)
            if result.missed:  # what was to be hit had gone: that says nothing of the triage
                result = one(place, runs + number, hit, at, wanted)
            results.append(result)
            yield result.row()
        good = sum(not result.faults for result in results)
        yield ""
        yield f"{good} of {len(results)} runs ended as undisturbed."


def place_in(folder: Path) -> chaos.Place:
    """Return a place for runs: a small bank and a recipe."""
    recipe = folder / "recipe.toml"
    recipe.write_text(chaos.RECIPE)
    return chaos.Place(folder=folder, bank=linear_bank.write(folder / "bank"), recipe=recipe)


def one(place: chaos.Place, number: int, hit: str, at: int, wanted: tuple) -> Result:
    """Run a triage, hit it, resume it once where it ended without a verdict."""
    result = Result(hit=hit, at=str(at))
    started = time.monotonic()
    try:
        with contextlib.ExitStack() as stack:
            _hit(place, number, hit, at, wanted, result, stack)
    except LookupError as error:
        result.missed = True
        result.faults.append(str(error))
    except (TimeoutError, PermissionError, subprocess.CalledProcessError) as error:
        result.faults.append(str(error))
    result.seconds = time.monotonic() - started
    return result


def _hit(
    place: chaos.Place,
    number: int,
    hit: str,
    at: int,
    wanted: tuple,
    result: Result,
    stack: contextlib.ExitStack,
) -> None:
    folder, env = place.folder / f"run{number}", {}
    folder.mkdir()
    trigger = None
    if hit in DISKS:
        stack.enter_context(chaos.small_disk(folder))
        # MLflow's database is no part of the run folder, and may lie anywhere.
        env = {"MLFLOW_TRACKING_URI": f"sqlite:///{place.folder / f'mlflow{number}.db'}"}
    if hit == "clock jump":
        env, trigger = chaos.jumping_clock(place.folder / f"clock{number}")
    server = None
    if hit == "MLflow server gone":
        server, uri = mlflow_server(folder)
        stack.callback(end_server, server)
        env = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    run = chaos.Run(place, folder / "run")
    stack.callback(lambda: [process.kill() for process in run.marked()])
    run.start(place.flags(run.out), **env)
    moments = {"kill -9 of a Train worker": _confirming, "SIGSTOP of a trial that starts": _begun}
    moment = moments.get(hit, lambda events: len(events) >= at)
    reached = run.wait_for(moment, PATIENCE)
    if reached:
        _strike(run, hit, folder, trigger, server)
    result.status = run.end(PATIENCE)
    _mend(hit, folder)
    result.faults += _after(run)
    if result.status not in (0, 1):
        if result.status not in chaos.RESUMABLE:
            result.faults.append(f"status {result.status}")
        run.start(["--resume", str(run.out)], **(env if hit in DISKS else {}))
        result.resumed = run.end(PATIENCE)
        result.faults += _after(run)
    if chaos.outcome(run.events()) != wanted:
        result.faults.append(f"ended in {chaos.outcome(run.events())[0]}, or with other numbers")
    if open_runs := chaos.open_in_mlflow(run):
        result.faults.append(f"{open_runs} MLflow runs RUNNING")


def mlflow_server(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start an MLflow server on the loopback; return it with its address once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
        "--backend-store-uri",
        f"sqlite:///{folder / 'server.db'}",
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, cwd=folder, start_new_session=True, **quiet)
    deadline = time.monotonic() + SERVER_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
            return server, f"http://127.0.0.1:{port}"
        time.sleep(0.5)
    end_server(server)
    raise TimeoutError("the MLflow server did not start")


def end_server(server: subprocess.Popen[bytes]) -> None:
    """End a server with the processes that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def _begun(events: list[Event]) -> bool:
    """Whether the first arms were asked for, whose processes start now."""
    return any(isinstance(e, StepStarted) for e in events)


def _confirming(events: list[Event]) -> bool:
    """Whether the epochs of a full training have begun."""
    return any(isinstance(e, Epoch) and e.step.startswith("confirm_") for e in events)


def _strike(
    run: chaos.Run,
    hit: str,
    folder: Path,
    trigger: Path | None,
    server: subprocess.Popen[bytes] | None,
) -> None:
    if hit in chaos.HITS:
        chaos.HITS[hit](run)
    elif hit == "full disk":
        chaos.fill(folder)
    elif hit == "read-only folder":
        chaos.make_read_only(folder)
    elif trigger is not None:
        trigger.touch()
    elif server is not None:
        end_server(server)


def _mend(hit: str, folder: Path) -> None:
    if hit == "full disk":
        (folder / "filler").unlink(missing_ok=True)
    elif hit == "read-only folder":
        chaos.make_writable(folder)


def _after(run: chaos.Run) -> list[str]:
    """Return what is wrong once a process has ended, whatever its end."""
    faults = [f"left behind: {name}" for name in run.left_behind()]
    if again := chaos.twice(run.events()):
        faults.append(f"twice: {again[0]}")
    if (lost := chaos.lost_epochs(run)) > 0:
        faults.append(f"{lost} epochs lost")
    return faults


if __name__ == "__main__":
    main()
