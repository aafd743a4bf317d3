"""A whole triage in this process: verdicts, kills at every kind of moment, arms that break."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pickle
import shutil
import threading
from collections import Counter
from pathlib import Path

import made
import numpy as np
import pytest
import tiny
import torch

from lvm.core.config.run import GateConfig, ScheduleConfig
from lvm.core.errors import CheckpointError, ClusterError, NonFiniteLossError
from lvm.core.records import Pool, RunVerdict, StopReason, Verdict
from lvm.evaluation.metrics import PerQuery, Ranks
from lvm.training import loop
from lvm.triage.arm import ArmSpec, arm_id, run_arm
from lvm.triage.events import (
    ArmEnded,
    ArmJudged,
    Confirmed,
    Epoch,
    Phase1Judged,
    RunStarted,
    StepEnded,
    StepStarted,
    TestJudged,
)
from lvm.triage.journal import Journal, read_run
from lvm.triage.judge import ArmResult, decisive, judge_gains, judge_stage, judge_step
from lvm.triage.local import LocalExecutor
from lvm.triage.race import Lane, Race
from lvm.triage.rungs import Ending
from lvm.triage.step import Role

CONFIG = tiny.config(base=tiny.recipe(**{"training.epochs": 2}), stage=0.3)
NUM_STEPS = 2


@pytest.fixture(autouse=True)
def one_thread():
    """Arms set the number of threads; give it back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@dataclasses.dataclass
class Moment:
    """What a kill leaves at one moment of a run."""

    folder: Path  # copy of the run folder
    trained: Counter  # epochs trained until then


# (number of an event, is it in the journal?). Of about 60 events: the ladder, phase 1, between its
# epochs, a rung, an ending, a confirmation.
KILLS = [
    (1, True),
    (3, False),
    (5, True),
    (8, True),
    (12, False),
    (17, True),
    (21, False),
    (26, True),
    (31, False),
    (37, True),
    (44, False),
]


@pytest.fixture(scope="module")
def kept(tmp_path_factory, tiny_dataset):
    """An uninterrupted run: its end, its journal, and what a kill would have left on the way."""
    folder, copies = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("moments")
    moments, numbers, trained = {}, itertools.count(1), Counter()

    def keep(*moment):
        copy = shutil.copytree(folder, copies / "-".join(map(str, moment)))
        moments[moment] = Moment(copy, trained.copy())

    def note(journal, event):
        number = next(numbers)
        for written in (False, True):
            if written:
                journal.append(event)
            if (number, written) in KILLS:
                keep(number, written)

    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        count_epochs(patch, trained)
        stop, journal = tiny.triage(folder, tiny_dataset, CONFIG, num_steps=NUM_STEPS, note=note)
    keep("end")
    torch.set_num_threads(threads)
    return stop, journal, moments


def count_epochs(patch, calls: Counter) -> None:
    """Count every epoch that is really trained, by folder."""
    real = loop._train_epoch

    def counted(state, epoch):
        calls[state.folder, epoch] += 1
        return real(state, epoch)

    patch.setattr(loop, "_train_epoch", counted)


@pytest.fixture(scope="module")
def whole(kept):
    """The end and the journal of an uninterrupted run."""
    return kept[:2]


def test_a_tiny_triage_runs_to_a_verdict(whole) -> None:
    stop, journal = whole
    assert stop.verdict in (RunVerdict.NOT_FIXED, RunVerdict.INCONCLUSIVE)
    ends = Counter(e.reason for e in journal.events.of(ArmEnded))
    assert ends["gate held"] >= 1  # this data takes every way an arm can go
    assert ends["pruned"] >= 1
    assert len(journal.events.of(Confirmed)) >= 1
    assert {e.step for e in journal.events.of(StepEnded)} == {"projection_head", "temperature"}
    # One judgement per arm and step, each with metrics from the journal's own epochs.
    epochs = {(e.arm, e.epoch): e for e in journal.events.of(Epoch)}
    for event in journal.events.of(ArmJudged):
        record = epochs[event.arm, event.epoch]
        assert event.evaluation.masked["eval_cosine"] == record.eval_cosine
        stage = event.stage
        too_early = record.stage == "FAIL" and "judged too early" in stage.reason
        assert stage.verdict == ("NOT_EVALUABLE" if too_early else record.stage)


