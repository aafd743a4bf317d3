"""What a resumed run must share with the interrupted one: content, nothing that a move changes."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import made
import numpy as np
import pytest
import tiny
import torch

from lvm.core.errors import ResumeError, UsageError
from lvm.data.seen import read_seen
from lvm.jobs import request as asked
from lvm.jobs.doors import triage_parser
from lvm.jobs.flags import options_of
from lvm.jobs.options import TriageOptions
from lvm.models.predictor import Predictor
from lvm.training.checkpoint import save_checkpoint
from lvm.training.manifest import Stated
from lvm.triage.arm import ArmSpec, arm_id
from lvm.triage.events import Resumed, RunStarted, StepStarted
from lvm.triage.events.parts import Arm
from lvm.triage.journal import Journal, read_run
from lvm.triage.request import Request, identity
from lvm.triage.step import Role, steps_in_order
from lvm.triage.verdict import build_verdict

RECIPE = tiny.recipe(**{"training.epochs": 2})
CONFIG = tiny.config(base=RECIPE, stage=0.99)


def model(folder: Path, shift: float = 0.0) -> Path:
    """A checkpoint of the tiny recipe, untrained; `shift` makes it another model."""
    predictor = Predictor(RECIPE, tiny.WIDTH)
    with torch.no_grad():
        for weights in predictor.parameters():
            weights += shift
    save_checkpoint(folder, predictor, RECIPE, stated=Stated())
    return folder


def request(**values: Any) -> Request:
    return Request(config=CONFIG, out=Path("/run"), steps=steps_in_order(), code="c", **values)


# --- identity -------------------------------------------------------------------------------------


def test_the_name_of_an_arm_hangs_on_everything_that_decides_its_numbers() -> None:
    base = {"data": "d", "code": "c", "source": "s", "workers": 1}
    ids = {arm_id(RECIPE, **base)}
    for key, value in (("data", "e"), ("code", "e"), ("source", "e"), ("workers", 2)):
        ids.add(arm_id(RECIPE, **{**base, key: value}))
    ids.add(arm_id(RECIPE.with_changes({"seed": 1}), **base))
    assert len(ids) == 6


def test_what_was_handed_in_is_named_by_its_content(tmp_path, monkeypatch) -> None:
    rows = np.ones((3, 4), np.float32)
    np.save(tmp_path / "a.npy", rows)
    np.save(tmp_path / "b.npy", rows)
    monkeypatch.chdir(tmp_path)
    for one, two in (("a.npy", "b.npy"), ("a.npy", str(tmp_path / "a.npy"))):
        found = [identity(request(predictions=Path(path)), "d") for path in (one, two)]
        assert found[0] == found[1]
    before = identity(request(predictions=Path("a.npy")), "d")
    np.save(tmp_path / "a.npy", 2 * rows)
    after = identity(request(predictions=Path("a.npy")), "d")
    assert {key for key in before if before[key] != after[key]} == {"predictions"}
    (tmp_path / "ids").write_text("3\n")
    stated = identity(request(predictions=Path("a.npy"), seen=read_seen(tmp_path / "ids")), "d")
    assert {key for key in after if after[key] != stated[key]} == {"seen"}
    first, moved = model(tmp_path / "one"), shutil.copytree(tmp_path / "one", tmp_path / "two")
    same = [identity(request(given=path, checkpoint=path), "d") for path in (first, moved)]
    assert same[0] == same[1]
    other = model(tmp_path / "three", shift=0.01)
    replaced = identity(request(given=other, checkpoint=other), "d")
    assert {key for key in replaced if replaced[key] != same[0][key]} == {"checkpoint"}


def test_no_path_is_part_of_an_identity(tmp_path) -> None:
    path = model(tmp_path / "checkpoint")
    kept = json.dumps(identity(request(given=path, checkpoint=path), "d"))
    assert str(tmp_path) not in kept
    assert identity(request(), "d") == identity(
        Request(config=CONFIG, out=Path("/moved"), steps=steps_in_order(), code="c"), "d"
    )


# --- a run that is moved --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Path:
    return model(tmp_path_factory.mktemp("given") / "checkpoint")


@pytest.fixture(scope="module")
def run(tmp_path_factory, given) -> Path:
    """A triage of a checkpoint: the model is searched, never trained, also by the first step."""
    folder = tmp_path_factory.mktemp("runs") / "1"
    tiny.triage(folder, tiny.dataset(), CONFIG, num_steps=1, checkpoint=given, given=given)
    return folder


def specs(journal: Journal) -> list[Arm]:
    return [spec for event in journal.events.of(StepStarted) for spec in event.arms]


def test_a_journal_holds_no_path_of_its_own_folder(run, given) -> None:
    assert str(run) not in (run / "journal.jsonl").read_text()
    found = specs(Journal(run))
    assert {spec.folder for spec in found} == {f"arms/{spec.id}" for spec in found}
    assert {spec.source for spec in found} == {None, str(given)}
    assert any(spec.baseline for spec in found)
    for spec in found:
        assert (run / spec.folder).is_dir()


def test_a_moved_run_with_a_moved_model_goes_on_and_trains_nothing_again(
    run, given, tmp_path
) -> None:
    moved = shutil.copytree(run, tmp_path / "elsewhere" / "7")
    model_now = shutil.copytree(given, tmp_path / "models" / "mine")
    before = Journal(moved).events
    kept = {path: path.stat().st_mtime_ns for path in moved.rglob("*") if path.is_file()}
    stop, journal = tiny.triage(
        moved, tiny.dataset(), CONFIG, num_steps=1, checkpoint=model_now, given=model_now
    )
    assert journal.events == before
    assert {p: p.stat().st_mtime_ns for p in moved.rglob("*") if p.is_file()} == kept
    summary = build_verdict(read_run(moved), resume="x")
    assert summary.verdict == stop.verdict
    assert summary.phase1 == build_verdict(read_run(run), resume="x").phase1


def test_another_model_is_another_arm(run, tmp_path) -> None:
    other = model(tmp_path / "other", shift=0.01)
    _, journal = tiny.triage(
        tmp_path / "run", tiny.dataset(), CONFIG, num_steps=1, checkpoint=other, given=other
    )
    here, there = specs(Journal(run)), specs(journal)
    for one, two in zip(here, there, strict=True):
        assert (one.id == two.id) == (one.source is None), one.name


def test_a_trial_gets_whole_paths_and_a_journal_short_ones(tmp_path) -> None:
    spec = ArmSpec(
        id="a",
        step="s",
        name="n",
        role=Role.ARM,
        recipe=RECIPE,
        folder=tmp_path / "arms" / "a",
        gates=CONFIG.gates,
        source=Path("/given"),
        baseline=tmp_path / "arms" / "b" / "dev_001.npz",
    )
    assert pickle.loads(pickle.dumps(spec)) == spec
    kept = spec.in_journal(tmp_path)
    assert (kept.folder, kept.source) == ("arms/a", "/given")
    assert kept.baseline == "arms/b/dev_001.npz"
    assert spec.in_journal(Path("/other")).folder == str(tmp_path / "arms" / "a")


# --- what a resume takes from the journal ---------------------------------------------------------


@pytest.fixture
def bank(tmp_path) -> Path:
    (tmp_path / "bank").mkdir()
    return tmp_path / "bank"


@pytest.fixture
def journal(tmp_path, bank) -> Journal:
    """The journal of a run that was started with --data and --recipe."""
    (tmp_path / "recipe.toml").write_text("seed = 3\n")
    args = TriageOptions(data=bank, recipe=tmp_path / "recipe.toml", seeds=2)
    started = made.event(
        RunStarted,
        arguments=asked.arguments(args),
        code="c",
        config=CONFIG,
        identity={"request": "r", "data": "d"},
    )
    journal = Journal(tmp_path / "run")
    journal.append(started)
    return journal


def resumed(journal: Journal, *more: str) -> TriageOptions:
    parsed = triage_parser().parse_args(["--resume", str(journal.folder), *more])
    return asked.resumed(options_of(TriageOptions, parsed), journal)


def test_a_resume_takes_its_flags_from_the_journal(journal, bank, tmp_path) -> None:
    args = resumed(journal, "--address", "head:6379")
    assert (args.data, args.recipe, args.seeds) == (bank, tmp_path / "recipe.toml", 2)
    assert (args.address, args.extended) == ("head:6379", False)


@pytest.mark.parametrize(
    "flag",
    [
        ["--seeds", "3"],
        ["--extended"],
        ["--preset", "gpu"],
        ["--out", "x"],
        ["--predictions", "p.npy"],
        ["--checkpoint", "c"],
        ["--allow", "POOL"],
        ["--seen", "s"],
    ],
)
def test_another_flag_is_refused(journal, flag) -> None:
    with pytest.raises(UsageError, match=f"{flag[0]} cannot be combined with --resume"):
        resumed(journal, *flag)


def test_a_file_that_lies_elsewhere_now_can_be_given_again(journal, bank, tmp_path) -> None:
    bank.rename(tmp_path / "moved")
    with pytest.raises(ResumeError, match="give --data again with its current path"):
        resumed(journal)
    args = resumed(journal, "--data", str(tmp_path / "moved"))
    assert args.data == tmp_path / "moved"
    # And it is known from then on.
    journal.append(made.event(Resumed, arguments=asked.arguments(args)))
    assert resumed(journal).data == tmp_path / "moved"


def test_a_recipe_that_was_left_behind_is_taken_from_the_journal(journal, tmp_path) -> None:
    assert asked.configuration(resumed(journal), journal).recipe.seed == 3  # of the file
    (tmp_path / "recipe.toml").unlink()
    assert asked.configuration(resumed(journal), journal) == CONFIG


@pytest.mark.parametrize(
    ("now", "words"),
    [
        ({"request": "x"}, ["the configuration changed"]),
        ({"data": "x"}, ["the data changed"]),
        ({"predictions": "x"}, ["the predictions p.npy changed"]),
        ({"checkpoint": "x"}, ["the checkpoint c changed"]),
        ({"seen": "x"}, ["the articles in s changed"]),
        ({"data": "x", "checkpoint": "x"}, ["the data and the checkpoint c changed"]),
    ],
)
def test_what_changed_is_refused_by_its_name(journal, now, words) -> None:
    args = TriageOptions(predictions=Path("p.npy"), checkpoint=Path("c"), seen=Path("s"))
    same = {"request": "r", "data": "d", "checkpoint": "", "predictions": "", "seen": ""}
    asked.refuse_changes(journal, same, "c", args)
    with pytest.raises(ResumeError) as refused:
        asked.refuse_changes(journal, {**same, **now}, "c", args)
    for word in words:
        assert word in str(refused.value)
    with pytest.raises(ResumeError, match=r"the code \(c, now e\) changed"):
        asked.refuse_changes(journal, same, "e", args)
