"""The short form of benchmarks/chaos.py: two hits on a small triage, each of which it survives."""

from __future__ import annotations

import chaos
import linear_bank
import pytest
from alone import alone, measured

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

PATIENCE = 240.0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> chaos.Place:
    folder = tmp_path_factory.mktemp("chaos")
    (folder / "recipe.toml").write_text(chaos.RECIPE)
    bank = linear_bank.write(folder / "bank")
    return chaos.Place(folder=folder, bank=bank, recipe=folder / "recipe.toml")


@pytest.fixture(scope="module")
def undisturbed(place: chaos.Place) -> list:
    return alone(place.bank, place.recipe, place.folder / "alone")


@pytest.mark.parametrize(
    ("hit", "step", "status"),
    [("kill -9 of a trial", "phase_1", 0), ("kill -9 of the head", "projection_head", 75)],
)
def test_a_hit_costs_no_verdict_and_leaves_nothing_behind(
    hit: str, step: str, status: int, place: chaos.Place, undisturbed: list
):
    run = chaos.Run(place, place.folder / hit.replace(" ", "_"))
    try:
        run.start(place.flags(run.out))
        assert run.wait_for(lambda events: epochs(events, step) >= 3, PATIENCE)
        chaos.HITS[hit](run)
        assert run.end(PATIENCE) == status, run.log.read_text()
        if status != 0:
            assert run.left_behind() == []
            run.start(["--resume", str(run.out)])
            assert run.end(PATIENCE) == 0, run.log.read_text()
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
    return sum(event["event"] == "epoch" and event["step"] == step for event in events)