def test_the_control_has_the_budget_and_the_recipe_of_its_arms(whole) -> None:
    _, journal = whole
    for started in journal.events.of(StepStarted):
        controls = [a for a in started.arms if a.role == "control"]
        if not started.step.startswith(("phase", "confirm")):
            (control,) = controls
            assert control.changes == {}
            for arm in started.arms:
                if arm.source is None:
                    assert arm.recipe.training == control.recipe.training
                    assert arm.recipe.seed == control.recipe.seed


class Killed(KeyboardInterrupt):
    """Stands for a kill."""


def kill_at(number, *, written):
    """Return a note that dies at its event `number`, after or before the journal has it."""
    count = 0

    def note(journal, event):
        nonlocal count
        count += 1
        if count == number and not written:
            raise Killed
        journal.append(event)
        if count == number:
            raise Killed

    return note


@pytest.fixture
def trained(monkeypatch):
    """Count every epoch that is really trained, by folder."""
    calls = Counter()
    count_epochs(monkeypatch, calls)
    return calls


@pytest.mark.parametrize(("number", "written"), KILLS)
def test_a_killed_run_goes_on_to_the_same_verdict(
    number, written, kept, trained, shapes_checked_before, tiny_dataset
) -> None:
    stop, journal, moments = kept
    moment, folder = moments[number, written], journal.folder
    put_back(moment, folder)
    assert len(Journal(folder).events) == number + written  # run_started is one more
    again, resumed = tiny.triage(folder, tiny_dataset, CONFIG, num_steps=NUM_STEPS)
    assert again == stop
    assert tiny.judged(resumed) == tiny.judged(journal)
    assert len(resumed.events.of(ArmJudged)) == len(journal.events.of(ArmJudged))
    assert trained + moment.trained  # something was counted
    assert max((trained + moment.trained).values()) == 1  # no finished epoch was trained again


def put_back(moment: Moment, folder: Path) -> None:
    """Make a run folder what it was; its journal names the folder, so no other place will do."""
    shutil.rmtree(folder)
    shutil.copytree(moment.folder, folder)


def _without_folders(judged):
    """The identity of a searched checkpoint holds its path, which differs between two runs."""
    ids = ("arm", "spec")
    return [
        {k: v for k, v in event.items() if k not in ids or event["event"] == "decision"}
        for event in judged.values()
    ]


def test_a_run_killed_again_and_again_gets_there(
    whole, trained, shapes_checked_before, tiny_dataset, tmp_path
) -> None:
    stop, journal = whole
    for number in range(40):
        note = kill_at(5, written=number % 2 == 0)
        try:
            again, resumed = tiny.triage(
                tmp_path, tiny_dataset, CONFIG, num_steps=NUM_STEPS, note=note
            )
        except Killed:
            continue
        break
    assert again == stop
    assert number >= 8  # it was killed
    assert _without_folders(tiny.judged(resumed)) == _without_folders(tiny.judged(journal))
    assert max(trained.values()) == 1


def test_a_finished_run_that_is_resumed_writes_nothing_and_trains_nothing(
    kept, trained, tiny_dataset
) -> None:
    stop, journal, moments = kept
    put_back(moments["end",], journal.folder)
    before = Journal(journal.folder).events
    again, resumed = tiny.triage(journal.folder, tiny_dataset, CONFIG, num_steps=NUM_STEPS)
    assert again == stop
    assert resumed.events == before == read_run(journal.folder)
    assert not trained


def test_an_arm_that_had_the_full_budget_is_confirmed_without_training_it_again(
    tiny_dataset, trained, tmp_path
) -> None:
    """Step and confirmation then name the same arm; only its test results are still to be made."""
    schedule = dataclasses.replace(CONFIG.schedule, first_rung=2)
    config = dataclasses.replace(CONFIG, schedule=schedule)
    _, journal = tiny.triage(tmp_path, tiny_dataset, config, num_steps=1)
    (confirmed,) = journal.events.of(Confirmed)
    arm = journal.events.last(ArmJudged, arm=confirmed.spec, step="projection_head")
    assert (arm.reason, arm.epoch) == ("gate held", 2)
    assert journal.events.last(TestJudged, arm=confirmed.spec).role == "confirm"
    assert max(trained.values()) == 1


