"""A whole triage in this process whose arms break because of where they run, and its resume."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from collections import Counter

import made
import pytest
import tiny
import torch

from lvm.core.errors import DataError, MissingExtraError, NonFiniteLossError, ResumeError
from lvm.core.records import RunVerdict, StopReason
from lvm.training import loop
from lvm.triage import local
from lvm.triage.events import (
    ArmEnded,
    ArmJudged,
    Confirmed,
    Epoch,
    Reopened,
    Repeated,
    StepEnded,
    StepStarted,
    TestJudged,
)
from lvm.triage.journal import Journal, read_journal
from lvm.triage.on_ray import shared
from lvm.triage.step import steps_in_order
from lvm.triage.verdict import build_verdict
from lvm.views.report import Run
from lvm.views.report.markdown import render, report_sections
from lvm.views.status import status
from lvm.views.status.screen import screen

CONFIG = tiny.config(stage=0.3)  # three epochs in full, two in a step: no arm serves both
NUM_STEPS = 2
RESUME = "python tune_jobs/triage.py --resume runs/1"
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
DISK_FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(autouse=True)
def one_thread():
    """Arms set the number of threads; give it back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The one run folder of this file: the name of a searched checkpoint's arm holds its path."""
    return tmp_path_factory.mktemp("absent") / "run"


@pytest.fixture(scope="module")
def undisturbed(folder, tiny_dataset):
    """Return the end and the judgements of a run with these flags when nothing breaks."""
    known = {}

    def run(**request):
        key = json.dumps(request, sort_keys=True)
        if key not in known:
            shutil.rmtree(folder, ignore_errors=True)
            threads = torch.get_num_threads()
            stop, journal = tiny.triage(folder, tiny_dataset, CONFIG, **flags(request))
            torch.set_num_threads(threads)
            known[key] = (stop, tiny.judged(journal), epochs_of(journal))
        shutil.rmtree(folder, ignore_errors=True)
        return known[key]

    return run


def flags(request):
    return {"num_steps": NUM_STEPS, **request}


def epochs_of(journal):
    return {(e.arm, e.epoch) for e in journal.events.of(Epoch)}


class Faults:
    """Makes arms fail: (step, name) -> (epochs it may run before, what is raised then)."""

    def __init__(self) -> None:
        self.on = {}
        self.raised = Counter()

    def run_trial(self, spec, dataset):
        after, error = self._of(spec)
        for number, record in enumerate(real_run_trial(spec, dataset)):
            if number == after:
                self._fail(spec, error)
            yield record
        # not reached by an arm that fails

    def _of(self, spec):
        for (step, name), fault in self.on.items():
            if spec.step.startswith(step) and name in (spec.name, "*"):
                return fault
        return (None, None)

    def _fail(self, spec, error):
        self.raised[spec.step, spec.name] += 1
        raise error


real_run_trial = local.run_trial


@pytest.fixture
def faults(monkeypatch):
    made = Faults()
    monkeypatch.setattr(local, "run_trial", made.run_trial)
    return made


@pytest.fixture
def trained(monkeypatch):
    """Count every epoch that is really trained, by folder."""
    calls, real = Counter(), loop._train_epoch

    def counted(state, epoch):
        calls[state.folder, epoch] += 1
        return real(state, epoch)

    monkeypatch.setattr(loop, "_train_epoch", counted)
    return calls


def run(folder, dataset, config=CONFIG, **request):
    return tiny.triage(folder, dataset, config, **flags(request))


def everything(step):
    return {(step, "*"): (0, OUT_OF_MEMORY)}


