"""What the integration tests share: a small world on disk, one Ray cluster, one finished triage.

The world is the report's failure in small. A vector is a fixed direction plus a point that a
rotation moves on. AR-only learns the fixed direction first, which earns cosine and finds nothing;
the base recipe hides its contrast behind a head, so step 1 keeps InfoNCE in the raw space; step 2
asks for longer trainings of a flatter softmax, one arm holds the stage gate, and two workers
confirm it: FIXED by two steps together.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import linear_bank
import pytest

import tune_jobs.triage
from lvm.core.command import run_command
from lvm.core.config.run import ScheduleConfig
from lvm.data.bank import Bank
from lvm.triage.events import Event
from lvm.triage.journal import read_run
from lvm.triage.on_ray import RayExecutor
from lvm.triage.state import RunState

E = TypeVar("E", bound=Event)


@dataclass(frozen=True, kw_only=True)
class World:
    """The bank, the recipe, and a folder for runs, which share one MLflow store."""

    bank: Path
    recipe: Path
    runs: Path

    def argv(self, out: str, *more: str) -> list[str]:
        """Return the arguments of a triage of this world into the run folder `out`.

        A ridge does better than any fix in a linear world: only the report's tree ends with one.
        """
        given = ["--data", str(self.bank), "--recipe", str(self.recipe), "--five-steps"]
        return [*given, "--out", str(self.runs / out), *more]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a triage in this process left."""

    folder: Path
    status: int
    printed: str

    @property
    def events(self) -> RunState:
        """The journal."""
        return read_run(self.folder)

    def of(self, kind: type[E]) -> list[E]:
        """The events of one kind."""
        return self.events.of(kind)


def run_triage(folder: Path, argv: Sequence[str]) -> Run:
    """Run the triage as its command does, but in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run_command(tune_jobs.triage.main, argv)
    assert status in (0, 1), err.getvalue()
    return Run(folder=folder, status=status, printed=out.getvalue())


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The linear world on disk."""
    folder = tmp_path_factory.mktemp("world")
    linear_bank.write(folder / "bank")
    (folder / "recipe.toml").write_text(linear_bank.RECIPE)
    (folder / "runs").mkdir()
    return World(bank=folder / "bank", recipe=folder / "recipe.toml", runs=folder / "runs")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a local Ray cluster, to which this process is connected."""
    schedule = ScheduleConfig(confirm_workers=2)
    executor = RayExecutor(tmp_path_factory.mktemp("ray"), address=None, schedule=schedule)
    executor.start()
    try:
        import ray

        yield str(ray.get_runtime_context().gcs_address)
    finally:
        executor.stop()


@pytest.fixture(scope="session")
def finished(world: World, cluster: str) -> Run:
    """The triage of the world, uninterrupted, on Ray, with two seeds."""
    return run_triage(world.runs / "whole", world.argv("whole", "--seeds", "2"))


@pytest.fixture(scope="session")
def make_bank() -> Callable[[int, int], Bank]:
    """`linear_world`, for tests that need one of another size."""
    return linear_bank.linear_world


@pytest.fixture(scope="session")
def triage() -> Callable[[Path, Sequence[str]], Run]:
    """`run_triage`, for tests that run another one."""
    return run_triage
