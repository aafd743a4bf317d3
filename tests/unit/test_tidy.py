"""What arms leave on disk: nothing that can still be asked for goes, and the rest does."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import made
import pytest
import tiny
import torch

from lvm.core.config.run import ScheduleConfig
from lvm.core.records import ABSENT
from lvm.training.checkpoint import load_checkpoint
from lvm.triage.events import (
    ArmEnded,
    ArmJudged,
    Epoch,
    Event,
    RunStarted,
    StepEnded,
    StepStarted,
    TestJudged,
    Tidied,
)
from lvm.triage.journal import Journal
from lvm.triage.state import RunState
from lvm.triage.step import Arm, Hypothesis, Proposal, Step
from lvm.triage.tidy import GIB, STOPPED, Tidier
from lvm.triage.verdict import build_verdict
from lvm.views.report import Run
from lvm.views.report.origin import removed

BUDGET = 8  # epochs; the rungs are 2, 4 and 8
WEIGHTS, STATE = 1000, 2000  # bytes


class World:
    """A journal and the arm folders that its events tell of."""

    def __init__(self, out: Path, *, max_disk_bytes: float = GIB) -> None:
        self.out, self.journal = out, Journal(out)
        self.note(RunStarted)
        schedule = ScheduleConfig(max_disk_gib=max_disk_bytes / GIB)
        self.tidier = Tidier(out, schedule, self.journal.append)

    def step(self, name: str, arms: dict[str, tuple[str, int]], **chosen: str) -> None:
        """Judge a step: arm -> (why it ended, epoch); its role is the first word of its name."""
        specs = [made.arm(arm, name=arm, role=arm.split()[0], epochs=BUDGET) for arm in arms]
        self.note(StepStarted, step=name, number=1, arms=specs)
        for arm, (reason, epoch) in arms.items():
            known = self.journal.events.last(Epoch, arm=arm)
            for passed in range(1 + (known.epoch if known else 0), epoch + 1):
                self.epoch(name, arm, passed)
            self.note(ArmEnded, arm=arm, step=name, reason=reason, epoch=epoch)
        for arm in arms:
            self.note(ArmJudged, arm=arm, step=name, name=arm, role=arm.split()[0])
        self.note(StepEnded, step=name, **chosen)

    def note(self, kind: type[Event], **values: Any) -> None:
        self.journal.append(made.event(kind, **values))

    def epoch(self, step: str, arm: str, epoch: int) -> None:
        folder = self.out / "arms" / arm
        (folder / "checkpoint").mkdir(parents=True, exist_ok=True)
        manifest = {"recipe": {}, "width": 1, "epoch": epoch}
        (folder / "checkpoint/manifest.json").write_text(json.dumps(manifest))
        (folder / "checkpoint/model.safetensors").write_bytes(bytes(WEIGHTS))
        (folder / "checkpoint/state.pt").write_bytes(bytes(STATE))
        (folder / f"dev_{epoch:03d}.npz").write_bytes(b"dev")
        (folder / "epochs.jsonl").write_text("an epoch\n" * epoch)
        self.note(Epoch, step=step, arm=arm, epoch=epoch)

    def tidy(self) -> None:
        self.tidier.after(self.journal.events)

    def files(self, arm: str) -> set[str]:
        folder = self.out / "arms" / arm
        return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def checkpoint(place: str, *, state: bool = False) -> set[str]:
    files = {f"{place}/manifest.json", f"{place}/model.safetensors"}
    return files | {f"{place}/state.pt"} if state else files


def dev(*epochs: int) -> set[str]:
    return {"epochs.jsonl", *(f"dev_{epoch:03d}.npz" for epoch in epochs)}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# --- what stays of each kind of arm ---------------------------------------------------------------


def test_a_finished_arm_keeps_its_weights_and_its_results_at_the_rungs(world: World) -> None:
    world.step("s", {"arm a": ("finished", 8)})
    world.tidy()
    assert world.files("arm a") == checkpoint("checkpoint") | dev(2, 4, 8)


def test_an_arm_that_lost_can_be_shown_and_not_go_on(world: World) -> None:
    world.step("s", {"arm a": ("pruned", 4), "arm b": ("cancelled", 4), "arm c": ("diverged", 5)})
    world.tidy()
    assert world.files("arm a") == world.files("arm b") == checkpoint(STOPPED) | dev(2, 4)
    assert world.files("arm c") == checkpoint(STOPPED) | dev(2, 4, 5)  # it was judged there


def test_a_control_and_what_was_chosen_can_go_on_and_keep_every_epoch(world: World) -> None:
    arms = dict.fromkeys(("control", "arm a", "arm b"), ("cancelled", 4))
    world.step("s", arms, candidate="arm a", kept="arm b")
    world.tidy()
    for arm in arms:
        assert world.files(arm) == checkpoint("checkpoint", state=True) | dev(1, 2, 3, 4)


def test_a_finished_control_needs_no_optimiser(world: World) -> None:
    world.step("s", {"control": ("finished", 8)})
    world.tidy()
    assert world.files("control") == checkpoint("checkpoint") | dev(*range(1, 9))


@pytest.mark.parametrize("reason", ABSENT)
def test_an_absent_arm_keeps_all_for_a_resumed_run(world: World, reason: str) -> None:
    world.step("s", {"arm a": (reason, 3)})
    world.tidy()
    world.tidier.at_the_end(world.journal.events)
    assert world.files("arm a") == checkpoint("checkpoint", state=True) | dev(1, 2, 3)
    assert world.journal.events.last(Tidied) is None


def test_a_step_that_is_not_judged_is_left_alone(world: World) -> None:
    world.step("first", {"arm a": ("finished", 8)})
    world.note(StepStarted, step="s", number=2, arms=[made.arm("arm b", epochs=BUDGET)])
    world.epoch("s", "arm b", 1)
    world.note(ArmEnded, arm="arm b", step="s", reason="pruned", epoch=1)
    world.tidy()
    assert world.files("arm b") == checkpoint("checkpoint", state=True) | dev(1)


def test_an_arm_that_a_later_step_goes_on_with_is_judged_by_both(world: World) -> None:
    """The control of two steps: cancelled in the first, finished in the second."""
    world.step("first", {"control": ("cancelled", 2)})
    world.tidy()
    assert "checkpoint/state.pt" in world.files("control")
    world.step("second", {"control": ("finished", 8)})
    world.tidy()
    assert "checkpoint/state.pt" not in world.files("control")


def test_at_the_end_nothing_goes_on(world: World) -> None:
    world.step("s", {"control": ("cancelled", 4), "arm a": ("gate held", 4)}, candidate="arm a")
    world.tidy()
    world.tidier.at_the_end(world.journal.events)
    assert world.files("control") == world.files("arm a") == checkpoint(STOPPED) | dev(1, 2, 3, 4)


def test_leftovers_of_a_kill_go(world: World) -> None:
    world.step("s", {"control": ("cancelled", 4), "arm a": ("pruned", 4)})
    for arm in ("control", "arm a"):
        partial = world.out / "arms" / arm / ".checkpoint.new"
        partial.mkdir()
        (partial / "model.safetensors").touch()
    (world.out / "arms" / "arm a" / "dev_004.npz.partial").touch()
    # An older copy, from which a training would go on.
    shutil.copytree(world.out / "arms/arm a/checkpoint", world.out / "arms/arm a/.checkpoint.old")
    world.tidy()
    assert world.files("control") == checkpoint("checkpoint", state=True) | dev(1, 2, 3, 4)
    assert world.files("arm a") == checkpoint(STOPPED) | dev(2, 4)


# --- the bound ------------------------------------------------------------------------------------


def holders(world: World) -> set[str]:
    return {path.parent.parent.name for path in world.out.glob("arms/*/*/model.safetensors")}


def test_weights_of_arms_that_lost_go_first_the_oldest_before_the_others(tmp_path: Path) -> None:
    world = World(tmp_path, max_disk_bytes=5 * WEIGHTS)
    world.step("1", {"control": ("finished", 8), "arm a": ("finished", 8), "arm b": ("pruned", 2)})
    world.tidy()
    assert holders(world) == {"control", "arm a", "arm b"}  # within the bound
    world.step("2", {"arm c": ("pruned", 2), "arm d": ("finished", 8), "arm e": ("finished", 8)})
    world.tidy()
    assert holders(world) == {"control", "arm a", "arm d", "arm e"}
    assert [e.weights for e in world.journal.events.of(Tidied)] == [[], ["arm b", "arm c"]]
    world.step("3", {"arm f": ("finished", 8), "arm g": ("finished", 8)}, kept="arm g")
    world.tidy()
    assert holders(world) == {"control", "arm e", "arm f", "arm g"}
    assert world.files("arm b") == dev(2)  # what a report and a resumed run read is there


def test_no_bound_takes_the_weights_of_what_may_be_asked_for(tmp_path: Path) -> None:
    world = World(tmp_path, max_disk_bytes=1)
    arms = dict.fromkeys(("control", "arm a", "arm b", "confirm", "phase 1"), ("finished", 8))
    world.step("s", arms, candidate="arm a", kept="arm b")
    world.tidy()
    assert holders(world) == set(arms)


def test_an_arm_that_a_later_step_chose_keeps_its_weights(tmp_path: Path) -> None:
    world = World(tmp_path, max_disk_bytes=3 * WEIGHTS)
    world.step("1", {"arm a": ("finished", 8)})
    world.tidy()
    world.step("2", {"arm a": ("finished", 8)}, kept="arm a")
    world.step("3", {f"arm {x}": ("finished", 8) for x in "bcd"})
    world.tidy()
    assert holders(world) == {"arm a", "arm d"}


# --- interruptions --------------------------------------------------------------------------------


class KilledError(Exception):
    pass


def test_what_a_kill_left_half_done_is_done_by_the_next_session(world: World) -> None:
    world.step("s", {"control": ("cancelled", 4), "arm a": ("pruned", 4), "arm b": ("finished", 8)})
    untidied = shutil.copytree(world.out, world.out.parent / "untidied")
    world.tidy()
    whole = {arm: world.files(arm) for arm in ("control", "arm a", "arm b")}

    def note_and_die(event: Event) -> None:
        other.append(event)
        raise KilledError

    other = Journal(untidied)
    with pytest.raises(KilledError):
        Tidier(untidied, ScheduleConfig(), note_and_die).after(other.events)
    resumed = Tidier(untidied, ScheduleConfig(), other.append)
    resumed.after(other.events)
    world.out = untidied
    assert {arm: world.files(arm) for arm in whole} == whole
    before = len(other.events)
    Tidier(untidied, ScheduleConfig(), other.append).after(other.events)
    assert len(other.events) == before  # a third session finds nothing to do


def test_what_cannot_be_removed_stays_and_the_run_goes_on(world: World, monkeypatch) -> None:
    world.step("s", {"arm a": ("finished", 8), "arm b": ("pruned", 2)})

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    before = world.files("arm a"), world.files("arm b")
    world.tidy()
    assert (world.files("arm a"), world.files("arm b")) == before


# --- real arms ------------------------------------------------------------------------------------


def question(name: str, number: int, *, extended: bool) -> Step:
    """A step whose arms are the same whatever it is called."""
    arms = [
        Arm(name=f"temperature {value}", changes={"objective.temperature": value}, why="")
        for value in (0.05, 0.5)
    ]
    return Step(
        name=name,
        number=number,
        title=name,
        question="",
        rules_out="",
        hypotheses=[Hypothesis(id=name, claim="", predicts="")],
        propose=lambda recipe, facts: Proposal(arms=arms),
        epochs=lambda schedule: schedule.short_epochs,
        extended=extended,
    )


@pytest.fixture(scope="module")
def asked_twice(tmp_path_factory, tiny_dataset):
    """Two runs in which an open question asks for the arms of a step again, to their end."""
    found = {}
    base = tiny.config(base=tiny.recipe(**{"training.epochs": 2}), stage=0.9, epochs=4)
    config = dataclasses.replace(
        base, schedule=dataclasses.replace(base.schedule, max_disk_gib=1e-9)
    )
    threads = torch.get_num_threads()
    for tidy in (True, False):
        folder = tmp_path_factory.mktemp("tidied" if tidy else "left alone")
        with pytest.MonkeyPatch.context() as patch, tiny.shapes_known():
            if not tidy:
                patch.setattr(Tidier, "after", lambda *_: None)
                patch.setattr(Tidier, "at_the_end", lambda *_: None)
            stop, journal = tiny.triage(
                folder,
                tiny_dataset,
                config,
                steps=[question("first", 1, extended=False)],
                extended=[question("again", 9, extended=True)],
            )
        found[tidy] = (stop, journal, config)
    torch.set_num_threads(threads)
    return found


def test_an_arm_that_lost_and_is_asked_for_again_gives_the_same_numbers(asked_twice) -> None:
    stop, journal, _ = asked_twice[True]
    other_stop, other, _ = asked_twice[False]
    ends = {(e.step, e.arm): e.reason for e in journal.events.of(ArmEnded)}
    lost = [arm for (step, arm), reason in ends.items() if (step, reason) == ("first", "pruned")]
    assert lost  # it has something to train again
    assert all(ends["again", arm] == "finished" for arm in lost)
    assert stop == other_stop
    assert tiny.judged(journal) == tiny.judged(other)
    assert journal.events.of(Tidied)
    assert not other.events.of(Tidied)


def test_a_run_leaves_no_optimiser_and_the_models_that_were_judged(asked_twice) -> None:
    _, journal, _ = asked_twice[True]
    assert not list(journal.folder.rglob("state.pt"))
    assert list(asked_twice[False][1].folder.rglob("state.pt"))  # or there were none to remove
    for test in journal.events.of(TestJudged):
        load_checkpoint(journal.folder / "arms" / test.arm / "checkpoint")
    gone = {arm for event in journal.events.of(Tidied) for arm in event.weights}
    assert gone
    assert not any(list((journal.folder / "arms" / arm).glob("*/*.safetensors")) for arm in gone)


def test_a_tidied_run_that_is_resumed_writes_nothing_and_says_the_same(
    asked_twice, tiny_dataset
) -> None:
    stop, journal, config = asked_twice[True]
    before = list(journal.events)
    again, resumed = tiny.triage(
        journal.folder,
        tiny_dataset,
        config,
        steps=[question("first", 1, extended=False)],
        extended=[question("again", 9, extended=True)],
    )
    assert again == stop
    assert resumed.events == before


def test_a_report_says_what_was_removed(world: World) -> None:
    world.step("s", {"arm a": ("finished", 8), "arm b": ("pruned", 2)})
    world.note(Tidied, states=["arm a", "arm b"], weights=["arm b"], files=5)
    world.note(Tidied, states=["arm b"])
    assert _removed(world.journal.events) == (
        "optimiser states of 2 arms; weights of 1 arm that did not win (schedule.max_disk_gib = 50)"
    )
    assert _removed(RunState(world.journal.events[:1])) == ""


def _removed(state: RunState) -> str:
    return removed(Run(state, build_verdict(state, resume="")))