def test_an_arm_that_diverges_ends_alone_and_the_step_goes_on(
    tiny_dataset, monkeypatch, tmp_path
) -> None:
    real = loop.objective

    def poisoned(recipe, outputs, world):
        result = real(recipe, outputs, world)
        if recipe.objective.temperature == 0.10:
            return dataclasses.replace(result, total=result.total * float("nan"))
        return result

    monkeypatch.setattr(loop, "objective", poisoned)
    stop, journal = tiny.triage(tmp_path, tiny_dataset, CONFIG, num_steps=NUM_STEPS)
    (ended,) = (e for e in journal.events.of(ArmEnded) if e.reason == "diverged")
    assert (ended.name, ended.epoch) == ("temperature 0.10", 0)
    assert "the loss is nan" in ended.detail
    judged = journal.events.last(ArmJudged, name="temperature 0.10")
    assert judged.stage.verdict == "NOT_EVALUABLE"
    assert judged.evaluation is None
    others = [e for e in journal.events.of(ArmJudged) if e.step == "temperature"]
    assert {e.reason for e in others} >= {"diverged", "finished"}
    assert journal.events.last(StepEnded, step="temperature").stage == "INCONCLUSIVE"
    assert stop.verdict in (RunVerdict.NOT_FIXED, RunVerdict.INCONCLUSIVE)


def test_a_base_recipe_that_diverges_leaves_phase_1_not_evaluable(
    tiny_dataset, monkeypatch, tmp_path
) -> None:
    def nothing(recipe, outputs, world):
        raise NonFiniteLossError("the loss is nan")

    monkeypatch.setattr(loop, "objective", nothing)
    stop, journal = tiny.triage(tmp_path, tiny_dataset, CONFIG, num_steps=0)
    assert journal.events.last(Phase1Judged).verdict == "NOT_EVALUABLE"
    assert stop.verdict is RunVerdict.INCONCLUSIVE


def test_an_arm_whose_folder_holds_something_else_is_not_evaluable(tiny_dataset, tmp_path) -> None:
    journal = Journal(tmp_path)
    journal.append(made.event(RunStarted))
    specs = [make_spec(tmp_path, "good", Role.ARM), make_spec(tmp_path, "bad", Role.ARM, seed=1)]
    other = tiny.recipe(**{"training.epochs": 1})
    for _ in loop.train(other, tiny_dataset, specs[1].folder, validate=lambda p, e: {}):
        pass
    race = Race("s", specs, journal.append, epochs=[3], schedule=ScheduleConfig())
    LocalExecutor().run(race, tiny_dataset)
    reasons = [race.lanes[spec.id].ending.reason for spec in specs]
    assert reasons == [StopReason.FINISHED, StopReason.NOT_EVALUABLE]
    assert "another recipe" in race.lanes[specs[1].id].detail


# --- one arm -------------------------------------------------------------------------------------


def make_spec(folder, name, role, *, seed=0, **changes) -> ArmSpec:
    recipe = tiny.recipe(seed=seed, **changes)
    identity = arm_id(recipe, data="data", code="code")
    return ArmSpec(
        id=identity,
        step="s",
        name=name,
        role=role,
        recipe=recipe,
        folder=folder / identity,
        gates=GateConfig(),
    )


def test_a_spec_survives_its_way_to_a_trial(tmp_path) -> None:
    spec = dataclasses.replace(
        make_spec(tmp_path, "x", Role.ARM), source=tmp_path / "c", changes={"seed": 1}
    )
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_the_name_of_an_arm_depends_on_all_that_decides_its_numbers() -> None:
    recipe = tiny.recipe()
    names = {
        arm_id(recipe, data="d", code="c"),
        arm_id(recipe.with_changes({"seed": 1}), data="d", code="c"),
        arm_id(recipe, data="e", code="c"),
        arm_id(recipe, data="d", code="e"),
        arm_id(recipe, data="d", code="c", source="x"),
        arm_id(recipe, data="d", code="c", workers=2),
    }
    assert len(names) == 6
    assert arm_id(tiny.recipe(), data="d", code="c") in names


