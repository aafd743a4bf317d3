"""The short form of benchmarks/chaos.py: two hits on a small triage, each of which it survives."""

from __future__ import annotations

import chaos
import linear_bank
import pytest
from alone import alone, measured

from lvm.core.records import RunVerdict
from lvm.triage.events import Epoch
from lvm.triage.state import RunState

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

PATIENCE = 300.0
STEP = "projection_head"  # the first one of the recipe


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> chaos.Place:
    folder = tmp_path_factory.mktemp("chaos")
    (folder / "recipe.toml").write_text(chaos.RECIPE)
    bank = linear_bank.write(folder / "bank")
    return chaos.Place(folder=folder, bank=bank, recipe=folder / "recipe.toml")


@pytest.fixture(scope="module")
def undisturbed(place: chaos.Place) -> list:
    return alone(place.bank, place.recipe, place.folder / "alone")


def test_two_hits_cost_no_verdict_and_leave_nothing_behind(place: chaos.Place, undisturbed: list):
    """A trial is killed and the run goes on; the head is killed, and a resume goes on."""
    verdict = RunState(undisturbed).stop.verdict
    status, run = RunVerdict(verdict).exit_status, chaos.Run(place, place.folder / "hit")
    try:
        run.start(place.flags(run.out))
        for hit, step in (("kill -9 of a trial", "phase_1"), ("kill -9 of the head", STEP)):
            assert run.wait_for(lambda events, step=step: epochs(events, step) >= 3, PATIENCE)
            chaos.HITS[hit](run)
        assert run.end(PATIENCE) == 75, run.log.read_text()
        assert run.left_behind() == []
        run.start(["--resume", str(run.out)])
        assert run.end(PATIENCE) == status, run.log.read_text()
        assert run.left_behind() == []
    finally:
        for process in run.marked():
            process.kill()
    assert chaos.outcome(run.events())[:2] == chaos.outcome(undisturbed)[:2]
    assert measured(run.events()) == measured(undisturbed)
    assert chaos.twice(run.events()) == []
    assert chaos.lost_epochs(run) <= 0
    assert chaos.open_in_mlflow(run) == 0


def epochs(events: list, step: str) -> int:
    return sum(isinstance(event, Epoch) and event.step == step for event in events)