HELD = "gradient through both branches"  # of projection_head; the run's first confirmation
ALL_OF_BOTH = {**everything("projection_head"), **everything("temperature")}
CASES = {
    "every arm of every step": (ALL_OF_BOTH, RunVerdict.INCONCLUSIVE),
    "every confirmation": (everything("confirm_"), RunVerdict.INCONCLUSIVE),
    "AR-only": ({("phase_1", "AR-only"): (1, DISK_FULL)}, RunVerdict.INCONCLUSIVE),
    "the base recipe's model": (
        {("phase_1", "InfoNCE+AR"): (1, OUT_OF_MEMORY)},
        RunVerdict.INCONCLUSIVE,
    ),
    "both models of phase 1": (everything("phase_1"), RunVerdict.INCONCLUSIVE),
    "the control of a step": (
        {("temperature", "control"): (1, MemoryError())},
        RunVerdict.INCONCLUSIVE,
    ),
    "one arm of one step": (
        {("temperature", "temperature 0.10"): (0, MissingExtraError("x", None, "this arm"))},
        RunVerdict.INCONCLUSIVE,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_absent_arms_are_no_evidence_and_a_resume_reaches_the_undisturbed_verdict(
    case, folder, undisturbed, faults, trained, shapes_checked_before, tiny_dataset
) -> None:
    whole, judged, epochs = undisturbed()
    trained.clear()
    faults.on, verdict = CASES[case]
    stop, journal = run(folder, tiny_dataset)
    assert faults.raised
    assert stop.verdict is verdict
    check_views(journal, faults, stop)
    written = journal.path.read_bytes()

    faults.on = {}
    again, resumed = run(folder, tiny_dataset)
    assert again == whole
    assert tiny.judged(resumed) == judged
    assert epochs_of(resumed) >= epochs
    assert max(trained.values()) == 1  # no finished epoch was trained again
    assert resumed.path.read_bytes().startswith(written)
    assert Journal(folder).events == resumed.events
    assert build_verdict(resumed.events, resume=RESUME).absent == []

    before = resumed.events
    third, finished = run(folder, tiny_dataset)
    assert (third, finished.events) == (whole, before)  # nothing is absent any more


def check_views(journal, faults, stop) -> None:
    """The document and every view of it name what is absent, and what to type."""
    document = build_verdict(journal.events, resume=RESUME)
    failed = {(one.step, one.arm) for one in document.absent}
    assert set(faults.raised) <= failed
    assert document.verdict == stop.verdict
    assert all(one.reason == StopReason.CRASHED for one in document.absent)
    if stop.verdict is RunVerdict.INCONCLUSIVE:
        assert stop.absent
        assert stop.since in document.headline
        assert "crashed: " in document.headline
    assert RESUME in " ".join(document.warnings[: len(document.absent) + 1])
    text = render(report_sections(Run(journal.events, document)), stop.verdict)
    assert "more articles to narrow" not in text
    assert "Absent, so not evidence" in text
    parts = {part.splitlines()[0]: part for part in text.split("### ")}
    for step in document.steps:
        if any(one.step.endswith(step.step) for one in document.absent):
            (said,) = [part for title, part in parts.items() if step.title in title]
            assert "Absent, so not evidence" in said
            assert "Ruled out" not in said
    seen = status(journal.events, journal.folder, journal.events[-1].at)
    assert "crashed" in "\n".join(screen(seen))
    assert "--resume" in screen(seen)[-1] or stop.verdict is not RunVerdict.INCONCLUSIVE
    for event in journal.events.of(ArmJudged):
        if (event.step, event.name) in failed:
            assert (event.evaluation, event.gains, event.findings) == (None, [], [])
            assert event.stage.verdict == "NOT_EVALUABLE"
    crashed = {one.step for one in document.absent if one.role == "arm"}
    for event in journal.events.of(StepEnded):
        assert event.stage != "FAIL" or event.step not in crashed


def test_without_ar_only_no_step_is_trained(
    folder, faults, trained, shapes_checked_before, tiny_dataset
) -> None:
    """Row 7 of the issue: step 1 was trained, then a sentence about a file and exit status 2."""
    shutil.rmtree(folder, ignore_errors=True)
    faults.on = {("phase_1", "AR-only"): (0, DISK_FULL)}
    stop, journal = run(folder, tiny_dataset, all_steps=True, num_seeds=2)
    assert [e.step for e in journal.events.of(StepStarted)] == ["phase_1"]
    assert stop.since.startswith("AR-only crashed: no space left on /")
    assert journal.events.last(TestJudged, name="InfoNCE+AR") is not None  # what is there is shown


def test_a_base_model_cut_short_is_never_searched(
    folder, faults, shapes_checked_before, tiny_dataset
) -> None:
    """Its folder holds the checkpoint of the first epoch of two."""
    shutil.rmtree(folder, ignore_errors=True)
    faults.on = {("phase_1", "InfoNCE+AR"): (1, OUT_OF_MEMORY)}
    _, journal = run(folder, tiny_dataset)
    base = next(
        a for a in journal.events.last(StepStarted, step="phase_1").arms if a.name == "InfoNCE+AR"
    )
    assert (folder / "arms" / base.id / "checkpoint" / "manifest.json").exists()
    searched = journal.events.last(ArmEnded, name="search in the projected space")
    assert searched.reason == "crashed"
    assert "no model to search" in searched.detail
    assert not [e for e in journal.events.of(Epoch) if e.epoch == 0]
    for confirmed in journal.events.of(
        Confirmed
    ):  # the unchanged recipe was trained beside the arm
        assert confirmed.control.reason == "finished"
        assert confirmed.control.verdict != "NOT_EVALUABLE"


def test_a_step_that_takes_up_the_base_recipe_does_not_stand_for_its_model(
    folder, faults, shapes_checked_before, tiny_dataset
) -> None:
    """Where a step has the budget of phase 1, its control is that model, and a rung may end it."""
    shutil.rmtree(folder, ignore_errors=True)
    config = tiny.config(base=tiny.recipe(**{"training.epochs": 2}), stage=-1.0)
    faults.on = {("phase_1", "InfoNCE+AR"): (0, OUT_OF_MEMORY)}
    stop, journal = run(folder, tiny_dataset, config, steps=steps_in_order()[1:2])
    base = journal.events.last(ArmEnded, step="phase_1", name="InfoNCE+AR")
    control = journal.events.last(ArmEnded, step="temperature", name="control")
    assert (control.arm, control.reason) == (base.arm, "cancelled")
    (confirmed,) = journal.events.of(Confirmed)
    assert (confirmed.control.spec, confirmed.control.reason) == (
        base.arm,
        "finished",
    )
    assert confirmed.control.verdict != "NOT_EVALUABLE"
    assert stop.verdict is not RunVerdict.NOT_FIXED


def test_an_arm_that_fails_again_is_tried_once_per_resume(
    folder, undisturbed, faults, trained, shapes_checked_before, tiny_dataset
) -> None:
    whole, judged, _ = undisturbed()
    trained.clear()
    faults.on = {("temperature", "temperature 0.05"): (1, OUT_OF_MEMORY)}
    for number in range(1, 4):
        stop, journal = run(folder, tiny_dataset)
        assert stop.verdict is RunVerdict.INCONCLUSIVE
        assert sum(faults.raised.values()) == number
        assert len(journal.events.of(Reopened)) == number - 1
        assert len(build_verdict(journal.events, resume="").absent) == 1
    faults.on = {}
    again, resumed = run(folder, tiny_dataset)
    assert (again, tiny.judged(resumed)) == (whole, judged)
    assert max(trained.values()) == 1


class Killed(KeyboardInterrupt):
    """Stands for a kill."""


def kill_after(kind, step=None):
    def note(journal, event):
        journal.append(event)
        if isinstance(event, kind) and (step is None or event.step == step):
            raise Killed

    return note


@pytest.mark.parametrize("kind", [ArmEnded, StepEnded])
def test_a_run_killed_amid_a_step_with_an_absent_arm_goes_on_alike(
    kind, folder, undisturbed, faults, trained, shapes_checked_before, tiny_dataset
) -> None:
    """Without that arm the rung let another one go on, which it would have stopped."""
    whole, judged, _ = undisturbed()
    trained.clear()
    faults.on = {("temperature", "temperature 0.15"): (0, OUT_OF_MEMORY)}
    with pytest.raises(Killed):
        run(folder, tiny_dataset, note=kill_after(kind, step="temperature"))
    faults.on = {}
    again, resumed = run(folder, tiny_dataset)
    assert (again, without_cost(tiny.judged(resumed))) == (whole, without_cost(judged))
    assert max(trained.values()) == 1


def without_cost(judged):
    """Leave out how many epochs were run: some of them for a rung that was decided anew."""
    return {
        place: {k: v for k, v in event.items() if k != "epochs_run"}
        for place, event in judged.items()
    }


@pytest.mark.parametrize("kind", [Reopened, Confirmed])
def test_a_resume_that_is_killed_as_well_loses_nothing(
    kind, folder, undisturbed, faults, trained, shapes_checked_before, tiny_dataset
) -> None:
    whole, judged, _ = undisturbed()
    trained.clear()
    faults.on = {("phase_1", "InfoNCE+AR"): (1, OUT_OF_MEMORY)}
    run(folder, tiny_dataset)
    faults.on = {}
    with pytest.raises(Killed):
        run(folder, tiny_dataset, note=kill_after(kind))
    assert build_verdict(Journal(folder).events, resume="").verdict is None
    again, resumed = run(folder, tiny_dataset)
    assert (again, tiny.judged(resumed)) == (whole, judged)
    assert max(trained.values()) == 1


@pytest.mark.parametrize(
    ("request_", "fault"),
    [
        (
            {"all_steps": True},
            {**everything("confirm_"), ("temperature", "temperature 0.05"): (1, OUT_OF_MEMORY)},
        ),
        ({"num_seeds": 2}, {("seed_1", "AR-only"): (1, DISK_FULL)}),
    ],
)
def test_whatever_was_asked_for_a_resume_completes_it(
    request_, fault, folder, undisturbed, faults, trained, shapes_checked_before, tiny_dataset
) -> None:
    whole, judged, _ = undisturbed(**request_)
    trained.clear()
    faults.on = fault
    stop, journal = run(folder, tiny_dataset, **request_)
    assert faults.raised
    document = build_verdict(journal.events, resume=RESUME)
    assert set(faults.raised) <= {(one.step, one.arm) for one in document.absent}
    assert stop.verdict is not RunVerdict.NOT_FIXED or "num_seeds" in request_
    assert RESUME in " ".join(document.warnings)
    faults.on = {}
    again, resumed = run(folder, tiny_dataset, **request_)
    assert (again, tiny.judged(resumed)) == (whole, judged)
    if "num_seeds" in request_:
        models = resumed.events.last(Repeated).models
        assert {len(model.per_seed) for model in models.values()} == {2}
    assert max(trained.values()) == 1


def test_a_run_whose_files_changed_does_not_report_what_its_journal_does_not_say(
    folder, tiny_dataset, shapes_checked_before
) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _, journal = run(folder, tiny_dataset)
    before = list(read_journal(folder))
    confirmed = journal.events.of(Confirmed)[0]
    (folder / "arms" / confirmed.spec / "test.npz").unlink()
    with pytest.raises(
        ResumeError, match=r"cannot continue: confirmed has verdict .* in the journal"
    ):
        run(folder, tiny_dataset)
    assert list(read_journal(folder)) == before


def test_an_error_of_the_program_still_ends_a_run_in_this_process(
    folder, faults, shapes_checked_before, tiny_dataset
) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    faults.on = {("phase_1", "AR-only"): (0, AssertionError("a bug"))}
    with pytest.raises(AssertionError, match="a bug"):
        run(folder, tiny_dataset)


# --- in a trial of Ray ---------------------------------------------------------------------------


def records_of(monkeypatch, tmp_path, error):
    """Return what a trial reports whose arm raises."""

    def broken(spec, dataset):
        yield made.event(Epoch, epoch=1)
        raise error

    monkeypatch.setattr(shared, "run_trial", broken)
    spec = dataclasses.make_dataclass("Spec", ["folder"])(tmp_path)
    return list(shared.epochs_or_reason(spec, None))


@pytest.mark.parametrize(
    ("error", "reason"),
    [(DataError("x"), "not evaluable"), (NonFiniteLossError("nan"), "diverged")],
)
def test_a_trial_says_why_it_ended(error, reason, monkeypatch, tmp_path) -> None:
    *_, last = records_of(monkeypatch, tmp_path, error)
    assert last.reason == reason
    assert last.detail


@pytest.mark.parametrize(
    ("error", "detail"), [(OUT_OF_MEMORY, "CUDA out of memory"), (DISK_FULL, "no space left on")]
)
def test_what_the_place_is_to_blame_for_breaks_the_trial(
    error, detail, monkeypatch, tmp_path
) -> None:
    """Its arm may go well elsewhere, so the driver tries it again."""
    with pytest.raises(shared.ArmBroke, match=detail):
        records_of(monkeypatch, tmp_path, error)