def test_a_trained_checkpoint_that_is_searched_again_gives_the_same_numbers(
    tiny_dataset, tmp_path
) -> None:
    spec = dataclasses.replace(make_spec(tmp_path, "x", Role.PHASE1), evaluate_test=True)
    *_, last = run_arm(spec, tiny_dataset)
    searched = dataclasses.replace(
        spec, source=spec.folder / "checkpoint", folder=tmp_path / "searched"
    )
    (record,) = run_arm(searched, tiny_dataset)
    assert record.epoch == 0
    for key in ("eval_cosine", "r_at_5", "mrr", "stage"):
        assert getattr(record, key) == getattr(last, key)
    one, two = (json.loads((s.folder / "test.json").read_text()) for s in (spec, searched))
    assert one["evaluation"]["masked"] == two["evaluation"]["masked"]


def test_a_folder_that_is_no_checkpoint_is_refused(tiny_dataset, tmp_path) -> None:
    spec = dataclasses.replace(make_spec(tmp_path, "x", Role.ARM), source=tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        next(run_arm(spec, tiny_dataset))


# --- judging by hand-made results ----------------------------------------------------------------

ARTICLES = np.repeat(np.arange(12), 10)
GATES = GateConfig()
POOL = Pool(id="p", size=500, mask="own contexts")


def results(cosine: float, greater: int) -> PerQuery:
    """Every window at one cosine, with `greater` rows above the target but for a little noise."""
    rng = np.random.default_rng(greater)
    above = np.maximum(greater + rng.integers(-2, 3, size=len(ARTICLES)), 0).astype(np.int64)
    ranks = Ranks(above, np.zeros_like(above), np.full_like(above, 500))
    noise = rng.normal(0, 0.01, size=len(ARTICLES))
    return PerQuery(
        cosine=np.asarray(cosine + noise, dtype=np.float32),
        masked=ranks,
        raw=ranks,
        articles=ARTICLES,
        space="raw",
        pool=POOL,
    )


def arm(name, cosine, greater, reason=StopReason.FINISHED, folder=None) -> ArmResult:
    spec = ArmSpec(
        id=name,
        step="s",
        name=name,
        role=Role.ARM,
        recipe=tiny.recipe(),
        folder=folder or Path("unused"),
        gates=GATES,
    )
    lane = Lane(spec, ending=Ending(reason=reason, epoch=3))
    return ArmResult(lane=lane, dev=results(cosine, greater))


def judge(arms, control):
    gains = judge_gains(arms, {a.spec.id: control for a in arms}, GATES, 0)
    stages = {a.spec.id: judge_stage(a, 0).verdict for a in arms}
    return judge_step(arms, stages, gains), stages, gains


def test_an_arm_that_fails_on_cosine_and_wins_at_r_at_5_is_a_conflict() -> None:
    control = results(0.25, 40)
    arms = [arm("wins", 0.10, 2), arm("same", 0.20, 40), arm("worse", 0.10, 200)]
    judged, stages, _ = judge(arms, control)
    assert set(stages.values()) == {Verdict.FAIL}
    assert judged.conflicts == ["wins"]
    assert judged.kept.spec.name == "wins"  # later steps start from it
    assert judged.candidate is None
    assert judged.stage is Verdict.FAIL


def test_a_gain_in_mrr_alone_is_kept_but_is_no_conflict() -> None:
    judged, _, gains = judge([arm("nearer", 0.10, 10)], results(0.25, 40))
    verdicts = {g.metric: g.verdict for g in gains["nearer"]}
    assert verdicts["mrr"] is Verdict.PASS
    assert verdicts["r_at_5"] is not Verdict.PASS
    assert judged.kept.spec.name == "nearer"
    assert judged.conflicts == []


def test_an_arm_that_holds_the_gate_and_wins_is_confirmed_and_kept() -> None:
    arms = [arm("low", 0.10, 2), arm("high", 0.60, 2), arm("higher", 0.90, 20)]
    judged, _, _ = judge(arms, results(0.25, 40))
    assert judged.stage is Verdict.PASS
    assert judged.candidate.spec.name == "high"  # MRR decides among those that hold, not cosine
    assert judged.kept is judged.candidate
    assert judged.conflicts == ["low"]


def test_a_pruned_arm_is_never_the_candidate_and_still_may_conflict() -> None:
    arms = [arm("cut", 0.60, 1, StopReason.PRUNED), arm("cut low", 0.1, 1, StopReason.PRUNED)]
    judged, stages, _ = judge(arms, results(0.25, 40))
    assert judged.candidate is None
    assert stages["cut"] is Verdict.PASS
    assert judged.conflicts == ["cut low"]


def test_holm_over_a_step_asks_more_of_each_arm() -> None:
    """One arm whose gain is just clear alone is not clear beside others that were tried as well."""
    control = results(0.25, 40)
    near = np.full(len(ARTICLES), 40, dtype=np.int64)
    near[[1, 22, 23, 44, 55, 66, 67, 88]] = 0
    ranks = Ranks(near, np.zeros_like(near), np.full_like(near, 500))
    dev = dataclasses.replace(results(0.1, 40), masked=ranks, raw=ranks)
    slight = ArmResult(lane=arm("slight", 0.1, 40).lane, dev=dev)
    alone, _, gains = judge([slight], control)
    p_values = [g.p_value for g in decisive(gains["slight"])]
    assert all(0.025 / 12 < p <= 0.025 / 2 for p in p_values), p_values
    assert alone.kept.spec.name == "slight"
    nulls = [arm(f"null {i}", 0.1, 40 + i) for i in range(5)]
    beside, _, gains = judge([slight, *nulls], control)
    assert [g.p_value for g in decisive(gains["slight"])] == p_values
    assert all(g.verdict is Verdict.INCONCLUSIVE for g in decisive(gains["slight"]))
    assert all(g.num_tests == 12 for g in decisive(gains["slight"]))
    assert "not after correction for 12 comparisons" in gains["slight"][0].reason
    assert beside.kept is None
    later = judge_gains([slight], {"slight": control}, GATES, 0, looks=6)
    assert all(g.verdict is Verdict.INCONCLUSIVE for g in decisive(later["slight"]))


def test_a_gain_in_cosine_is_shown_and_keeps_nothing() -> None:
    judged, _, gains = judge([arm("warmer", 0.30, 40)], results(0.25, 40))
    assert [g.metric for g in gains["warmer"]] == ["r_at_5", "mrr", "eval_cosine"]
    assert gains["warmer"][-1].verdict is Verdict.PASS
    assert judged.kept is None


def test_a_report_survives_what_tune_makes_of_a_result() -> None:
    """Flat, what a training measured of itself was lost on Ray: none was ever judged too early."""
    from ray.tune.utils.util import flatten_dict

    from lvm.triage.on_ray.reports import (
        KEY,
        Ended,
        Over,
        Started,
        Workers,
        from_result,
        to_text,
    )

    epoch = made.event(
        Epoch, epoch=2, health={"updates": 58.0}, negatives={"random": 0.5}, strain=0.25
    )
    signs = (
        Started(node="n", pid=1, facts={"code": "c"}),
        Workers(waits=True),
        Workers(waits=False, facts={"code": "c"}, placement_group="ab"),
        Ended(reason=StopReason.DIVERGED, detail="nan"),
        Over(),
    )
    for report in (epoch, *signs):
        result = {KEY: to_text(report), "config": {"task": {}}, "pid": 1, "trial_id": "t"}
        assert from_result(flatten_dict(result)) == report


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"report": "no JSON"},
        {"report": '{"event": "tea"}'},
        {"report": '{"event": "epoch", "arm": "a", "step": "s", "name": "n"}'},
    ],
)
def test_what_is_no_report_is_refused_in_a_sentence(result) -> None:
    from lvm.triage.on_ray.reports import from_result

    with pytest.raises(ClusterError, match="a trial sent a report that this version cannot read"):
        from_result(result)


def test_what_tune_prints_for_itself_is_not_part_of_the_answer(capsys) -> None:
    """Tune and Ray print in threads of their own; a resume line may come while both still live."""
    from lvm.triage.on_ray.quiet import silenced

    with silenced():
        tune = threading.Thread(target=print, args=("Trial _trial_1 completed. Last result:",))
        tune.start()
        tune.join()
        print("interrupted; continue with: ...")
    assert capsys.readouterr().out == "interrupted; continue with: ...\n"
